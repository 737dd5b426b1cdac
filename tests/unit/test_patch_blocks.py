"""The order of patches in which batches hold neighbours."""

from __future__ import annotations

import numpy as np
from histomake.patch.blocks import block_order
from hypothesis import given
from hypothesis import strategies as st


def test_a_batch_of_a_full_grid_is_a_square() -> None:
    y, x = (np.ravel(part) * 256 for part in np.mgrid[:6, :9])
    for block in block_order(x, y, 9).reshape(-1, 9):
        assert np.ptp(x[block]) == np.ptp(y[block]) == 2 * 256


def test_bands_go_by_rows_of_the_grid_whatever_their_distance() -> None:
    y, x = (np.ravel(part) for part in np.meshgrid([0, 100, 900, 901], [0, 5], indexing="ij"))
    assert list(zip(y[block_order(x, y, 4)].tolist(), x[block_order(x, y, 4)].tolist(), strict=True)) == [
        *[(0, 0), (100, 0), (0, 5), (100, 5)],
        *[(900, 0), (901, 0), (900, 5), (901, 5)],
    ]


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), unique=True), st.integers(1, 70))
def test_every_patch_is_read_once(places: list[tuple[int, int]], batch: int) -> None:
    x, y = np.array(places, np.int64).reshape(-1, 2).T
    assert sorted(block_order(x, y, batch).tolist()) == list(range(len(places)))
