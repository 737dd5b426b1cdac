"""Tests of resolution, its units and numbers, of pixels that are not square, and of orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from case_files import DEFLATED, HEIGHT, PICTURE, TAGS, WIDTH, write_dicom, write_svs
from histomake.base.errors import Reason, SlideError
from histomake.base.records.manifest import Manifest
from histomake.base.units import Mpp
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from histomake.slide.source import resolve_mpp
from histomake.slide.sources.base import SourceInfo
from histomake.slide.sources.tiff_metadata import microns, positive
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pydicom.dataset import Dataset
from slide_files import write_pyramid


def converted(source: Path, folder: Path, mpp: Mpp | None = None, codec: str = "zstd") -> tuple[Manifest, np.ndarray]:
    manifest = convert(source, folder / "a.zarr", slide_id="a", config=Convert(codec=codec), mpp=mpp)
    with SlideReader(folder / "a.zarr") as reader:
        return manifest, reader.read_level(0, 0, 0, reader.width, reader.height)


# Numbers and units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.25", 0.25),
        ("0,25", 0.25),
        (" 1,0108 ", 1.0108),
        (".5", 0.5),
        ("5e-1", 0.5),
        ("0.25 µm", 0.25),
        ("0.25 μm", 0.25),
        ("0.25um", 0.25),
        *(
            (text, None)
            for text in ("", "0", "-0.25", "0.25.1", "1,234.5", "0.25 mm", "0.25x", "nan", "inf", "1e", None)
        ),
    ],
)
def test_numbers_are_read_as_a_whole_or_not_at_all(text, value):
    assert positive(text) == value


@given(st.floats(1e-3, 1e3), st.sampled_from([".", ","]), st.integers(1, 8))
def test_a_comma_is_a_point(value, mark, digits):
    text = f"{value:.{digits}f}"
    read = positive(text.replace(".", mark))
    assert read == (float(text) or None)


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("\u00b5m", 1),
        ("\u03bcm", 1),
        ("\\u00B5m", 1),
        ("um", 1),
        ("micron", 1),
        ("Microns", 1),
        ("nm", 1e-3),
        ("\u00c5", 1e-4),
        ("\u212b", 1e-4),
        ("pm", 1e-6),
        ("mm", 1e3),
        ("cm", 1e4),
        ("m", 1e6),
        ("in", 25_400),
        ("inch", 25_400),
        ("pt", 25_400 / 72),
        *((unit, None) for unit in ("pixel", "reference frame", "", "Mm", "PM", "parsec", "s")),
    ],
)
def test_units_of_length(unit, size):
    assert microns(unit) == (None if size is None else pytest.approx(size))


@pytest.mark.parametrize(
    ("unit", "size"), [("µm", 0.5), ("μm", 0.5), ("nm", 500), ("Å", 5000), ("mm", 0.0005), ("in", 0.5 / 25_400)]
)
def test_an_ome_tiff_in_any_unit(unit, size, tmp_path):
    physical = {f"PhysicalSize{axis}{part}": value for axis in "XY" for part, value in (("", size), ("Unit", unit))}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(PICTURE, photometric="rgb", metadata={"axes": "YXS", **physical})
    manifest, _ = converted(tmp_path / "a.ome.tif", tmp_path)
    assert (manifest.mpp, manifest.mpp_source) == (pytest.approx(0.5), "vendor")


def test_an_unknown_unit_is_not_taken_as_micrometre(tmp_path):
    physical = {f"PhysicalSize{axis}{part}": value for axis in "XY" for part, value in (("", 0.5), ("Unit", "pixel"))}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(PICTURE, photometric="rgb", metadata={"axes": "YXS", **physical})
    with pytest.raises(SlideError) as caught:
        converted(tmp_path / "a.ome.tif", tmp_path)
    assert caught.value.reason is Reason.NO_MPP


@pytest.mark.parametrize(("text", "mpp"), [("0,4990", 0.499), ("0.4990 ", 0.499), ("4.99e-1", 0.499)])
def test_aperio_numbers(text, mpp, tmp_path):
    assert converted(write_svs(tmp_path / "a.svs", mpp=text), tmp_path)[0].mpp == pytest.approx(mpp)


# Square pixels


@given(st.floats(0.05, 20), st.floats(0.5, 2), st.sampled_from(["vendor_mpp", "tag_mpp"]), st.none() | st.just(0.5))
def test_pixels_are_square_within_one_percent_or_the_slide_is_refused(x, ratio, field, sheet):
    pair = x, min(20.0, max(0.05, x * ratio))
    info = SourceInfo("tiff", "generic-tiff", (), **{field: pair})
    if abs(pair[0] / pair[1] - 1) > 0.01:
        with pytest.raises(SlideError) as caught:
            resolve_mpp(info, sheet, slide_id="a", path=Path("a.tif"))
        assert caught.value.reason is Reason.UNSUPPORTED
    else:
        found = resolve_mpp(info, sheet, slide_id="a", path=Path("a.tif"))
        assert (found.x, found.y) == ((sheet, sheet) if sheet else pair)


def test_a_tiff_with_pixels_that_are_not_square(tmp_path):
    options = DEFLATED | {"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", PICTURE[::2], **options)
    with pytest.raises(SlideError, match="not square") as caught:
        converted(tmp_path / "a.tif", tmp_path, mpp=0.5)
    assert "sheet would not change their shape" in caught.value.remedy


def test_a_dicom_volume_with_pixels_that_are_not_square(tmp_path):
    def change(dataset: Dataset) -> None:
        del dataset.SharedFunctionalGroupsSequence
        dataset.ImagedVolumeWidth, dataset.ImagedVolumeHeight = WIDTH * 0.0005, HEIGHT * 0.0010

    with pytest.raises(SlideError, match="not square"):
        converted(write_dicom(tmp_path / "a.dcm", change=change), tmp_path)


# Orientation


def stored_as(orientation: int) -> np.ndarray:
    """Return the picture as a camera with this orientation stores it, by the rules of Pillow."""
    for turned in (np.rot90(PICTURE, k) for k in range(4)):
        for pixels in (turned, turned[:, ::-1]):
            image = Image.fromarray(np.ascontiguousarray(pixels))
            image.getexif()[274] = orientation
            if np.array_equal(np.asarray(ImageOps.exif_transpose(image)), PICTURE):
                return np.ascontiguousarray(pixels)
    raise AssertionError(orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_every_orientation_is_shown_upright(suffix, orientation, tmp_path):
    pixels, path = stored_as(orientation), tmp_path / f"a.{suffix}"
    if suffix == "png":
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
    else:
        tifffile.imwrite(path, pixels, extratags=[(274, "H", 1, orientation, True)], **DEFLATED)
    manifest, found = converted(path, tmp_path, mpp=0.5)
    assert np.array_equal(found, PICTURE)
    assert ("orientation" in manifest.properties) is (orientation > 1)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_pyramid_with_jpeg_tiles(orientation, tmp_path):
    pixels = stored_as(orientation)
    tags = {"extratags": [(274, "H", 1, orientation, True)], "compression": "jpeg", "compressionargs": {"level": 95}}
    levels = [pixels, np.ascontiguousarray(pixels[::2, ::2])]
    manifest, found = converted(write_pyramid(tmp_path / "a.tif", levels, **tags), tmp_path, codec="jpeg")
    assert found.shape == PICTURE.shape
    assert np.abs(found.astype(int) - PICTURE).mean() < 6
    assert [level.passthrough for level in manifest.levels] == [False, False]
    assert manifest.mpp == pytest.approx(0.5)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_without_a_meaning_is_refused(orientation, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PICTURE, extratags=[(274, "H", 1, orientation, True)], **DEFLATED, **TAGS)
    with pytest.raises(SlideError, match="orientation") as caught:
        converted(tmp_path / "a.tif", tmp_path)
    assert caught.value.reason is Reason.UNSUPPORTED
