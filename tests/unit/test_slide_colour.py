"""Tests of the table of colours: every entry against a picture and other readers, everything else refused."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from case_files import (
    DEFLATED,
    GREY,
    HEIGHT,
    PICTURE,
    TAGS,
    TILE,
    WIDTH,
    jpeg,
    jpeg2000,
    padded_tiles,
    split_jpeg,
    tiles_of,
    write_dicom,
    write_tiff,
    ycbcr,
)
from histomake.base.errors import Reason, SlideError
from histomake.config import Convert
from histomake.slide.colour import MEANINGS, Alpha, Coder, Photometric, Samples, Stated, treatment
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from histomake.slide.sources.base import UnsupportedSlideError
from histomake.slide.sources.dicom_instance import PHOTOMETRIC as DICOM_NAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import JPEG2000, JPEGBaseline8Bit
from slide_files import openslide_level

from tests.bench.slides import abbreviate

Key = tuple[Coder, Stated, Photometric]

TIFF_PHOTOMETRIC = {
    Photometric.WHITE_IS_ZERO: 0,
    Photometric.GREY: 1,
    Photometric.RGB: 2,
    Photometric.PALETTE: 3,
    Photometric.YCBCR: 6,
    Photometric.APERIO_YCBCR: 2,
    Photometric.OTHER: 5,
}
GREYS = (Photometric.GREY, Photometric.WHITE_IS_ZERO)
YCC = (Photometric.YCBCR, Photometric.APERIO_YCBCR, Photometric.YBR_ICT, Photometric.YBR_RCT)
KEYS = list(product(Coder, Stated, Photometric))


def encode(tile: np.ndarray, key: Key) -> bytes:
    """Encode RGB pixels as the stream that the key describes; grey pixels if its photometric interpretation is grey."""
    coder, stated, photometric = key
    if photometric in GREYS:
        tile = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
        tile = 255 - tile if photometric is Photometric.WHITE_IS_ZERO else tile
    components = ycbcr(tile) if photometric in YCC and tile.ndim == 3 else np.ascontiguousarray(tile)
    if coder is Coder.PLAIN:
        return bytes(imagecodecs.zlib_encode(components))
    if coder is Coder.PICTURE:
        return bytes(imagecodecs.png_encode(components))
    if coder is Coder.JPEG and tile.ndim == 2:
        return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=95))
    if coder is Coder.JPEG:
        return _jpeg(tile, stated, photometric)
    if stated is Stated.TRANSFORMED:
        return jpeg2000(tile, mct=True)
    if stated is Stated.CONVERTED:
        return jpeg2000(ycbcr(tile), boxed=True).replace(b"colr\1\0\0\0\0\0\x10", b"colr\1\0\0\0\0\0\x12")
    return jpeg2000(components, boxed=stated is Stated.RGB)


def _jpeg(tile: np.ndarray, stated: Stated, photometric: Photometric) -> bytes:
    if stated is Stated.NOTHING:
        colour = "YCBCR" if photometric is Photometric.YCBCR else "RGB"
        tables, rest = abbreviate(jpeg(tile, colour=colour))
        return b"\xff\xd8" + tables[2:-2] + rest[2:]
    return jpeg(tile, colour="RGB" if stated is Stated.RGB else "YCBCR")


def write_as_tiff(path: Path, key: Key) -> Path:
    coder, _, photometric = key
    aperio = photometric is Photometric.APERIO_YCBCR
    codes = {Coder.PLAIN: 8, Coder.JPEG: 7, Coder.JPEG2000: 33003 if aperio else 34712, Coder.PICTURE: 34933}
    return write_tiff(
        path,
        [encode(tile, key) for tile in padded_tiles()],
        compression=codes[coder],
        photometric=TIFF_PHOTOMETRIC[photometric],
        samples=1 if photometric in GREYS else 3,
        tags={530: ("H", [1, 1])} if photometric is Photometric.YCBCR else None,
    )


def write_as_dicom(path: Path, key: Key) -> Path:
    coder, _, photometric = key
    name = next(name for name, meaning in DICOM_NAMES.items() if meaning is photometric)
    if coder is not Coder.PLAIN:
        image = GREY if photometric in GREYS else PICTURE
        syntax = JPEGBaseline8Bit if coder is Coder.JPEG else JPEG2000
        rgb = iter([tile for _, tile in tiles_of(PICTURE)])
        return write_dicom(path, image, syntax=syntax, encode=lambda _: encode(next(rgb), key), photometric=name)
    pixels = {Photometric.GREY: GREY, Photometric.WHITE_IS_ZERO: 255 - GREY, Photometric.YCBCR: ycbcr(PICTURE)}
    return write_dicom(path, pixels.get(photometric, PICTURE), photometric=name)


def writers(key: Key) -> list:
    """Return the containers in which a key can be expressed."""
    coder, stated, photometric = key
    possible = {
        Coder.PLAIN: {Stated.NOTHING},
        Coder.PICTURE: {Stated.NOTHING},
        Coder.JPEG: {Stated.NOTHING} if photometric in GREYS else {Stated.NOTHING, Stated.RGB, Stated.YCBCR},
        Coder.JPEG2000: {Stated.NOTHING} if photometric in GREYS else set(Stated) - {Stated.YCBCR},
    }
    if stated not in possible[coder] or (photometric is Photometric.APERIO_YCBCR) > (coder is Coder.JPEG2000):
        return []
    found = [write_as_tiff] if photometric in TIFF_PHOTOMETRIC else []
    if coder is not Coder.PICTURE and photometric in DICOM_NAMES.values():
        found.append(write_as_dicom)
    return found


EXPRESSIBLE = [(write, key) for key in KEYS for write in writers(key)]


def label(value: object) -> str:
    return value.__name__ if callable(value) else "-".join(part.name.lower() for part in value)


def converted(path: Path, folder: Path, codec: str = "zstd") -> np.ndarray:
    manifest = convert(path, folder / "a.zarr", slide_id="a", config=Convert(codec=codec), mpp=0.5)
    with SlideReader(folder / manifest.store) as reader:
        return reader.read_level(0, 0, 0, reader.width, reader.height)


def mean_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(int) - expected).mean())


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    grey = pixels.ndim == 2 or pixels.shape[2] == 1
    return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2) if grey else pixels[:, :, :3]


def pydicom_frames(path: Path) -> np.ndarray:
    dataset = pydicom.dcmread(path)
    frames = dataset.pixel_array
    columns = -(-WIDTH // TILE)
    rows = [np.concatenate(frames[i : i + columns], axis=1) for i in range(0, len(frames), columns)]
    return np.concatenate(rows)[:HEIGHT, :WIDTH]


def by_others(path: Path) -> dict[str, np.ndarray]:
    """Read a file with every other reader that can: RGB (HEIGHT, WIDTH, 3)."""
    if path.suffix == ".dcm":
        readers = {"pydicom": pydicom_frames}
    else:
        readers = {
            "tifffile": tifffile.imread,
            "pillow": lambda path: np.asarray(Image.open(path).convert("RGB")),
            "openslide": openslide_level,
        }
    found = {}
    for name, read in readers.items():
        try:
            found[name] = as_rgb(read(path))
        except Exception:  # noqa: BLE001 - each reader refuses in its own way what it does not read
            continue
    return found


@pytest.mark.parametrize(("write", "key"), [pair for pair in EXPRESSIBLE if pair[1] in MEANINGS], ids=label)
@pytest.mark.parametrize("codec", ["jpeg", "zstd"])
def test_every_entry_shows_the_picture_in_every_container(codec, write, key, tmp_path):
    path = write(tmp_path / ("a.dcm" if write is write_as_dicom else "a.tif"), key)
    found = converted(path, tmp_path, codec)
    truth = as_rgb(GREY) if key[2] in GREYS else PICTURE
    # JPEG of quality 95 and 90 differs by 2 to 5 grey levels; wrong colours differ by 40 and more.
    assert mean_difference(found, truth) < (6 if codec == "jpeg" or key[0] is Coder.JPEG else 0.5)


ALONE = [
    # No other reader inverts these greys,
    (write_as_dicom, {Coder.PLAIN, Coder.JPEG, Coder.JPEG2000}, set(Stated), {Photometric.WHITE_IS_ZERO}),
    (write_as_tiff, {Coder.JPEG, Coder.JPEG2000, Coder.PICTURE}, set(Stated), {Photometric.WHITE_IS_ZERO}),
    # converts JPEG 2000 without a transform under these headers,
    (write_as_tiff, {Coder.JPEG2000}, {Stated.NOTHING}, set(YCC)),
    (write_as_dicom, {Coder.JPEG2000}, {Stated.NOTHING}, set(YCC)),
    # or knows that OpenJPEG has already converted the components: pydicom does it a second time.
    (write_as_dicom, {Coder.JPEG2000}, {Stated.CONVERTED}, {Photometric.YCBCR}),
]
"""What only the picture can confirm."""

AGREED = [
    (write, key)
    for write, key in EXPRESSIBLE
    if key in MEANINGS and not any(write is w and key[0] in c and key[1] in s and key[2] in p for w, c, s, p in ALONE)
]


@pytest.mark.parametrize(("write", "key"), AGREED, ids=label)
def test_another_reader_shows_the_same(write, key, tmp_path):
    path = write(tmp_path / ("a.dcm" if write is write_as_dicom else "a.tif"), key)
    found, others = converted(path, tmp_path), by_others(path)
    assert others, "no other reader reads it"
    assert min(mean_difference(found, other) for other in others.values()) < 1


@pytest.mark.parametrize(("write", "key"), [pair for pair in EXPRESSIBLE if pair[1] not in MEANINGS], ids=label)
def test_everything_else_is_refused(write, key, tmp_path):
    path = write(tmp_path / ("a.dcm" if write is write_as_dicom else "a.tif"), key)
    with pytest.raises(SlideError) as caught:
        converted(path, tmp_path)
    assert caught.value.reason is Reason.UNSUPPORTED


@given(
    key=st.sampled_from(KEYS),
    count=st.integers(1, 6),
    extra=st.lists(st.sampled_from(Alpha), max_size=2),
    bits=st.sampled_from([1, 7, 8, 12, 16]),
    integer=st.booleans(),
    subsampled=st.booleans(),
)
def test_any_combination_of_samples_is_decoded_or_refused(key, count, extra, bits, integer, subsampled):
    coder, stated, photometric = key
    samples = Samples(photometric, coder, stated, count, tuple(extra), bits, integer, subsampled)
    try:
        found = treatment(samples)
    except UnsupportedSlideError:
        return
    assert key in MEANINGS
    assert (bits, integer, subsampled) == (8, True, False)
    assert count == (1 if photometric in GREYS else 3) + len(extra)
    assert (found.jpeg is None) is (coder is not Coder.JPEG or photometric in GREYS)
    assert found.to_rgb(np.zeros((2, 3, count), np.uint8)).shape == (2, 3, 3)


@settings(max_examples=25)
@given(
    pixels=st.integers(0, 2**32 - 1).map(lambda s: np.random.default_rng(s).integers(0, 256, (40, 50, 4), np.uint8)),
    kind=st.sampled_from(["assocalpha", "unassalpha", "unspecified"]),
    compression=st.sampled_from([None, "lzw", "deflate", "zstd"]),
    separate=st.booleans(),
)
def test_a_fourth_sample_means_what_the_file_says(pixels, kind, compression, separate, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alpha")
    colour, alpha = pixels[:, :, :3].astype(int), pixels[:, :, 3:].astype(int)
    if kind == "assocalpha":
        pixels = np.concatenate([(colour * alpha // 255).astype(np.uint8), pixels[:, :, 3:]], axis=2)
    written = np.moveaxis(pixels, -1, 0) if separate else pixels
    options = {"planarconfig": "separate"} if separate else {}
    tifffile.imwrite(
        folder / "a.tif",
        written,
        photometric="rgb",
        compression=compression,
        extrasamples=(kind,),
        metadata=None,
        **options,
    )
    expected = colour if kind == "unspecified" else np.rint((colour * alpha + 255 * (255 - alpha)) / 255)
    assert np.abs(converted(folder / "a.tif", folder).astype(int) - expected).max() <= 1


# Further members of the kind


@pytest.mark.parametrize("name", ["YBR_PARTIAL_420", "YBR_FULL_420", "XYB", "CMYK", "HSV", ""])
def test_a_dicom_interpretation_without_a_known_meaning_is_refused(name, tmp_path):
    with pytest.raises(SlideError) as caught:
        converted(write_dicom(tmp_path / "a.dcm", photometric=name), tmp_path)
    assert caught.value.reason is Reason.UNSUPPORTED


def test_unencoded_subsampled_dicom_is_refused(tmp_path):
    with pytest.raises(SlideError, match="chroma") as caught:
        converted(write_dicom(tmp_path / "a.dcm", photometric="YBR_FULL_422"), tmp_path)
    assert caught.value.reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("tags", [None, {530: ("H", [2, 2])}, {530: ("H", [2, 1])}], ids=["default", "4:2:0", "4:2:2"])
def test_unencoded_subsampled_tiff_is_refused(tags, tmp_path):
    """Without the tag, TIFF 6.0 halves chroma along both axes."""
    tiles = [imagecodecs.zlib_encode(ycbcr(tile)) for tile in padded_tiles()]
    with pytest.raises(SlideError) as caught:
        converted(write_tiff(tmp_path / "a.tif", tiles, compression=8, photometric=6, tags=tags), tmp_path)
    assert caught.value.reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440"])
@pytest.mark.parametrize("colour", ["RGB", "YCBCR"])
def test_jpeg_tiles_of_any_sampling_are_copied_with_their_colours(colour, sampling, tmp_path):
    tiles = [jpeg(tile, colour=colour, sampling=sampling) for tile in padded_tiles()]
    path = write_tiff(tmp_path / "a.tif", tiles, compression=7, photometric=2 if colour == "RGB" else 6)
    found = converted(path, tmp_path, "jpeg")
    assert np.array_equal(found, openslide_level(path))


def test_a_marker_of_the_stream_is_stronger_than_the_header(tmp_path):
    """DICOM converters copy Aperio's RGB tiles under a header that states YBR_FULL_422 (wsidicomizer, dicom_wsi)."""
    encoding = {"syntax": JPEGBaseline8Bit, "photometric": "YBR_FULL_422"}
    path = write_dicom(tmp_path / "a.dcm", encode=lambda tile: jpeg(tile, colour="RGB"), **encoding)
    assert mean_difference(converted(path, tmp_path, "jpeg"), PICTURE) < 6


