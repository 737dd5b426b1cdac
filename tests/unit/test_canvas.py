"""Tests of drawing on thumbnails: position of overlays, length of the scale bar, and empty input."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from histomake.annotation.model import Annotation
from histomake.config import Grid
from histomake.pictures import canvas, class_views, panel, views
from histomake.pictures.findings import SlideFindings
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import sample_records

SPAN = 256.0
DICTIONARY = pa.dictionary(pa.int32(), pa.string())


class WhiteSlide:
    """Replacement for a reader: 4,000 x 3,000 level-0 pixels at 0.5 µm per pixel, all white."""

    mpp, width, height = 0.5, 4000, 3000

    def read_whole(self, mpp: float) -> np.ndarray:
        factor = self.mpp / mpp
        return np.full((int(np.ceil(self.height * factor)), int(np.ceil(self.width * factor)), 3), 255, np.uint8)


def findings(predicted, label, scores=None, annotation=None) -> SlideFindings:
    """Return two patches in a row, of the classes skin and nuclei."""
    count = len(predicted)
    scores = scores or [1.0 if name == "nuclei" else 0.0 for name in predicted]
    table = pa.table(
        {
            "x": pa.array(np.arange(count) * 256, pa.int32()),
            "y": pa.array(np.zeros(count), pa.int32()),
            "score_skin": pa.array(1 - np.array(scores, np.float32)),
            "score_nuclei": pa.array(np.array(scores, np.float32)),
            "predicted": pa.array(predicted, pa.string()).cast(DICTIONARY),
            "label": pa.array(label, pa.string()).cast(DICTIONARY),
        }
    )
    return SlideFindings(
        reader=WhiteSlide(),
        table=sample_records.patch_table(width=4000, height=3000, grid=Grid(size=128, mpp=1.0)),
        model=sample_records.model_card(),
        predictions=table,
        annotation=annotation or Annotation(("nuclei", "skin"), []),
    )


def colour_share(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 2) -> float:
    return float((np.abs(pixels.astype(int) - colour).max(axis=2) <= tolerance).mean())


@settings(deadline=None)
@given(x=st.integers(0, 3000), y=st.integers(0, 2000), scale=st.floats(8.0, 60.0))
def test_a_painted_patch_is_at_most_half_a_pixel_off(x, y, scale):
    thumb = canvas.Thumbnail(np.full((int(3300 / scale), int(4000 / scale), 3), 255, np.uint8), scale / 2, scale)
    patches = canvas.Patches(np.array([x]), np.array([y]), SPAN)
    painted = canvas.paint_patches(thumb, thumb.pixels, patches, np.zeros((1, 3), np.uint8), opacity=1.0)
    rows, columns = np.flatnonzero((painted == 0).all(2).any(1)), np.flatnonzero((painted == 0).all(2).any(0))
    found = [columns[0], columns[-1] + 1, rows[0], rows[-1] + 1]
    limit = [thumb.pixels.shape[1], thumb.pixels.shape[1], thumb.pixels.shape[0], thumb.pixels.shape[0]]
    exact = np.minimum(np.array([x, x + SPAN, y, y + SPAN]) / scale, limit)
    assert np.abs(found - exact).max() <= 0.5 + 1e-9


@given(st.floats(1e-2, 1e6))
def test_a_round_length_fits_and_is_at_least_two_fifths_of_the_available_length(length):
    found = canvas.round_length(length)
    assert 0.4 * length - 1e-9 <= found <= length * (1 + 1e-6)
    assert f"{found:.0e}"[0] in "125"


def test_the_scale_bar_has_the_stated_length():
    picture = canvas.with_scale_bar(np.full((300, 600, 3), 255, np.uint8), 2.0)
    bar = (picture[300 + 10] == canvas.TEXT).all(axis=1)
    assert np.flatnonzero(np.diff(bar.astype(int)))[0] + 1 == 100  # 200 µm at 2 µm/px
    assert (picture[:300] == 255).all()


def test_labels_of_a_coarser_mask_are_drawn_on_the_pixels_they_cover():
    thumb = canvas.Thumbnail(np.full((300, 400, 3), 255, np.uint8), 5.0, 10.0)
    labels = np.zeros((30, 40), np.uint8)
    labels[10:20, 5:15] = 1
    spread = canvas.spread(thumb, labels, (100.0, 100.0))
    painted = canvas.paint_labels(thumb.pixels, spread, {1: (0, 0, 0)})
    changed = (painted != 255).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert abs(rows[0] - 100) <= 1
    assert abs(rows[-1] - 199) <= 1
    assert abs(columns[0] - 50) <= 1
    assert abs(columns[-1] - 149) <= 1


def test_the_first_colours_differ_with_a_colour_deficiency():
    machado_2009 = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    seen = (np.array(canvas.PALETTE[:5]) / 255) ** 2.2 @ machado_2009.T
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(5, 1)]
    assert distances.min() > 0.1


def test_errors_are_coloured_by_type():
    found = findings(["nuclei", "skin", "skin", "nuclei"], ["nuclei", "nuclei", "skin", "skin"])
    thumb = canvas.thumbnail(found.reader, 4.0)
    picture = panel.arranged(class_views.truth(found, thumb))
    for colour in (canvas.RIGHT, canvas.MISSED, canvas.FALSE_ALARM):
        assert colour_share(picture, colour) > 0


def test_equal_predictions_and_a_slide_without_patches_are_drawn():
    for found in (findings(["skin"] * 3, ["skin"] * 3, [0.5, 0.5, 0.5]), findings([], [])):
        thumb = canvas.thumbnail(found.reader, 4.0)
        for paint in class_views.PAINTERS.values():
            assert panel.arranged(paint(found, thumb)).shape[2] == 3


def test_every_view_of_a_quarantined_slide_states_the_reason(tmp_path):
    out = {view: tmp_path / f"{view}.png" for view in ("prediction", "truth")}
    views.draw_quarantine(sample_records.lost(), out)
    assert all(path.stat().st_size > 500 for path in out.values())


@pytest.mark.parametrize("width", [300, 900])
def test_long_legends_are_wrapped(width):
    entries = {f"a class with a long name {i}": canvas.PALETTE[i] for i in range(6)}
    picture = canvas.with_legend(np.full((50, width, 3), 255, np.uint8), "title", entries)
    for colour in entries.values():
        assert colour_share(picture, colour, 0) > 0
