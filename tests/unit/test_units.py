"""Units: lengths are rescaled exactly, and no signature lets a bare number pass for a unit."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from histomake.base import units
from histomake.base.units import rescale

LIBRARY = Path(units.__file__).parents[1]
UNITS = {"Level0Pixels", "PatchPixels", "Microns", "Mpp"}


@pytest.mark.parametrize(("length", "mpp", "to", "expected"), [(256, 0.5, 0.25, 512), (1, 0.25, 0.5, 0.5)])
def test_a_length_in_pixels_grows_as_pixels_get_smaller(length, mpp, to, expected):
    assert rescale(length, mpp, to) == expected


def test_no_annotation_accepts_a_unit_or_a_bare_number():
    """A type checker accepts any number for ``Mpp | float``, so such an annotation would check nothing."""
    assert all(hasattr(units, name) for name in UNITS)
    for file in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
                names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                assert not (names & UNITS and names & {"int", "float"}), f"{file}:{node.lineno}"
