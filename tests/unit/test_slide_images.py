"""Tests of which images of a file are the slide: labels stay out, the largest image is chosen, or none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from case_files import (
    DEFLATED,
    HEIGHT,
    LABEL,
    MACRO,
    PICTURE,
    TAGS,
    WIDTH,
    card,
    picture,
    reduced,
    write_dicom,
    write_ndpi,
    write_svs,
)
from histomake.base.errors import Reason, SlideError
from histomake.base.records.manifest import Manifest
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from histomake.slide.same_content import is_thumbnail
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from test_slide_cases import BLUE_GREEN_RED, write_channels, write_ome

OTHER = picture(seed=9)[::-1].copy()
PLAIN = {"photometric": "rgb", "metadata": None}


def converted(source: Path, folder: Path, **settings: object) -> tuple[Manifest, np.ndarray]:
    config = Convert(codec="zstd", **settings)
    manifest = convert(source, folder / "a.zarr", slide_id="a", config=config, mpp=0.5)
    with SlideReader(folder / "a.zarr") as reader:
        return manifest, reader.read_level(0, 0, 0, reader.width, reader.height)


def refusal(source: Path, folder: Path) -> SlideError:
    with pytest.raises(SlideError) as caught:
        converted(source, folder)
    return caught.value


def stored_pictures(folder: Path) -> set[str]:
    return {path.name for path in (folder / "a.zarr" / "associated").glob("*") if path.is_dir()}


# Privacy


@pytest.mark.parametrize(
    ("kind", "description"),
    [
        (1, None),
        (9, None),
        (1, "anything at all"),
        (0, "Aperio Image Library\nlabel 387x463"),
        (0, "Aperio Image Library\nmacro 1280x431"),
        (0, None),
        (2, "thumbnail"),
    ],
)
@pytest.mark.parametrize("shape", [(120, 200), (HEIGHT // 4, WIDTH // 4)], ids=["a label's", "a thumbnail's"])
def test_a_card_with_a_name_is_left_out_of_an_svs_for_any_tag(shape, kind, description, tmp_path):
    extra = [(card("LABEL: JANE DOE", *shape[::-1]), kind, description)]
    manifest, _ = converted(write_svs(tmp_path / "a.svs", extra=extra), tmp_path)
    assert stored_pictures(tmp_path) <= {"thumbnail"}
    assert sum(status.startswith("left out") for status in manifest.associated.values()) >= 1
    assert "JANE" not in str(manifest.dump())


def test_a_card_in_the_place_of_the_thumbnail_is_not_stored(tmp_path):
    path = write_svs(tmp_path / "a.svs", thumbnail=card("LABEL: JANE DOE", WIDTH // 4, HEIGHT // 4))
    manifest, _ = converted(path, tmp_path)
    assert manifest.associated["thumbnail"].startswith("left out: it shows something else")
    assert not stored_pictures(tmp_path)


def test_a_thumbnail_with_the_label_beside_it_is_not_stored(tmp_path):
    """Some scanners join the scan and the label in one picture."""
    small = reduced(PICTURE, 4)
    joined = np.concatenate([small, cv2.resize(LABEL, (60, small.shape[0]))], axis=1)
    manifest, _ = converted(write_svs(tmp_path / "a.svs", thumbnail=joined), tmp_path)
    assert manifest.associated["thumbnail"].startswith("left out: it shows something else")


def test_a_tiled_label_is_not_a_level(tmp_path):
    """Re-written SVS files have tiles throughout."""
    path = write_svs(tmp_path / "a.svs")
    pages = [(LABEL, {"subfiletype": 1}), (MACRO, {"subfiletype": 9})]
    with tifffile.TiffWriter(path, append=True) as writer:
        for pixels, options in pages:
            writer.write(pixels, **DEFLATED, **options)
    manifest, _ = converted(path, tmp_path)
    assert [level.width for level in manifest.levels] == [WIDTH, WIDTH // 2]
    assert stored_pictures(tmp_path) == {"thumbnail"}


@pytest.mark.parametrize("name", ["label", "Label image", "macro", "overview", "CMU-1 - label", "barcode"])
def test_an_ome_image_with_the_name_of_a_label_stays_out(name, tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", [(name, LABEL, 20), ("slide", PICTURE, 0.5)])
    manifest, pixels = converted(path, tmp_path, keep_label_image=True)
    assert np.array_equal(pixels, PICTURE)
    assert not stored_pictures(tmp_path)
    assert len(manifest.associated) == 1


def test_an_unnamed_small_image_stays_out(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", [("", LABEL, 20), ("", PICTURE, 0.5)])
    manifest, pixels = converted(path, tmp_path, keep_label_image=True)
    assert np.array_equal(pixels, PICTURE)
    assert manifest.associated == {"image 0": "left out: nothing says that it shows the slide"}


@pytest.mark.parametrize("role", ["LABEL", "OVERVIEW", "LOCALIZER", "THUMBNAIL"])
def test_a_dicom_image_of_another_type_stays_out(role, tmp_path):
    def change(dataset: Dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", role, "NONE"]

    write_dicom(tmp_path / "slide" / "slide.dcm")
    write_dicom(tmp_path / "slide" / "other.dcm", LABEL, change=change)
    manifest, pixels = converted(tmp_path / "slide", tmp_path)
    assert np.array_equal(pixels, PICTURE)
    assert all(status.startswith("left out") for status in manifest.associated.values())
    assert not stored_pictures(tmp_path)


@pytest.mark.parametrize(
    "image_type", [None, ["ORIGINAL", "PRIMARY"], ["DERIVED", "SECONDARY", "OTHER", "NONE"]], ids=str
)
def test_a_dicom_image_of_no_stated_type_is_not_the_slide(image_type, tmp_path):
    def change(dataset: Dataset) -> None:
        dataset.ImageType = image_type

    write_dicom(tmp_path / "slide" / "slide.dcm")
    write_dicom(tmp_path / "slide" / "other.dcm", LABEL, change=change)
    manifest, pixels = converted(tmp_path / "slide", tmp_path)
    assert np.array_equal(pixels, PICTURE)
    assert "unknown" in manifest.associated
    assert refusal(tmp_path / "slide" / "other.dcm", tmp_path).reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("attribute", ["SpecimenLabelInImage", "BurnedInAnnotation"])
def test_a_slide_that_states_that_it_shows_its_label_is_refused(attribute, tmp_path):
    error = refusal(write_dicom(tmp_path / "a.dcm", change=lambda d: setattr(d, attribute, "YES")), tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "label" in error.detail


@given(seed=st.integers(0, 10_000), factor=st.sampled_from([2, 3, 4]))
def test_a_thumbnail_is_distinguished_from_other_pictures(seed, factor):
    slide, other = picture(seed=seed), picture(seed=seed + 1)

    def whole(width: int, height: int) -> np.ndarray:
        return cv2.resize(slide, (width, height), interpolation=cv2.INTER_AREA)

    assert is_thumbnail(reduced(slide, factor), WIDTH, HEIGHT, whole)
    assert not is_thumbnail(reduced(other[::-1], factor), WIDTH, HEIGHT, whole)
    assert not is_thumbnail(reduced(other[:, ::-1], factor), WIDTH, HEIGHT, whole)
    assert not is_thumbnail(np.full_like(reduced(slide, factor), 240), WIDTH, HEIGHT, whole)


def test_nothing_is_a_thumbnail_of_an_empty_slide():
    blank = np.full((125, 175, 3), 243, np.uint8)
    assert not is_thumbnail(blank, WIDTH, HEIGHT, lambda w, h: np.full((h, w, 3), 243, np.uint8))


# The largest image, with its own resolution


@pytest.mark.parametrize("order", [(2, 4, 1), (1, 4, 2), (4, 1, 2)])
@pytest.mark.parametrize("marked", [True, False])
def test_levels_in_any_order_of_pages(marked, order, tmp_path):
    """Bio-Formats' and vips' pyramids, sorted by other tools."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for factor in order:
            kind = int(factor > 1) if marked else 0
            writer.write(reduced(PICTURE, factor), subfiletype=kind, **DEFLATED)
    manifest, pixels = converted(tmp_path / "a.tif", tmp_path)
    assert np.array_equal(pixels, PICTURE)
    assert [level.downsample for level in manifest.levels] == [1, 2, 4]


