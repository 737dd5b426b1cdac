"""Unusual slides, after public reports: each is read correctly, or refused with a named reason.

The docstring of a test names the report. Each case represents its kind; further cases are in the tests of the kinds.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from case_files import (
    DEFLATED,
    FRAMES,
    GREY,
    HEIGHT,
    JFIF,
    LABEL,
    MACRO,
    PICTURE,
    SHUFFLED,
    TAGS,
    TILE,
    WIDTH,
    jpeg,
    jpeg2000_of_ycbcr,
    padded_tiles,
    picture,
    reduced,
    remove_tiles,
    split_jpeg,
    write_dicom,
    write_svs,
    write_tiff,
    ycbcr,
)
from histomake.base.errors import Reason, SlideError
from histomake.base.records.manifest import Manifest
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGBaseline8Bit
from slide_files import openslide_level

LOSSY = 12.0
"""Mean difference in grey levels of the picture from its JPEG: it is made of sharp edges."""


class Shown(NamedTuple):
    manifest: Manifest
    pixels: np.ndarray
    store: Path


def shown(source: Path, folder: Path, *, mpp: float | None = None, codec: str = "zstd") -> Shown:
    manifest = convert(source, folder / "out" / "a.zarr", slide_id="a", config=Convert(codec=codec), mpp=mpp)
    store = folder / "out" / manifest.store
    with SlideReader(store) as reader:
        return Shown(manifest, reader.read_level(0, 0, 0, reader.width, reader.height), store)


def refusal(source: Path, folder: Path, *, mpp: float | None = 0.5) -> SlideError:
    with pytest.raises(SlideError) as caught:
        convert(source, folder / "out" / "a.zarr", slide_id="a", config=Convert(), mpp=mpp)
    assert not [path for path in folder.rglob("*") if path.suffix == ".zarr"]
    return caught.value


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found.astype(int) - expected).mean())


def names_in(store: Path) -> str:
    """Names and texts of everything in a store."""
    return " ".join(str(path.relative_to(store)) for path in store.rglob("*")) + " ".join(
        path.read_text() for path in store.rglob("zarr.json")
    )


# A1: privacy


@pytest.mark.parametrize("extra", [[(LABEL, 1, None), (MACRO, 9, None)], [(LABEL, 1, None)]], ids=["both", "label"])
def test_a_label_without_description_stays_out_of_the_store(extra, tmp_path):
    """openslide#297, ImageDePHI#141: Leica GT450 writes NewSubfileType 1 and 9 only."""
    found = shown(write_svs(tmp_path / "a.svs", extra=extra), tmp_path)
    assert found.manifest.associated["label"].startswith("left out")
    assert found.manifest.associated["thumbnail"] == "stored"
    assert [path.name for path in (found.store / "associated").iterdir() if path.is_dir()] == ["thumbnail"]


# A2, A16: absent tiles