def test_tiles_that_state_different_colours_are_refused(tmp_path):
    """A writer that adds blank tiles of another encoder: RGB among YCbCr."""
    tiles = [jpeg(tile) for tile in padded_tiles()]
    tiles[8] = b"\xff\xd8" + b"".join(split_jpeg(jpeg(padded_tiles()[8], colour="RGB")))
    with pytest.raises(SlideError, match="different colour spaces") as caught:
        converted(write_tiff(tmp_path / "a.tif", tiles, compression=7, photometric=6), tmp_path, "jpeg")
    assert caught.value.reason is Reason.UNSUPPORTED


def test_tables_with_an_adobe_marker_do_not_count(tmp_path):
    tables, _ = split_jpeg(jpeg(PICTURE[:TILE, :TILE]))
    tiles = [b"\xff\xd8" + split_jpeg(jpeg(tile))[1] for tile in padded_tiles()]
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    path = write_tiff(
        tmp_path / "a.tif", tiles, compression=7, photometric=6, tables=b"\xff\xd8" + adobe + tables + b"\xff\xd9"
    )
    assert np.array_equal(converted(path, tmp_path, "jpeg"), openslide_level(path))


def test_a_jfif_stream_under_a_header_of_rgb(tmp_path):
    tiles = [jpeg(tile) for tile in padded_tiles()]
    assert all(b"JFIF" in tile for tile in tiles)
    path = write_tiff(tmp_path / "a.tif", tiles, compression=7, photometric=2)
    assert np.array_equal(converted(path, tmp_path, "jpeg"), tifffile.imread(path))


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (PICTURE.astype(np.uint16) * 257, {}),
        (PICTURE.astype(np.float32) / 255, {}),
        (np.concatenate([PICTURE, PICTURE[:, :, :2]], axis=2), {"extrasamples": ("unspecified", "unspecified")}),
    ],
    ids=["16 bit", "float", "five samples"],
)
def test_other_samples_are_refused(pixels, options, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **DEFLATED, **TAGS, **options)
    with pytest.raises(SlideError) as caught:
        converted(tmp_path / "a.tif", tmp_path)
    assert caught.value.reason is Reason.UNSUPPORTED


def test_signed_frames_are_refused(tmp_path):
    def sign(dataset: pydicom.Dataset) -> None:
        dataset.PixelRepresentation = 1

    with pytest.raises(SlideError, match="signed") as caught:
        converted(write_dicom(tmp_path / "a.dcm", change=sign), tmp_path)
    assert caught.value.reason is Reason.UNSUPPORTED


def test_inverted_grey_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", 255 - GREY, **DEFLATED | {"photometric": "miniswhite"}, **TAGS)
    assert np.array_equal(converted(tmp_path / "a.tif", tmp_path), as_rgb(GREY))