def test_a_larger_page_that_claims_to_be_reduced_from_another_image_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(reduced(OTHER, 2), **DEFLATED)
        writer.write(PICTURE, subfiletype=1, **DEFLATED)
    error = refusal(tmp_path / "a.tif", tmp_path)
    assert error.reason is Reason.UNSUPPORTED


def test_the_resolution_is_that_of_the_slide_and_not_of_the_first_page(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(MACRO, resolution=(100, 100), resolutionunit="CENTIMETER", subfiletype=1, **PLAIN)
        writer.write(PICTURE, **DEFLATED, **TAGS)
    manifest = convert(tmp_path / "a.tif", tmp_path / "a.zarr", slide_id="a", config=Convert())
    assert manifest.mpp == pytest.approx(0.5)


def test_an_svs_whose_header_lost_its_first_level_is_refused(tmp_path):
    """The resolution in Aperio's description holds for the size that it states."""
    path = write_svs(tmp_path / "a.svs")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(100)
    assert refusal(path, tmp_path).reason in (Reason.DAMAGED, Reason.IMPLAUSIBLE_SIZE)


def test_an_ndpi_whose_finest_image_seems_out_of_focus_is_refused(tmp_path):
    path = write_ndpi(tmp_path / "a.ndpi")
    with tifffile.TiffFile(path) as tiff:
        focus = tiff.pages[0].tags[65424].valueoffset
    content = bytearray(path.read_bytes())
    content[focus] = 1
    (tmp_path / "b.ndpi").write_bytes(content)
    assert converted(path, tmp_path)[0].levels[0].width == WIDTH
    assert refusal(tmp_path / "b.ndpi", tmp_path).reason is Reason.DAMAGED


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("blur", [False, True])
def test_a_page_of_another_field_is_never_a_level(blur, factor, tmp_path):
    other = cv2.GaussianBlur(OTHER, (0, 0), 2) if blur else OTHER
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(PICTURE, **DEFLATED)
        writer.write(reduced(other, factor), subfiletype=1, **DEFLATED)
    manifest, _ = converted(tmp_path / "a.tif", tmp_path)
    assert [level.width for level in manifest.levels] == [WIDTH]
    assert manifest.associated == {"page 1": "left out: nothing says that it shows the slide"}


@pytest.mark.parametrize("quality", [40, 80])
@pytest.mark.parametrize("method", [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA])
def test_a_level_is_recognised_for_any_method_of_reduction(method, quality, tmp_path):
    sizes = [(WIDTH // f, HEIGHT // f) for f in (2, 4)]
    levels = [cv2.resize(PICTURE, size, interpolation=method) for size in sizes]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for level in (PICTURE, *levels):
            options = {"compression": "jpeg", "compressionargs": {"level": quality}, "tile": (128, 128)}
            writer.write(level, subfiletype=int(level is not PICTURE), **PLAIN, **options)
    manifest, _ = converted(tmp_path / "a.tif", tmp_path)
    assert [level.downsample for level in manifest.levels] == [1, 2, 4]


def test_two_images_of_one_size_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([PICTURE, OTHER]), **PLAIN)
    assert refusal(tmp_path / "a.tif", tmp_path).reason is Reason.UNSUPPORTED
    path = write_ome(tmp_path / "b.ome.tif", [("region 1", PICTURE, 0.5), ("region 2", OTHER, 0.5)])
    assert "several images" in refusal(path, tmp_path).detail


def test_a_second_region_of_the_scan_is_refused(tmp_path):
    """Scans of several regions (Leica, Zeiss through Bio-Formats): each is a slide of its own."""
    path = write_ome(tmp_path / "a.ome.tif", [("region 1", PICTURE, 0.5), ("region 2", OTHER[:400, :600], 0.5)])
    assert "several images" in refusal(path, tmp_path).detail


@pytest.mark.parametrize("axes", ["ZYX", "TYX", "CYX"])
def test_imagej_stacks_are_refused(axes, tmp_path):
    stack = np.stack([PICTURE[..., 0], PICTURE[..., 1], OTHER[..., 2]])
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": axes})
    error = refusal(tmp_path / "a.tif", tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "ImageJ stack" in error.detail


def test_an_imagej_rgb_picture_has_its_resolution_in_micrometres(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PICTURE, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    manifest = convert(tmp_path / "a.tif", tmp_path / "a.zarr", slide_id="a", config=Convert())
    assert manifest.mpp == pytest.approx(0.5)


# Three planes


@pytest.mark.parametrize(
    ("channels", "planes"),
    [
        ([("Red", None), ("Green", None), ("Blue", None)], "RGB"),
        ([("blue", None), ("red", None), ("green", None)], "BRG"),
        ([(None, colour) for _, colour in BLUE_GREEN_RED], "BGR"),
        ([("Channel 0", "16711935"), ("Channel 1", "65535"), ("Channel 2", "-16776961")], "GBR"),
        ([(None, None)] * 3, "RGB"),
        ([("R", "-16776961"), ("G", "16711935"), ("B", "65535")], "RGB"),
    ],
)
def test_planes_are_red_green_and_blue_as_stated(channels, planes, tmp_path):
    _, pixels = converted(write_channels(tmp_path / "a.ome.tif", channels, planes), tmp_path)
    assert np.array_equal(pixels, PICTURE)


@pytest.mark.parametrize(
    "channels",
    [
        [("DAPI", None), ("FITC", None), ("TRITC", None)],
        [("Red", None), ("Red", None), ("Blue", None)],
        [("Red", None), ("Green", None), (None, None)],
        [("Red", "65535"), ("Green", "16711935"), ("Blue", "-16776961")],
        [(None, "-1"), (None, "16711935"), (None, "65535")],
    ],
    ids=["stains", "twice", "half", "contradiction", "two colours"],
)
def test_planes_that_are_not_stated_to_be_red_green_and_blue_are_refused(channels, tmp_path):
    error = refusal(write_channels(tmp_path / "a.ome.tif", channels), tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "channels" in error.detail


# DICOM levels


def test_dicom_levels_are_sorted_and_compared(tmp_path):
    for factor in (4, 1, 2):
        write_dicom(tmp_path / "slide" / f"{factor}.dcm", reduced(PICTURE, factor), mpp=0.5 * factor)
    manifest, pixels = converted(tmp_path / "slide", tmp_path)
    assert np.array_equal(pixels, PICTURE)
    assert [level.downsample for level in manifest.levels] == [1, 2, 4]


def test_a_dicom_volume_of_another_field_is_refused(tmp_path):
    write_dicom(tmp_path / "slide" / "1.dcm")
    write_dicom(tmp_path / "slide" / "2.dcm", reduced(OTHER, 2), mpp=1.0)
    error = refusal(tmp_path / "slide", tmp_path)
    assert error.reason is Reason.DAMAGED
    assert "does not show" in error.detail


@pytest.mark.parametrize("attribute", ["TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths"])
def test_several_planes_in_one_instance_are_refused(attribute, tmp_path):
    """slim#95: the first plane need not be in focus."""
    error = refusal(write_dicom(tmp_path / "a.dcm", change=lambda d: setattr(d, attribute, 3)), tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "3 " in error.detail