@pytest.mark.parametrize("codec", ["jpeg", "zstd"])
def test_a_tile_that_a_reduced_level_lacks_is_made_from_the_finer_one(codec, tmp_path):
    """opentile#1, slim#97"""
    found = shown(remove_tiles(write_svs(tmp_path / "a.svs"), 2, (1, 4)), tmp_path, codec=codec)
    assert [level.filled_tiles for level in found.manifest.levels] == [0, 2]
    assert found.manifest.warnings == (
        "2 tiles are absent from level 1 of the file and were made from the finer level.",
    )
    with SlideReader(found.store) as reader:
        level = reader.read_level(1, 0, 0, WIDTH // 2, HEIGHT // 2)
    expected = reduced(PICTURE, 2)
    for x in (0, 1):
        box = slice(x * TILE, (x + 1) * TILE), slice((1 - x) * TILE, (2 - x) * TILE)
        assert difference(level[box], expected[box]) < LOSSY
    assert difference(found.pixels, PICTURE) < LOSSY


@pytest.mark.parametrize("empty", [FRAMES - 1, 7, 0], ids=["last", "middle", "first"])
def test_an_empty_frame_is_white(empty, tmp_path):
    """slim#97"""
    encoding = {"syntax": JPEGBaseline8Bit, "encode": jpeg, "photometric": "YBR_FULL_422"}
    found = shown(write_dicom(tmp_path / "a.dcm", empty=[empty], **encoding), tmp_path, codec="jpeg")
    row, column = divmod(empty, -(-WIDTH // TILE))
    white = np.array(PICTURE)
    white[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = 255
    assert difference(found.pixels, white) < LOSSY
    assert found.manifest.levels[0].empty_tiles == 1


# A3: half a slide


def test_an_mrxs_without_its_folder_is_not_a_picture(tmp_path):
    """libvips#406, large_image#318, openslide#453: the file is a preview in JPEG."""
    Image.fromarray(reduced(PICTURE, 4)).save(tmp_path / "a.jpg")
    path = (tmp_path / "a.jpg").rename(tmp_path / "case.mrxs")
    error = refusal(path, tmp_path, mpp=0.5)
    assert error.reason is Reason.UNREADABLE
    assert "folder case beside it" in error.detail


# A4, A18, A19, A11: which image is the slide


def test_a_pyramid_that_begins_with_its_smallest_level(tmp_path):
    """tiffslide#21"""
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for factor in (4, 2, 1):
            resolution = {"resolution": (20_000 / factor, 20_000 / factor), "resolutionunit": "CENTIMETER"}
            writer.write(reduced(PICTURE, factor), subfiletype=int(factor > 1), **DEFLATED, **resolution)
    found = shown(tmp_path / "a.tif", tmp_path)
    assert np.array_equal(found.pixels, PICTURE)
    assert found.manifest.mpp == pytest.approx(0.5)
    assert [level.downsample for level in found.manifest.levels] == [1, 2, 4]


def test_a_photograph_before_the_slide(tmp_path):
    """tiatoolbox#804"""
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        coarse = {"resolution": (500, 500), "resolutionunit": "CENTIMETER"}
        writer.write(MACRO[:120, :300], photometric="rgb", metadata=None, subfiletype=1, **coarse)
        writer.write(PICTURE, **DEFLATED, **TAGS)
        writer.write(reduced(PICTURE, 2), subfiletype=1, **DEFLATED)
    found = shown(tmp_path / "a.tif", tmp_path)
    assert np.array_equal(found.pixels, PICTURE)
    assert found.manifest.mpp == pytest.approx(0.5)
    assert found.manifest.associated["page 0"].startswith("left out")
    assert "left out: page 0" in found.manifest.warnings[0]


def write_ome(path: Path, images: list[tuple[str, np.ndarray, float]]) -> Path:
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, pixels, mpp in images:
            units = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            metadata = {"axes": "YXS", "Name": name, **units}
            writer.write(pixels, photometric="rgb", compression="deflate", metadata=metadata)
    return path


def test_an_ome_tiff_whose_first_image_is_a_photograph(tmp_path):
    found = shown(write_ome(tmp_path / "a.ome.tif", [("macro", MACRO, 20), ("slide", PICTURE, 0.5)]), tmp_path)
    assert np.array_equal(found.pixels, PICTURE)
    assert found.manifest.mpp == pytest.approx(0.5)
    assert found.manifest.associated["macro"].startswith("left out")


def test_a_second_page_that_is_another_field_is_not_a_level(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(PICTURE, photometric="rgb", metadata=None, **TAGS)
        writer.write(reduced(picture(seed=9)[::-1], 2), photometric="rgb", metadata=None, **TAGS)
    error = refusal(tmp_path / "a.tif", tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "several images" in error.detail


BLUE_GREEN_RED = [("Blue", "65535"), ("Green", "16711935"), ("Red", "-16776961")]


def write_channels(path: Path, channels: list[tuple[str | None, str | None]], planes: str = "BGR") -> Path:
    """Write the picture as three planes with names and colours."""
    elements = ""
    for i, (name, colour) in enumerate(channels):
        stated = (f' Name="{name}"' if name else "") + (f' Color="{colour}"' if colour else "")
        elements += f'<Channel ID="Channel:0:{i}" SamplesPerPixel="1"{stated}/>'
    elements += "".join(f'<TiffData IFD="{i}" FirstC="{i}" PlaneCount="1"/>' for i in range(3))
    description = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" BigEndian="false" DimensionOrder="XYCZT" SizeX="{WIDTH}" '
        f'SizeY="{HEIGHT}" SizeC="3" SizeZ="1" SizeT="1" Type="uint8" PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
        f"{elements}</Pixels></Image></OME>"
    )
    with tifffile.TiffWriter(path) as writer:
        for i, letter in enumerate(planes):
            plane = np.ascontiguousarray(PICTURE[..., "RGB".index(letter)])
            text = description.encode() if i == 0 else None
            writer.write(plane, **DEFLATED | {"photometric": "minisblack"}, description=text)
    return path


def test_planes_in_another_order_are_sorted_by_their_names_and_colours(tmp_path):
    found = shown(write_channels(tmp_path / "a.ome.tif", BLUE_GREEN_RED), tmp_path)
    assert np.array_equal(found.pixels, PICTURE)


def test_an_imagej_stack_in_one_directory_is_not_a_grey_slide(tmp_path):
    """bioformats#3676"""
    stack = {"imagej": True, "truncate": True, "resolution": (2, 2)}
    planes = np.moveaxis(PICTURE, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, metadata={"axes": "CYX", "mode": "composite", "unit": "um"}, **stack)
    error = refusal(tmp_path / "a.tif", tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "3 channels" in error.detail


# A5, A10, A12, A13, A14, A20: colours


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_ICT", "YBR_FULL_422"])
def test_jpeg_2000_frames_of_ycbcr_without_a_transform(photometric, tmp_path):
    """openslide#772, cornerstone#308"""
    syntax = JPEG2000Lossless if photometric == "YBR_FULL" else JPEG2000
    source = write_dicom(tmp_path / "a.dcm", syntax=syntax, encode=jpeg2000_of_ycbcr, photometric=photometric)
    assert np.abs(shown(source, tmp_path).pixels.astype(int) - PICTURE).max() <= 2


def test_unencoded_frames_of_ycbcr(tmp_path):
    source = write_dicom(tmp_path / "a.dcm", ycbcr(PICTURE), photometric="YBR_FULL")
    found = shown(source, tmp_path).pixels
    assert np.abs(found[:HEIGHT, :WIDTH].astype(int) - PICTURE).max() <= 2


def test_inverted_grey_frames(tmp_path):
    source = write_dicom(tmp_path / "a.dcm", 255 - GREY, photometric="MONOCHROME1")
    assert np.array_equal(shown(source, tmp_path).pixels, np.repeat(GREY[:, :, None], 3, axis=2))


def test_frames_of_a_palette_are_refused(tmp_path):
    def add_palette(dataset: Dataset) -> None:
        values = np.linspace(0, 255, 256).astype(np.uint8)
        for colour, table in zip(("Red", "Green", "Blue"), (values, values[::-1], values // 2), strict=True):
            setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 8])
            setattr(dataset, f"{colour}PaletteColorLookupTableData", np.ascontiguousarray(table).tobytes())

    error = refusal(write_dicom(tmp_path / "a.dcm", GREY, photometric="PALETTE COLOR", change=add_palette), tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "palette" in error.detail


APERIO = f"Aperio Image Library v11.2.1\r\n{WIDTH}x{HEIGHT} [0,0 {WIDTH}x{HEIGHT}] (128x128) J2K/KDU Q=30|MPP = 0.5"


@pytest.mark.parametrize(
    ("compression", "photometric", "description"),
    [(33003, 2, APERIO), (33003, 2, None), (34712, 6, None)],
    ids=["aperio", "description removed", "photometric"],
)
def test_jpeg_2000_tiles_of_ycbcr_without_a_transform(compression, photometric, description, tmp_path):
    """openslide#772, and openslide.org about Aperio's compression 33003"""
    tiles = [jpeg2000_of_ycbcr(tile) for tile in padded_tiles()]
    options = {"compression": compression, "photometric": photometric, "description": description}
    found = shown(write_tiff(tmp_path / "a.tif", tiles, **options), tmp_path)
    assert np.abs(found.pixels.astype(int) - PICTURE).max() <= 2


def test_signed_samples_are_refused(tmp_path):
    signed = (PICTURE.astype(int) - 128).astype(np.int8)
    tifffile.imwrite(tmp_path / "a.tif", signed, **DEFLATED)
    error = refusal(tmp_path / "a.tif", tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "signed" in error.detail


def test_associated_alpha_is_not_multiplied_twice(tmp_path):
    alpha = np.full((HEIGHT, WIDTH, 1), 128, np.uint8)
    colour = (PICTURE.astype(int) * 128 // 255).astype(np.uint8)
    pixels = np.concatenate([colour, alpha], -1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, extrasamples=("assocalpha",), **DEFLATED, **TAGS)
    assert np.abs(shown(tmp_path / "a.tif", tmp_path).pixels.astype(int) - (colour.astype(int) + 127)).max() <= 1


def test_an_unspecified_fourth_sample_is_not_alpha(tmp_path):
    pixels = np.concatenate([PICTURE, np.zeros((HEIGHT, WIDTH, 1), np.uint8)], -1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, extrasamples=("unspecified",), **DEFLATED, **TAGS)
    assert np.array_equal(shown(tmp_path / "a.tif", tmp_path).pixels, PICTURE)


@pytest.mark.parametrize("marker", [JFIF, b""], ids=["jfif in the tables", "no marker"])
def test_every_reader_shows_the_same_colours_for_any_shared_tables(marker, tmp_path):
    """TwelveMonkeys#404"""
    parts = [split_jpeg(jpeg(tile, colour="RGB")) for tile in padded_tiles()]
    tables = b"\xff\xd8" + marker + parts[0][0] + b"\xff\xd9"
    tiles = [b"\xff\xd8" + rest for _, rest in parts]
    path = write_tiff(tmp_path / "a.tif", tiles, compression=7, photometric=2, tables=tables)
    found = shown(path, tmp_path, codec="jpeg")
    assert found.manifest.levels[0].passthrough
    assert np.array_equal(found.pixels, tifffile.imread(path))
    assert np.array_equal(found.pixels, openslide_level(path))
    assert np.array_equal(found.pixels, np.moveaxis(zarr.open(found.store, mode="r")["0"][...], 0, -1))


def test_deflated_ycbcr(tmp_path):
    tiles = [imagecodecs.zlib_encode(ycbcr(tile)) for tile in padded_tiles()]
    path = write_tiff(tmp_path / "a.tif", tiles, compression=8, photometric=6, tags={530: ("H", [1, 1])})
    assert np.abs(shown(path, tmp_path).pixels.astype(int) - PICTURE).max() <= 2


# A6: where frames lie


@pytest.mark.parametrize("organization", [None, "TILED_SPARSE"])
def test_frames_lie_where_they_state(organization, tmp_path):
    """DICOM PS3.3, C.7.6.17: DimensionOrganizationType is optional."""
    source = write_dicom(tmp_path / "a.dcm", organization=organization, positions=True, order=SHUFFLED)
    assert np.array_equal(shown(source, tmp_path).pixels, PICTURE)


# A7, A8: several files


def test_two_focal_planes_are_not_two_levels(tmp_path):
    """openslide#468, slim#95"""
    write_dicom(tmp_path / "slide" / "a.dcm", cv2.GaussianBlur(PICTURE, (0, 0), 6))
    write_dicom(tmp_path / "slide" / "b.dcm")
    error = refusal(tmp_path / "slide", tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "focal planes" in error.detail


def test_three_channels_are_not_three_levels(tmp_path):
    for i, channel in enumerate("rgb"):
        plane = np.ascontiguousarray(PICTURE[..., i])
        write_dicom(tmp_path / "slide" / f"{channel}.dcm", plane, photometric="MONOCHROME2")
    error = refusal(tmp_path / "slide", tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "channels" in error.detail


def test_a_file_that_was_copied_twice_counts_once(tmp_path):
    path = write_dicom(tmp_path / "slide" / "DCM_0.dcm")
    shutil.copy(path, path.with_name("DCM_0 (1).dcm"))
    found = shown(tmp_path / "slide", tmp_path)
    assert np.array_equal(found.pixels, PICTURE)
    assert "copies" in found.manifest.associated


@pytest.mark.parametrize(
    ("storage", "listed"),
    [
        ("1.2.840.10008.5.1.4.1.1.91.1", "Microscopy Bulk Simple Annotations Storage"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "Segmentation Storage"),
        ("1.2.840.10008.1.3.10", "Media Storage Directory Storage"),
    ],
)
def test_other_objects_in_the_folder_are_skipped_and_listed(storage, listed, tmp_path):
    """openslide#662, wsidicom#95"""

    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = storage

    write_dicom(tmp_path / "slide" / "slide.dcm")
    write_dicom(tmp_path / "slide" / "other", PICTURE[:16, :16], edge=16, change=change)
    found = shown(tmp_path / "slide", tmp_path)
    assert np.array_equal(found.pixels, PICTURE)
    assert listed in found.manifest.associated


# A9, A15, A17: geometry


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_turned_picture_is_shown_upright(suffix, tmp_path):
    turned = np.rot90(PICTURE).copy()
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, turned, extratags=[(274, "H", 1, 6, True)], **DEFLATED, **TAGS)
    else:
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(turned).save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    found = shown(path, tmp_path, mpp=0.5)
    assert difference(found.pixels, PICTURE) < LOSSY / 2
    assert "orientation 6" in found.manifest.warnings[0]


def test_a_decimal_comma(tmp_path):
    found = shown(write_svs(tmp_path / "a.svs", mpp="1,0108"), tmp_path)
    assert found.manifest.mpp == pytest.approx(1.0108)


@pytest.mark.parametrize("sheet", [None, 0.5])
def test_pixels_twice_as_high_as_wide_are_refused_for_any_mpp_in_the_sheet(sheet, tmp_path):
    """dlup#17, dlup#53"""

    def change(dataset: Dataset) -> None:
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.PixelSpacing = [0.0010, 0.0005]

    error = refusal(write_dicom(tmp_path / "a.dcm", PICTURE[::2].copy(), change=change), tmp_path, mpp=sheet)
    assert error.reason is Reason.UNSUPPORTED
    assert "not square" in error.detail
