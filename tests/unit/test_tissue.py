"""Tests of tissue detection: the same tissue is found for any stain, scanner or pen mark."""

from __future__ import annotations

import cv2
import numpy as np
import openslide
import pytest
from array_reader import ArrayReader
from histomake.base.errors import Reason, SlideError
from histomake.base.records.record import Quarantined
from histomake.config import Tissue
from histomake.tissue.faint import find_faint
from histomake.tissue.field_of_view import is_field_of_view
from histomake.tissue.mask import TissueMask, presegment, save_no_tissue
from PIL import Image
from scenes import (
    MPP,
    cmu,
    coverslip,
    faint,
    frozen,
    glass,
    immunostained,
    inked,
    large_piece,
    stitched,
    tinted,
    two_pieces,
    unscanned_border,
)


def find(image, mpp=MPP, **keys) -> TissueMask:
    return presegment(ArrayReader(image, mpp), Tissue(**keys), slide_id="s1")


def overlap(a, b) -> float:
    """Intersection over union."""
    return (a & b).sum() / (a | b).sum()


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    """The mask of the two unmodified pieces, checked by eye."""
    return find(two_pieces()).mask


def test_two_pieces_of_known_size_are_found(plain):
    found = find(two_pieces())
    assert found.record.components == 2
    assert found.record.area_mm2 == pytest.approx(1.32, rel=0.05)
    assert found.record.coverage == pytest.approx(plain.mean(), abs=1e-6)
    assert found.mask.shape == (400, 400)
    assert found.downsample_x == found.downsample_y == 4.0


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda s: stitched(s), 0.98),
        (lambda s: tinted(s), 0.98),
        (lambda s: coverslip(s), 0.99),
        (lambda s: two_pieces(frozen(cmu())), 0.95),
        (lambda s: two_pieces(faint(cmu(), 0.3)), 0.94),
        (lambda s: two_pieces(faint(cmu(), 0.15)), 0.75),
        (lambda s: two_pieces(immunostained(cmu())), 0.85),
        (lambda s: stitched(two_pieces(faint(cmu(), 0.3))), 0.90),
    ],
    ids=["stitching", "tint", "coverslip", "frozen", "faint", "very faint", "IHC", "faint and stitched"],
)
def test_tissue_is_found_after_any_change_of_the_slide(plain, change, least):
    assert overlap(find(change(two_pieces())).mask, plain) >= least


def test_a_slide_filled_with_tissue_is_all_tissue():
    assert find(cmu()[500:742, 230:420]).mask.mean() > 0.97


def test_a_field_of_view_without_glass_is_taken_whole(monkeypatch):
    field = cmu()[280:430, 240:390]
    for image in (field, tinted(field)):
        found = find(image)
        assert found.mask.all()
        assert (found.record.method, found.record.threshold, found.record.coverage) == ("field of view", None, 1.0)
    assert find(field, threshold=20).record.method == "saturation, fixed"
    monkeypatch.setattr("histomake.tissue.mask.is_field_of_view", lambda *_, **__: False)
    assert find(field).record.coverage < 0.7, "Otsu splits dense from pale tissue"


def dim(image):
    return (image * 0.85).astype(np.uint8)


@pytest.mark.parametrize("change", [np.copy, tinted, dim])
def test_an_image_with_glass_is_not_a_field_of_view(change):
    image = cmu()[280:430, 240:390].copy()
    image[:, :40] = glass(150, 40)
    assert find(change(image)).record.method == "saturation, otsu"


def test_a_large_image_and_one_without_colour_are_not_fields_of_view():
    field = cmu()[500:742, 230:420]
    assert is_field_of_view(field, 2.0, max_hole_um2=20_000)
    assert not is_field_of_view(np.tile(field, (8, 8, 1)), 2.0, max_hole_um2=20_000)
    assert not is_field_of_view(np.full((100, 100, 3), 120, np.uint8), 8.0, max_hole_um2=20_000)


def test_everything_is_tissue_in_mode_whole():
    for image, mode in ((glass(100, 100), "brightfield"), (np.zeros((100, 100, 3), np.uint8), "fluorescence")):
        found = find(image, mode="whole")
        assert found.mask.all()
        assert (found.record.method, found.record.mode, found.record.ink_mm2) == ("whole", mode, 0.0)
    with pytest.raises(ValueError, match="mode: whole takes everything as tissue"):
        Tissue(mode="whole", model="models/tissue")


