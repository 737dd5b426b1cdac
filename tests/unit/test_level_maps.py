"""Tests of the image of a cascade: colours and positions of every level, scale bar and legend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from cascade_slide import MPP, DiscReader
from histomake.base.records.cascade_cost import LevelShares
from histomake.pictures import canvas, level_maps
from histomake.pictures.level_maps import COLOURS, OUTLINE
from histomake.viewer.masks import CASCADE_ORDER

from tests import sample_records

SIDE = 400
ONE = LevelShares(level=1, mpp=MPP, pixels=SIDE**2, computed=0.25, accepted=0.0, rejected=0.75, blocks=1)
TWO = LevelShares(level=2, mpp=2 * MPP, pixels=SIDE**2 // 4, computed=0.5, accepted=0.25, rejected=0.25, blocks=1)
RECORD = sample_records.nuclei("S.1-a", nuclei=1, saved=0.75, levels=[ONE, TWO])


@pytest.fixture
def drawn(tmp_path: Path) -> np.ndarray:
    """A slide with one nucleus in its upper left quarter; level 2 computed its upper half and accepted a quarter."""
    group = zarr.open_group(tmp_path / "s.zarr", mode="w")
    labels, one = np.zeros((SIDE, SIDE), np.uint32), np.zeros((SIDE, SIDE), np.uint8)
    labels[60:120, 60:120] = 7
    one[: SIDE // 2, : SIDE // 2] = 1
    two = np.zeros((SIDE // 2, SIDE // 2), np.uint8)
    two[: SIDE // 4], two[SIDE // 4 :, : SIDE // 4] = 1, 2
    for name, values in (("labels", labels), ("state1", one), ("state2", two)):
        group.create_array(name, data=values)
    return level_maps.level_maps(DiscReader(np.full((SIDE, SIDE, 3), 250, np.uint8)), tmp_path / "s.zarr", RECORD)


def area(picture: np.ndarray, colour: canvas.Colour) -> int:
    return int((picture == colour).all(axis=2).sum())


def test_the_area_of_each_colour_equals_the_share_of_the_state(drawn):
    whole, swatches = SIDE * SIDE, 2 * (canvas.FONT_PX + 2) ** 2
    for state, share in ((1, 0.25 + 0.5), (2, 0.25), (0, 0.75 + 0.25)):
        assert area(drawn, COLOURS[state]) == pytest.approx(share * whole, abs=2 * swatches)


def test_the_nucleus_is_outlined_at_its_position_and_not_filled(drawn):
    green = area(drawn, OUTLINE)
    assert 4 * 50 < green < 4 * 80 + (canvas.FONT_PX + 2) ** 2


def test_every_panel_has_a_scale_bar_of_at_most_a_fifth_of_its_width(drawn):
    um = canvas.round_length(SIDE * MPP / 5)
    dark = (drawn == canvas.TEXT).all(axis=2)
    runs = [len(run) for row in dark for run in "".join("#" if v else " " for v in row).split() if len(run) > 30]
    assert set(runs) == {round(um / MPP)}


def test_a_gigapixel_array_is_read_at_about_the_drawn_resolution():
    vast = np.broadcast_to(np.uint8(0), (50_000, 60_000))
    assert level_maps._coarsely(vast, 600).shape == (1000, 1200)


def test_the_viewer_uses_the_same_colours_for_states():
    colours = canvas.class_colours(CASCADE_ORDER)
    assert (colours["accepted"], colours["computed"]) == (COLOURS[2], COLOURS[1])
    assert colours["nucleus"] == OUTLINE
