"""Patch grids: cells are at the positions of their formula and cover the slide, without accumulated rounding."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from histomake.config import Grid
from histomake.patch.grid import SlideGrid
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import sample_records

grids = st.builds(
    Grid,
    size=st.sampled_from([64, 224, 256, 512]),
    mpp=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    stride=st.one_of(st.none(), st.sampled_from([64, 100, 256, 700])),
)
slide_grids = st.builds(
    SlideGrid,
    width=st.integers(1, 60_000),
    height=st.integers(1, 60_000),
    mpp=st.sampled_from([0.11, 0.2527, 0.499, 1.0, 29.0]),
    grid=grids,
)


@given(slide_grids)
def test_cell_i_starts_at_the_rounded_multiple_of_the_stride(slide_grid):
    grid = slide_grid.grid
    columns, _ = slide_grid.axes()
    step = (grid.stride or grid.size) * grid.mpp / slide_grid.mpp
    assert slide_grid.step == step
    if step >= 1:
        assert columns.tolist() == [math.floor(i * step + 0.5) for i in range(columns.size)]


@given(slide_grids)
def test_cells_are_sorted_by_y_then_x_and_are_the_product_of_the_axes(slide_grid):
    columns, rows = slide_grid.axes()
    assume(rows.size * columns.size < 20_000)
    x, y = slide_grid.cells()
    assert x.dtype == y.dtype == np.int32
    assert list(zip(y, x, strict=True)) == [(b, a) for b in rows for a in columns]


@given(slide_grids)
def test_every_pixel_of_the_slide_lies_in_a_cell_when_the_stride_is_the_size(slide_grid):
    slide_grid = replace(slide_grid, grid=slide_grid.grid.model_copy(update={"stride": None}))
    columns, _ = slide_grid.axes()
    gaps = np.diff(columns) - slide_grid.span
    assert columns[0] == 0
    assert np.all(gaps <= 1)
    assert columns[-1] + slide_grid.span >= slide_grid.width - 1


@given(slide_grids)
def test_middles_of_overlapping_patches_tile_the_slide_and_others_are_the_whole_patch(slide_grid):
    offset, edge = slide_grid.middle
    assert offset + edge / 2 == pytest.approx(slide_grid.span / 2)
    if slide_grid.step >= slide_grid.span:
        assert (offset, edge) == (0, slide_grid.span)
    else:
        columns, _ = slide_grid.axes()
        assume(slide_grid.step >= 1)
        assert np.all(np.abs(np.diff(columns) - edge) <= 1)


@given(slide_grids)
def test_every_start_is_inside_the_slide(slide_grid):
    columns, rows = slide_grid.axes()
    assert columns.max() < slide_grid.width
    assert rows.max() < slide_grid.height


@given(slide_grids)
def test_only_cells_that_reach_past_the_slide_are_over_its_edge(slide_grid):
    lengths = (slide_grid.width, slide_grid.height)
    for starts, over, length in zip(slide_grid.axes(), slide_grid.over_edge(), lengths, strict=True):
        ends = starts + slide_grid.span
        assert np.all(ends[over] > length)
        assert np.all(ends[~over] < length + 0.5)


def test_a_slide_of_100k_has_152_thousand_cells_of_256():
    x, _ = SlideGrid(100_000, 100_000, 0.25, Grid(size=256, mpp=0.25)).cells()
    assert x.size == 391**2 == 152_881


def test_the_span_of_a_patch_follows_the_slides_mpp():
    grid = Grid(size=256, mpp=0.5)
    assert SlideGrid(1000, 1000, 0.25, grid).span == 512
    assert SlideGrid(1000, 1000, 0.499, grid).span == pytest.approx(256.513, abs=1e-3)


def test_the_record_of_a_patch_table_names_its_grid():
    grid = Grid(size=128, mpp=0.5, stride=64)
    found = SlideGrid.of_table(sample_records.patch_table(width=900, height=700, mpp=0.25, grid=grid))
    assert (found.width, found.height, found.span, found.step, found.scale) == (900, 700, 256, 128, 2)