def test_an_unscanned_black_border_has_no_effect(plain):
    found = find(unscanned_border(two_pieces(), 400))
    assert not found.mask[:99].any()
    np.testing.assert_array_equal(found.mask[100:-100, 100:-100], plain)


@pytest.mark.parametrize("colour", ["green", "blue", "black", "red"])
def test_ink_on_glass_is_not_tissue_and_does_not_move_the_threshold(plain, colour):
    image, where = inked(two_pieces(), colour, (1300, 100), (1300, 600), opacity=0.92)
    found = find(image)
    stroke = cv2.resize(where.astype(np.uint8), plain.shape[::-1], interpolation=cv2.INTER_AREA) > 0
    assert (found.mask & stroke).sum() < 0.02 * stroke.sum()
    drawn_mm2 = 0.32 * 1.0 + np.pi * 0.16**2  # with the round ends of the stroke
    assert drawn_mm2 <= found.record.ink_mm2 < 1.3 * drawn_mm2
    assert overlap(found.mask, plain) > 0.99


def test_ink_detection_can_be_disabled_for_blue_stains(plain):
    image, _ = inked(two_pieces(), "blue", (1300, 100), (1300, 600), opacity=0.92)
    assert find(image, ink=False).mask.sum() > plain.sum() * 1.15


def test_all_channels_give_similar_masks_on_ordinary_tissue(plain):
    for channel in ("red", "grey"):
        assert overlap(find(two_pieces(), channel=channel).mask, plain) > 0.85


def test_a_fixed_threshold_is_used_unchanged():
    found = find(two_pieces(), threshold=60)
    assert found.record.threshold == 60
    assert found.record.method == "saturation, fixed"
    assert found.mask.sum() < find(two_pieces(), threshold=10).mask.sum()


def test_lengths_are_in_microns_so_the_resolution_has_no_effect(plain):
    half = cv2.resize(two_pieces(), (800, 800), interpolation=cv2.INTER_AREA)
    assert overlap(find(half, mpp=2 * MPP).mask, plain) > 0.97


def test_growing_and_shrinking_move_the_outline_by_microns(plain):
    disc = glass(800, 800)
    cv2.circle(disc, (400, 400), 200, (200, 90, 160), -1)
    radii = [np.sqrt(find(disc, grow_um=um).mask.sum() / np.pi) * 8 for um in (-80, 0, 80)]
    assert radii[0] == pytest.approx(radii[1] - 80, abs=6)
    assert radii[2] == pytest.approx(radii[1] + 80, abs=6)


