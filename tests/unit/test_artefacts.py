"""Tests of the artefact detectors: detected and wrongly detected areas of synthetic artefacts on real tissue.

Detected share of the artefact's area, measured on CMU-1 at 2 µm (nothing was wrongly detected elsewhere):

    pen, nearly opaque   green 1.00, blue 0.97, black 1.00, red 1.00 (4 strokes each, over glass, stroma, epidermis)
    pen, translucent     green 0.39 (the part on glass), blue 0.00
    defocus by sigma     1.5 µm 0.71, 2 µm 0.77, 4 µm 0.72, 10 µm 0.67 (5 discs each, all detected except their rims)
    folds                60 µm wide 0.57, 100 µm 0.69, 160 µm 0.70 (4 strips each, all detected except thin-on-thin
                         tissue)

`make bench BENCH=tissue` measures all of them; the tests assert lower bounds for some.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from array_reader import ArrayReader
from histomake.base.errors import Reason, SlideError
from histomake.base.records.record import Quarantined
from histomake.config import Quality, Tissue
from histomake.tissue.artefacts import BLUR, FOLD, PEN, ArtefactMap, assess, save_no_quality
from histomake.tissue.mask import presegment
from PIL import Image
from scenes import INKS, MPP, cmu, defocused, faint, folded, frozen, inked, large_piece, two_pieces, unscanned_border

STROKES = [((300, 100), (1500, 1100)), ((200, 650), (1700, 650)), ((950, 50), (950, 1350)), ((1600, 300), (500, 1150))]
DISCS = [(500, 500), (900, 650), (1300, 500), (700, 850), (1200, 850)]


def judge(image, **keys):
    reader = ArrayReader(image, MPP)
    tissue = presegment(reader, Tissue(), slide_id="s1")
    return tissue, assess(reader, tissue, Quality(**keys))


def rates(image, where, label) -> tuple[float, float]:
    """Return the detected share of the artefact on tissue (of a pen: anywhere), and of the other tissue.

    A band of 60 µm around the artefact is left out, because its edge is soft.
    """
    tissue, artefacts = judge(image)
    size = tissue.mask.shape[::-1]
    inside = cv2.resize(where.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    around = cv2.dilate(inside.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
    if label != PEN:
        inside &= tissue.mask
    found, elsewhere = artefacts.labels == label, tissue.mask & ~around
    return found[inside].mean(), found[elsewhere].mean()


def test_clean_tissue_has_no_artefacts():
    for image in (two_pieces(), large_piece(), two_pieces(frozen(cmu())), two_pieces(faint(cmu(), 0.4))):
        _, artefacts = judge(image)
        assert artefacts.record.clean_share > 0.99


@pytest.mark.parametrize("colour", INKS)
def test_pens_of_every_colour_are_found_on_glass_and_on_tissue(colour):
    found = [rates(*inked(large_piece(), colour, *stroke, opacity=0.92), PEN) for stroke in STROKES[:2]]
    hits, false = np.transpose(found)
    assert np.all(hits > 0.9), "a stroke was missed"
    assert np.all(false < 0.01)


def test_pale_green_ink_is_found_on_glass_only():
    hits, false = rates(*inked(large_piece(), "green", *STROKES[0], opacity=0.6, width=80), PEN)
    assert 0.2 < hits < 0.6
    assert false < 0.01


def test_pale_blue_ink_is_missed():
    """Such ink has the colour of haematoxylin; detecting it would mark blue-counterstained tissue."""
    hits, false = rates(*inked(large_piece(), "blue", *STROKES[0], opacity=0.6, width=80), PEN)
    assert hits == 0
    assert false == 0


@pytest.mark.parametrize("sigma_um", [2, 4, 10])
def test_out_of_focus_areas_are_found(sigma_um):
    found = [rates(*defocused(large_piece(), disc, 180, sigma_um), BLUR) for disc in DISCS[:3]]
    hits, false = np.transpose(found)
    assert np.all(hits > 0.5), "a disc was missed"
    assert hits.mean() > 0.65
    assert np.all(false < 0.005)


@pytest.mark.parametrize("sigma_um", [4, 8])
def test_a_completely_blurred_slide_is_detected(sigma_um):
    image = cv2.GaussianBlur(large_piece(), (0, 0), sigma_um / MPP)
    assert judge(image)[1].record.shares["blur"] > 0.9


def test_slight_defocus_is_not_marked():
    image = cv2.GaussianBlur(large_piece(), (0, 0), 1.0 / MPP)
    assert judge(image)[1].record.shares["blur"] < 0.01


@pytest.mark.parametrize(("width_um", "least"), [(60, 0.3), (100, 0.45)])
def test_folds_are_found_in_most_of_their_area(width_um, least):
    found = [rates(*folded(large_piece(), *stroke, width=width_um // 2), FOLD) for stroke in STROKES[:2]]
    hits, false = np.transpose(found)
    assert hits.mean() > least
    assert np.all(false < 0.01)


def test_detectors_can_be_switched_off():
    image, _ = inked(large_piece(), "green", *STROKES[0], opacity=0.92)
    image, _ = folded(image, *STROKES[1], width=50)
    _, artefacts = judge(image, pen=False, fold=False)
    assert artefacts.record.shares["pen"] == artefacts.record.shares["fold"] == 0


def test_an_unscanned_border_is_not_an_artefact():
    _, artefacts = judge(unscanned_border(two_pieces(), 400))
    assert artefacts.record.clean_share > 0.99
    assert not artefacts.labels[:90].any()


def test_a_slide_too_coarse_to_resolve_cells_is_not_checked_for_focus():
    reader = ArrayReader(large_piece(), 29.0)
    tissue = presegment(reader, Tissue(), slide_id="s1")
    record = assess(reader, tissue, Quality()).record
    assert record.sharpness is None
    assert record.shares["blur"] == 0


def test_fluorescence_is_checked_for_focus_only():
    reader = ArrayReader(255 - large_piece(), MPP)
    tissue = presegment(reader, Tissue(mode="fluorescence"), slide_id="s1")
    record = assess(reader, tissue, Quality()).record
    assert record.sharpness > 0
    assert record.shares["pen"] == record.shares["fold"] == 0


def test_tiles_join_without_a_seam(monkeypatch):
    image, _ = defocused(large_piece(), DISCS[1], 180, 4)
    whole = judge(image)[1].labels
    monkeypatch.setattr("histomake.tissue.artefacts.TILE", 256)
    assert np.count_nonzero(judge(image)[1].labels != whole) < 0.001 * whole.size


def test_the_map_is_a_small_png_that_is_read_back(tmp_path):
    _, artefacts = judge(defocused(large_piece(), DISCS[1], 180, 4)[0])
    artefacts.save(tmp_path / "q.png", tmp_path / "q.json")
    assert (tmp_path / "q.png").stat().st_size < 20_000
    with Image.open(tmp_path / "q.png") as image:
        assert image.mode == "P"
    loaded = ArtefactMap.load(tmp_path / "q.png", tmp_path / "q.json")
    np.testing.assert_array_equal(loaded.labels, artefacts.labels)
    assert loaded.record == artefacts.record


def test_a_quarantined_slide_has_an_empty_map_and_its_reason(tmp_path):
    error = SlideError(Reason.NO_TISSUE, slide_id="s1", path="p", detail="d", remedy="r")
    save_no_quality(Quarantined.of(error, "presegment"), tmp_path / "q.png", tmp_path / "q.json")
    assert (tmp_path / "q.png").is_file()
    with pytest.raises(SlideError) as caught:
        ArtefactMap.load(tmp_path / "q.png", tmp_path / "q.json")
    assert caught.value.reason is Reason.NO_TISSUE
