"""Owns the proof of the grid maths: cells lie where their formula says, cover the slide, and never drift."""

from __future__ import annotations

import math

import numpy as np
import pytest
from histomake.config import Grid
from histomake.patch.grid import axes, cells, middle, over_edge, span
from hypothesis import assume, given
from hypothesis import strategies as st

slides = st.tuples(st.integers(1, 60_000), st.integers(1, 60_000), st.sampled_from([0.11, 0.2527, 0.499, 1.0, 29.0]))
grids = st.builds(
    Grid,
    size=st.sampled_from([64, 224, 256, 512]),
    mpp=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    stride=st.one_of(st.none(), st.sampled_from([64, 100, 256, 700])),
)


@given(slides, grids)
def test_cell_i_starts_at_the_rounded_multiple_of_the_stride(slide, grid):
    width, height, mpp0 = slide
    columns, _ = axes(width, height, mpp0, grid)
    step = (grid.stride or grid.size) * grid.mpp / mpp0
    if step >= 1:
        assert columns.tolist() == [math.floor(i * step + 0.5) for i in range(columns.size)]


@given(slides, grids)
def test_cells_are_sorted_by_y_then_x_and_are_the_product_of_the_axes(slide, grid):
    width, height, mpp0 = slide
    columns, rows = axes(width, height, mpp0, grid)
    assume(rows.size * columns.size < 200_000)
    x, y = cells(width, height, mpp0, grid)
    assert x.dtype == y.dtype == np.int32
    assert list(zip(y, x, strict=True)) == [(b, a) for b in rows for a in columns]


@given(slides, grids)
def test_every_pixel_of_the_slide_lies_in_a_cell_when_the_stride_is_the_size(slide, grid):
    width, height, mpp0 = slide
    grid = grid.model_copy(update={"stride": None})
    columns, _ = axes(width, height, mpp0, grid)
    length = span(grid, mpp0)
    gaps = np.diff(columns) - length
    assert columns[0] == 0
    assert np.all(gaps <= 1)
    assert columns[-1] + length >= width - 1


@given(slides, grids)
def test_middles_of_overlapping_patches_tile_the_slide_and_others_are_the_whole_patch(slide, grid):
    width, height, mpp0 = slide
    offset, edge = middle(grid, mpp0)
    assert offset + edge / 2 == pytest.approx(span(grid, mpp0) / 2)
    if (grid.stride or grid.size) >= grid.size:
        assert (offset, edge) == (0, span(grid, mpp0))
    else:
        columns, _ = axes(width, height, mpp0, grid)
        assume((grid.stride * grid.mpp / mpp0) >= 1)
        assert np.all(np.abs(np.diff(columns) - edge) <= 1)


@given(slides, grids)
def test_every_start_is_inside_the_slide(slide, grid):
    width, height, mpp0 = slide
    columns, rows = axes(width, height, mpp0, grid)
    assert columns.max() < width
    assert rows.max() < height


@given(slides, grids)
def test_only_cells_that_reach_past_the_slide_are_over_its_edge(slide, grid):
    width, height, mpp0 = slide
    columns, _ = axes(width, height, mpp0, grid)
    over = over_edge(columns, width, mpp0, grid)
    ends = columns + span(grid, mpp0)
    assert np.all(ends[over] > width)
    assert np.all(ends[~over] < width + 0.5)


def test_a_slide_of_100k_has_152_thousand_cells_of_256():
    x, _ = cells(100_000, 100_000, 0.25, Grid(size=256, mpp=0.25))
    assert x.size == 391**2 == 152_881


def test_the_span_of_a_patch_follows_the_slides_mpp():
    assert span(Grid(size=256, mpp=0.5), 0.25) == 512
    assert span(Grid(size=256, mpp=0.5), 0.499) == pytest.approx(256.513, abs=1e-3)