def test_the_mask_follows_the_visible_edge_of_real_tissue():
    """A rim of glass would be patches of glass, a rim of tissue outside the mask would be data lost."""
    skin = cmu()
    stained = np.ptp(cv2.GaussianBlur(skin, (0, 0), 1), axis=2) > 20

    def grown(microns):
        mask = find(skin, grow_um=microns).mask.astype(np.uint8)
        return cv2.resize(mask, skin.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0

    within = {pair: stained[grown(pair[0]) & ~grown(pair[1])].mean() for pair in ((24, 8), (8, 0), (0, -8), (-8, -24))}
    assert within[24, 8] < 0.02
    assert within[8, 0] < 0.1
    assert within[0, -8] > 0.3
    assert within[-8, -24] > 0.8


def test_specks_are_dropped_and_small_holes_filled():
    slide = glass(800, 800)
    cv2.circle(slide, (300, 300), 200, (200, 90, 160), -1)
    cv2.circle(slide, (300, 300), 15, (243, 243, 243), -1)  # a hole of 2,800 µm²
    cv2.circle(slide, (700, 700), 12, (200, 90, 160), -1)  # a speck of 1,800 µm²
    found = find(slide)
    assert found.record.components == 1
    assert found.mask[75, 75]
    assert not find(slide, max_hole_um2=500).mask[75, 75]
    assert find(slide, min_area_um2=500).record.components == 2


def test_a_model_can_replace_the_threshold():
    def left_half(image):
        found = np.zeros(image.shape[:2], bool)
        found[:, : image.shape[1] // 2] = True
        return found

    found = presegment(ArrayReader(two_pieces(), MPP), Tissue(), slide_id="s1", segment=left_half)
    assert found.record.method == "model"
    assert found.mask[:, :198].all()
    assert not found.mask[:, 202:].any()


def test_a_slide_coarser_than_the_model_is_refused():
    with pytest.raises(SlideError) as caught:
        presegment(ArrayReader(two_pieces(), 29.0), Tissue(), slide_id="s1", segment=lambda image: image[..., 0] > 0)
    assert caught.value.reason is Reason.UNSUPPORTED


# Slides that are refused


def test_empty_glass_is_refused_instead_of_being_split_by_otsu():
    for image in (glass(1600, 1600), stitched(glass(1600, 1600)), coverslip(glass(1600, 1600))):
        with pytest.raises(SlideError) as caught:
            find(image)
        assert caught.value.reason is Reason.NO_TISSUE
        assert "tissue.threshold" in caught.value.remedy


def test_faint_immunostain_that_is_lost_gives_a_warning():
    record = find(two_pieces(faint(immunostained(cmu()), 0.15))).record
    assert record.faint_mm2 > 5 * record.area_mm2
    assert "too pale to be taken as tissue" in record.warnings[0]


def test_a_slide_of_nothing_but_pale_tissue_is_refused_with_its_area():
    with pytest.raises(SlideError, match="mm² are coloured more than glass") as caught:
        find(two_pieces(faint(cmu(), 0.05)))
    assert caught.value.reason is Reason.NO_TISSUE


@pytest.mark.parametrize("noise", [1, 6])
def test_noisy_glass_is_not_pale_tissue(noise):
    image = np.random.default_rng(0).normal(240, noise, (600, 800, 3)).clip(0, 255).astype(np.uint8)
    assert not find_faint(stitched(image), np.zeros((600, 800), bool), MPP).any()


@pytest.mark.parametrize(
    "change",
    [coverslip, lambda s: tinted(stitched(s)), lambda s: inked(s, "blue", (100, 700), (1400, 700), opacity=0.8)[0]],
    ids=["coverslip", "tint and stitching", "pen"],
)
def test_glass_edges_and_pen_are_not_pale_tissue(change):
    record = find(change(two_pieces())).record
    assert record.faint_mm2 < 0.1 * record.area_mm2
    assert record.warnings == ()


@pytest.mark.parametrize("side", [800, 402])
def test_fluorescence_is_refused_with_the_setting_to_change(side):
    dark = np.zeros((side, side, 3), np.uint8)
    cv2.circle(dark, (side // 2, side // 2), side // 4, (0, 0, 180), -1)
    with pytest.raises(SlideError) as caught:
        find(dark)
    assert caught.value.reason is Reason.FLUORESCENCE
    assert "tissue.mode: fluorescence" in caught.value.remedy


def test_fluorescence_mode_finds_bright_tissue():
    dark = np.random.default_rng(0).integers(0, 12, (800, 800, 3), np.uint8)
    cv2.circle(dark, (400, 400), 200, (0, 0, 180), -1)
    found = find(dark, mode="fluorescence")
    assert found.record.area_mm2 == pytest.approx(np.pi * 0.4**2, rel=0.1)
    assert found.record.mode == "fluorescence"


# Files


def test_the_mask_is_a_one_bit_png_below_20_kb_that_is_read_back(tmp_path):
    found = find(large_piece())
    found.save(tmp_path / "m.png", tmp_path / "m.json")
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "1"
    assert (tmp_path / "m.png").stat().st_size < 20_000
    loaded = TissueMask.load(tmp_path / "m.png", tmp_path / "m.json")
    np.testing.assert_array_equal(loaded.mask, found.mask)
    assert loaded.record == found.record
    assert loaded.downsample_x == found.downsample_x


def test_a_quarantined_slide_has_an_empty_mask_and_its_reason(tmp_path):
    error = SlideError(Reason.NO_TISSUE, slide_id="s1", path="p", detail="d", remedy="r")
    save_no_tissue(Quarantined.of(error, "presegment"), tmp_path / "m.png", tmp_path / "m.json")
    assert (tmp_path / "m.png").is_file()
    assert '"no_tissue"' in (tmp_path / "m.json").read_text()


# Real slides


def test_real_skin_is_found_without_its_dust(data):
    with openslide.OpenSlide(data / "slides/CMU-1-Small-Region.svs") as slide:
        image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    found = find(image, mpp=0.499)
    assert found.record.components == 1
    assert found.record.area_mm2 == pytest.approx(0.66, rel=0.1)
    assert found.mask[66, 25], "the thin strand on the left is tissue"
    assert not found.mask[38, 130], "the speck of dust on the right is not"
