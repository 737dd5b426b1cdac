"""Reading of NumPy array files."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.base.npy import map_npy

LENGTH_OF_HEADER = 8
"""Position of the low byte of the header's length in a file."""


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(60_000, dtype=np.uint8).reshape(100, 200, 3))
    return tmp_path / "a.npy"


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_mapped_as_it_was_saved(order, tmp_path):
    array = np.asarray(np.arange(60_000).reshape(100, 200, 3), order=order)
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(map_npy(tmp_path / "a.npy"), array)


def test_a_shortened_header_is_refused_since_the_pixels_would_begin_in_it(path):
    content = bytearray(path.read_bytes())
    content[LENGTH_OF_HEADER] = 68
    path.write_bytes(content)
    with pytest.raises(ValueError, match="the header states 60078 bytes, but the file has 60128"):
        map_npy(path)


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0"])
def test_a_file_of_another_length_than_stated_is_refused(change, path):
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"greater than file size|but the file has"):
        map_npy(path)
