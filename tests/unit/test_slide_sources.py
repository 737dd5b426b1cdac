"""Tests of reading each slide format: pixels, positions, levels, resolution and tile encodings."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from histomake.base.errors import Reason, SlideError
from histomake.base.records.manifest import Bounds
from histomake.config import Convert
from histomake.slide import source as slide_source
from histomake.slide import sources
from histomake.slide.convert import convert
from histomake.slide.encode import halve
from histomake.slide.plan import downsample_between
from histomake.slide.reader import SlideReader
from histomake.slide.source import open_source, resolve_mpp
from histomake.slide.sources.base import Source, SourceInfo, SourceLevel, over_white
from mrxs_file import PHOTO_PX, write_mrxs
from PIL import Image
from slide_files import (
    SHARED,
    block_places,
    expected_places,
    grid,
    openslide_level,
    reduced_grid,
    write_pyramid,
    write_scn,
)

from tests.bench.slides import big_slide

LOSSLESS = Convert(codec="zstd")
COPIED = Convert()
GRIDS = ("zlib", "LZW", "JPEG-2000", "JPEG")


def published_grid(compression: str, data: Path, tmp_path: Path) -> Path:
    """Return the grid in one compression. The published JPEG 2000 file is too large to commit, so it is made here."""
    folder = data / "slides" / "synthetic_grid"
    if compression != "JPEG-2000":
        return folder / f"XYC_-compression_{compression}_-tilex_128_-tiley_128_-pyramid-scale_2_-merge.ome.tiff"
    path = tmp_path / "grid.ome.tiff"
    pixels = np.asarray(Image.open(folder / "XYC.png"))
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", compression="jpeg2000", metadata={"axes": "YXS"})
    return path


def stored(
    source: Path, folder: Path, config: Convert = LOSSLESS, mpp: float | None = None
) -> tuple[dict, SlideReader]:
    manifest = convert(source, folder / "slide.zarr", slide_id="slide", config=config, mpp=mpp)
    return manifest, SlideReader(folder / manifest.store)


def grid_numbers(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of each 8 px block of the published grid, whose first 2 x 2 pixels encode them as bits."""
    bits = (pixels[:512, :512].reshape(64, 8, 64, 8, 3)[:, :2, :, :2] > 127).transpose(0, 2, 1, 3, 4)
    weights = np.array([[32, 16, 8], [4, 2, 1]])
    y, x = ((bits[:, :, line] * weights).sum(axis=(2, 3)) for line in (0, 1))
    return x, y


@pytest.mark.parametrize("compression", GRIDS[:3])  # JPEG does not preserve the bits in single pixels
def test_blocks_of_the_published_grid_are_at_their_encoded_positions(compression, data, tmp_path):
    _, reader = stored(published_grid(compression, data, tmp_path), tmp_path, mpp=0.5)
    x, y = grid_numbers(reader.read(0, 0, 512, 0.5))
    columns, rows = np.meshgrid(range(64), range(64))
    assert np.array_equal(x, columns)
    assert np.array_equal(y, rows)


@pytest.mark.parametrize("name", GRIDS)
def test_the_published_grid_equals_its_png(name, data, tmp_path):
    _, reader = stored(published_grid(name, data, tmp_path), tmp_path, mpp=0.5)
    truth = np.asarray(Image.open(data / "slides" / "synthetic_grid" / "XYC.png"))
    difference = np.abs(reader.read(0, 0, 512, 0.5).astype(int) - truth)
    # In the JPEG file the TIFF tag states RGB, but the streams are YCbCr. With the tag, the difference would be 56.
    assert difference.mean() <= (15 if name == "JPEG" else 0)


@pytest.mark.parametrize("subifds", [False, True], ids=["pages", "subifds"])
def test_every_level_of_a_pyramid_is_read_at_its_position(subifds, tmp_path):
    sizes = [(1000, 700, 1), (500, 350, 2), (125, 87, 8)]
    levels = [reduced_grid(*size, seed) for seed, size in enumerate(sizes)]
    path = write_pyramid(tmp_path / "pyramid.tif", levels, subifds=subifds, compression="zlib")
    manifest, reader = stored(path, tmp_path)
    assert [(level.width, level.height, level.downsample) for level in manifest.levels] == [
        (1000, 700, 1.0),
        (500, 350, 2.0),
        (125, 87, 8.0),
    ]
    for downsample, (x, y, size) in {1: (333, 141, 300), 2: (400, 100, 150), 8: (80, 160, 60)}.items():
        patch = reader.read(x, y, size, 0.5 * downsample)
        for found, wanted in zip(
            block_places(patch),
            expected_places(x // downsample, y // downsample, size, size, downsample),
            strict=True,
        ):
            assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib"},
        {"compression": "webp", "compressionargs": {"lossless": True}},
        {"compression": "jpeg2000"},
        {"compression": None, "tile": None, "rowsperstrip": 64},
        {"compression": "lzw", "tile": None, "rowsperstrip": 7},
        {"compression": "zlib", "tile": None, "rowsperstrip": 700},
        {"planarconfig": "separate", "compression": "zlib"},
        {"bigtiff": True, "compression": "zlib"},
        {"byteorder": ">", "compression": "lzw"},
    ],
    ids=str,
)
def test_lossless_tiffs_of_any_layout_keep_every_pixel(options, tmp_path):
    image = cv2.resize(grid(600, 400), (900, 700), interpolation=cv2.INTER_LINEAR)
    options = {"tile": (128, 128), "photometric": "rgb", "metadata": None, **options}
    opening = {key: options.pop(key) for key in ("bigtiff", "byteorder") if key in options}
    written = np.moveaxis(image, -1, 0) if options.get("planarconfig") == "separate" else image
    with tifffile.TiffWriter(tmp_path / "a.tif", **opening) as writer:
        writer.write(written, **options)
    _, reader = stored(tmp_path / "a.tif", tmp_path, mpp=0.5)
    assert np.array_equal(reader.read_level(0, 0, 0, 900, 700), image)


@pytest.mark.parametrize("tile", [(128, 128), None], ids=["tiled", "striped"])
def test_a_jpeg_tiff_equals_its_pixels_in_tifffile(tile, tmp_path):
    image = grid(600, 400)
    layout = {"tile": tile} if tile else {"rowsperstrip": 64}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression="jpeg", metadata=None, **layout)
    config = COPIED if tile else LOSSLESS  # strips are encoded again
    manifest, reader = stored(tmp_path / "a.tif", tmp_path, config, mpp=0.5)
    assert np.array_equal(reader.read_level(0, 0, 0, 600, 400), tifffile.imread(tmp_path / "a.tif"))
    assert manifest.levels[0].passthrough is (tile is not None)


@pytest.mark.parametrize("shape", [(300, 400), (300, 400, 1), (300, 400, 3), (300, 400, 4)], ids=str)
def test_arrays_of_all_supported_shapes_are_read(shape, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    manifest, reader = stored(tmp_path / "a.npy", tmp_path, mpp=0.5)
    pixels = reader.read_level(0, 0, 0, 400, 300)
    wanted = over_white(array) if shape[-1:] == (4,) else np.broadcast_to(array.reshape(300, 400, -1), (300, 400, 3))
    assert np.array_equal(pixels, wanted)
    assert manifest.mpp_source == "sheet"


def test_pictures_keep_every_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    _, reader = stored(tmp_path / "a.png", tmp_path, mpp=0.5)
    assert np.array_equal(reader.read_level(0, 0, 0, 400, 300), pixels)


def test_transparent_pixels_become_white(tmp_path):
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, 32:, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    _, reader = stored(tmp_path / "a.png", tmp_path, mpp=0.5)
    assert reader.read_level(0, 0, 0, 64, 64)[0, [0, 40], 0].tolist() == [255, 0]


@pytest.mark.parametrize("colour", ["RGB", "YCBCR"])
def test_svs_levels_are_copied_and_equal_openslide(colour, tmp_path):
    source = big_slide(tmp_path, 2404, colour=colour)
    manifest, reader = stored(source, tmp_path, COPIED)
    assert [level.downsample for level in manifest.levels] == [1.0, 4.0, 16.0]
    for index, level in enumerate(manifest.levels):
        assert level.passthrough
        shown = reader.read_level(index, 0, 0, level.width, level.height)
        assert np.array_equal(shown, openslide_level(source, index))


def test_a_real_svs_equals_openslide(data, tmp_path):
    source = data / "slides" / "CMU-1-Small-Region.svs"
    manifest, reader = stored(source, tmp_path)
    assert np.array_equal(reader.read_level(0, 0, 0, 2220, 2967), openslide_level(source))
    assert (manifest.mpp, manifest.mpp_source, manifest.vendor) == (0.499, "vendor", "aperio")


def test_an_svs_without_a_thumbnail_keeps_its_second_level(tmp_path):
    levels = [grid(800, 600), reduced_grid(400, 300, 2), reduced_grid(200, 150, 4)]
    write_pyramid(tmp_path / "a.svs", levels, compression="jpeg", description="Aperio Image Library v1|MPP = 0.25")
    manifest, _ = stored(tmp_path / "a.svs", tmp_path)
    assert [level.width for level in manifest.levels] == [800, 400, 200]
    assert manifest.mpp == 0.25


@pytest.mark.parametrize(("code", "copied"), [(33003, False), (33005, True)])
def test_aperio_jpeg2000_is_copied_if_its_components_are_rgb(code, copied, tmp_path):
    image = cv2.GaussianBlur(grid(256, 256), (0, 0), 3)
    pixels = image if copied else cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[:, :, [0, 2, 1]]
    tiles = [
        imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(pixels[y : y + 128, x : x + 128]), codecformat="J2K", mct=False, reversible=True
        )
        for y in (0, 128)
        for x in (0, 128)
    ]
    with tifffile.TiffWriter(tmp_path / "a.svs") as writer:
        writer.write(
            iter(tiles),
            shape=image.shape,
            dtype=np.uint8,
            tile=(128, 128),
            photometric="rgb",
            compression=code,
            description="Aperio Image Library v1|MPP = 0.25",
            metadata=None,
        )
    manifest, reader = stored(tmp_path / "a.svs", tmp_path, COPIED)
    assert manifest.levels[0].passthrough is copied
    assert np.abs(reader.read_level(0, 0, 0, 256, 256).astype(int) - image).max() <= (0 if copied else 2)


@pytest.mark.parametrize("one_file", [False, True], ids=["folder", "file"])
def test_a_dicom_slide_equals_its_svs(one_file, data, tmp_path):
    source = data / "slides" / "CMU-1-Small-Region_dicom"
    source = max(source.iterdir(), key=lambda p: p.stat().st_size) if one_file else source
    manifest, reader = stored(source, tmp_path, COPIED)
    assert np.array_equal(
        reader.read_level(0, 0, 0, 2220, 2967), openslide_level(data / "slides" / "CMU-1-Small-Region.svs")
    )
    assert manifest.levels[0].passthrough
    assert manifest.mpp == pytest.approx(0.499)


def test_a_dicom_slide_equals_openslide(data, tmp_path):
    source = data / "slides" / "camelyon-lowres.dcm"
    manifest, reader = stored(source, tmp_path)
    difference = np.abs(reader.read_level(0, 0, 0, 1152, 700).astype(int) - openslide_level(source))
    assert difference.max() == 0
    assert manifest.mpp == pytest.approx(28.97, abs=0.01)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "codec", "tolerance"), [("-J2K_dicom", "jpeg", 0), (".jp2.tiff", "jpeg2k", 0.6)], ids=["dicom", "tiff"]
)
def test_large_versions_of_the_svs_are_copied_and_show_the_same_pixels(name, codec, tolerance, data, tmp_path):
    """The DICOM series has JPEG 2000 in its name but contains JPEG; the TIFF was re-encoded as JPEG 2000."""
    manifest, reader = stored(SHARED / f"CMU-1-Small-Region{name}", tmp_path, COPIED, mpp=0.499)
    level = manifest.levels[0]
    assert (level.codec, level.passthrough) == (codec, True)
    truth = openslide_level(data / "slides" / "CMU-1-Small-Region.svs")
    assert np.abs(reader.read_level(0, 0, 0, 2220, 2967).astype(int) - truth).mean() <= tolerance


@pytest.mark.parametrize("order", ["columns", "backwards", "random"])
def test_tiles_in_any_file_order_are_read_at_their_positions(order, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    path = write_pyramid(tmp_path / "a.tif", [image], compression="jpeg", tile=(32, 32))
    truth = tifffile.imread(path)
    _shuffle_tiles(path, order)
    assert np.array_equal(tifffile.imread(path), truth)
    config = Convert(shard_px=256)
    manifest = convert(path, tmp_path / "a.zarr", slide_id="a", config=config, threads=2)
    assert manifest.levels[0].passthrough
    with SlideReader(tmp_path / "a.zarr") as reader:
        assert np.array_equal(reader.read_level(0, 0, 0, 768, 512), truth)


def _shuffle_tiles(path: Path, order: str) -> None:
    """Append the tiles of a TIFF again, in another order, and make its header point to the copies."""
    content = path.read_bytes()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = tiff.pages[0]
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        places = np.arange(len(offsets)).reshape(16, 24)
        places = {"columns": places.T.ravel(), "backwards": places.ravel()[::-1]}.get(order, places.ravel())
        if order == "random":
            places = np.random.default_rng(1).permutation(places)
        end, moved, added = len(content), list(offsets), b""
        for i in places:
            moved[i] = end + len(added)
            added += content[offsets[i] : offsets[i] + counts[i]]
        page.tags["TileOffsets"].overwrite(moved)
    with path.open("ab") as stream:
        stream.seek(end)
        stream.write(added)


def test_frames_in_any_file_order_are_read_at_their_positions(data, tmp_path):
    source = max((data / "slides" / "CMU-1-Small-Region_dicom").iterdir(), key=lambda p: p.stat().st_size)
    dataset = pydicom.dcmread(source)
    columns = -(-dataset.TotalPixelMatrixColumns // dataset.Columns)
    frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))
    order = np.random.default_rng(0).permutation(len(frames))[:-3]
    dataset.DimensionOrganizationType = "TILED_SPARSE"
    dataset.NumberOfFrames = len(order)
    dataset.PerFrameFunctionalGroupsSequence = [_place(int(i), columns, dataset) for i in order]
    dataset.PixelData = pydicom.encaps.encapsulate([frames[i] for i in order])
    dataset.save_as(tmp_path / "sparse.dcm")
    manifest, reader = stored(tmp_path / "sparse.dcm", tmp_path, COPIED)
    truth = openslide_level(data / "slides" / "CMU-1-Small-Region.svs")
    for index in range(len(frames)):
        row, column = divmod(index, columns)
        box = slice(row * 240, row * 240 + 240), slice(column * 240, column * 240 + 240)
        shown = reader.read_level(0, 0, 0, 2220, 2967)[box] if index < 3 else None
        if shown is not None:
            assert np.array_equal(shown, truth[box] if index in order else np.full_like(shown, 255))
    assert manifest.levels[0].empty_tiles == 3


def _place(index: int, columns: int, dataset: pydicom.Dataset) -> pydicom.Dataset:
    position = pydicom.Dataset()
    position.ColumnPositionInTotalImagePixelMatrix = index % columns * dataset.Columns + 1
    position.RowPositionInTotalImagePixelMatrix = index // columns * dataset.Rows + 1
    group = pydicom.Dataset()
    group.PlanePositionSlideSequence = [position]
    return group


@pytest.mark.shared
def test_ndpi_equals_openslide(tmp_path):
    source = SHARED / "fluorescence-DAPI.ndpi"
    manifest, reader = stored(source, tmp_path)
    for index, level in enumerate(manifest.levels):
        shown = reader.read_level(index, 0, 0, level.width, level.height)
        assert np.array_equal(shown, openslide_level(source, index))
    assert (manifest.vendor, round(manifest.mpp, 4)) == ("hamamatsu", 0.2282)


def test_the_empty_margin_around_a_scan_is_kept_as_empty_tiles(tmp_path):
    """MRXS and SCN place the scan on a larger canvas. Positions are those of OpenSlide, so annotations match."""
    area = grid(768, 512, seed=90)
    source = write_scn(tmp_path / "a.scn", [area, area[::4, ::4]], offset=(1024, 512), canvas=(4096, 3072))
    manifest, reader = stored(source, tmp_path, mpp=0.5)
    assert (manifest.width, manifest.height) == (4096, 3072)
    assert manifest.bounds == Bounds(**{"x": 1024, "y": 512, "width": 768, "height": 512})
    assert manifest.levels[0].empty_tiles == 16 * 12 - 3 * 2
    for index in (0, 1):
        shown = reader.read_level(index, 0, 0, reader.levels[index].width, reader.levels[index].height)
        assert np.array_equal(shown, openslide_level(source, index))
    assert reader.read(900, 400, 100, 0.5).min() == 255
    assert np.abs(reader.read(1024, 512, (768, 512), 0.5).astype(int) - area).mean() < 4


@pytest.fixture
def mrxs(tmp_path) -> tuple[Path, list[np.ndarray]]:
    """A MIRAX slide of six photos taken off the grid, and the expected pixels of its levels."""
    canvas, covered = grid(477, 418, seed=90), np.zeros((418, 477), bool)
    jitter = 4 * np.random.default_rng(0).integers(0, 2, (8, 7, 2))
    photos = {(c, r): (60 * c + int(jitter[c, r, 0]), 60 * r + int(jitter[c, r, 1])) for c in (2, 3, 4) for r in (1, 2)}
    for x, y in photos.values():
        covered[y : y + PHOTO_PX, x : x + PHOTO_PX] = True
    truth = [canvas, halve(canvas), halve(halve(canvas))]
    sizes = [(418, 477), (209, 238), (104, 119)]  # halves are rounded down, as in OpenSlide
    truth = [
        np.where(covered[:: 1 << i, :: 1 << i, None], level, 255)[:h, :w].astype(np.uint8)
        for i, (level, (h, w)) in enumerate(zip(truth, sizes, strict=True))
    ]
    return write_mrxs(tmp_path / "in" / "a.mrxs", canvas, photos, images=(8, 7), overlap=5), truth


def test_an_mrxs_is_read_at_its_position_on_every_level(mrxs, tmp_path):
    path, truth = mrxs
    manifest, reader = stored(path, tmp_path)
    assert (manifest.vendor, manifest.mpp, manifest.mpp_source) == ("mirax", 0.25, "vendor")
    assert [(level.width, level.height, level.downsample) for level in manifest.levels] == [
        (477, 418, 1.0),
        (238, 209, 2.0),  # not 477 / 238 = 2.004
        (119, 104, 4.0),
    ]
    ys, xs = np.nonzero((truth[0] != 255).any(axis=2))
    assert manifest.bounds == Bounds(x=xs.min(), y=ys.min(), width=np.ptp(xs) + 1, height=np.ptp(ys) + 1)
    for index, expected in enumerate(truth):
        shown = reader.read_level(index, 0, 0, *expected.shape[1::-1])
        assert np.array_equal(shown, expected)
        assert np.array_equal(shown, openslide_level(path, index))
        x, y = 160 >> index, 80 >> index
        patch = reader.read(160, 80, 24, 0.25 * (1 << index))
        assert np.array_equal(patch, expected[y : y + 24, x : x + 24])


def test_an_mrxs_is_hashed_with_its_data_files_and_its_patient_name_is_not_copied(mrxs, tmp_path):
    path, _ = mrxs
    manifest, _ = stored(path, tmp_path)
    assert manifest.associated == {"label": "left out: it may show the patient's name"}
    assert "Doe" in (path.with_suffix("") / "Slidedat.ini").read_text()
    assert "Doe" not in json.dumps(manifest.dump())
    data = path.with_suffix("") / "Data0000.dat"
    data.write_bytes(data.read_bytes() + b"\0")
    assert stored(path, tmp_path)[0].sha256 != manifest.sha256


def test_the_format_is_detected_from_the_content(data, tmp_path):
    path = tmp_path / "slide.npy"
    path.write_bytes((data / "slides" / "CMU-1-Small-Region.svs").read_bytes())
    with open_source(path, slide_id="a") as slide:
        assert slide.info.vendor == "aperio"


@pytest.mark.parametrize(
    ("full", "part", "expected"),
    [
        ((46_001, 32_914), (2875, 2057), 16.0),
        ((46_001, 32_914), (2876, 2058), 16.0),
        ((1000, 1000), (1000, 1000), 1.0),
        ((1000, 800), (400, 320), 2.5),
        ((100_000, 100_000), (6000, 6000), 100 / 6),
    ],
)
def test_a_downsample_is_a_whole_factor_if_rounding_explains_the_sizes(full, part, expected):
    assert downsample_between(SourceLevel(*full, 1, 1), SourceLevel(*part, 1, 1)) == pytest.approx(expected, rel=1e-9)


def info(**fields: object) -> SourceInfo:
    return SourceInfo("tiff", "generic-tiff", (), **fields)


@pytest.mark.parametrize(
    ("fields", "sheet", "mpp", "origin"),
    [
        ({"vendor_mpp": (0.25, 0.25), "tag_mpp": (0.5, 0.5)}, 0.3, 0.3, "sheet"),
        ({"vendor_mpp": (0.25, 0.25), "tag_mpp": (0.5, 0.5)}, None, 0.25, "vendor"),
        ({"vendor_mpp": (0.0, 0.0), "tag_mpp": (0.5, 0.5)}, None, 0.5, "tiff_tags"),
        ({"tag_mpp": (0.5, 0.502)}, None, 0.501, "tiff_tags"),
    ],
)
def test_the_first_plausible_resolution_is_used(fields, sheet, mpp, origin):
    resolution = resolve_mpp(info(**fields), sheet, slide_id="a", path=Path("a.svs"))
    assert (resolution.mpp, resolution.origin) == (pytest.approx(mpp), origin)


@pytest.mark.parametrize("tag_mpp", [None, (0.00499, 0.00499), (20.1, 20.1), (352.8, 352.8)])
def test_a_slide_without_a_plausible_resolution_is_refused(tag_mpp):
    with pytest.raises(SlideError, match="mpp column") as caught:
        resolve_mpp(info(tag_mpp=tag_mpp), None, slide_id="a", path=Path("a.tif"))
    assert caught.value.reason is Reason.NO_MPP


def source_classes() -> set[str]:
    """Names of all classes that read slides."""
    folder = Path(sources.__file__).parent
    modules = [importlib.import_module(f"{sources.__name__}.{file.stem}") for file in folder.glob("[a-z]*.py")]
    found = {cls for module in modules for cls in vars(module).values() if isinstance(cls, type)}
    return {cls.__name__ for cls in found if issubclass(cls, Source) and not inspect.isabstract(cls)}


def test_every_source_is_opened_for_some_content():
    # A new module of slide/sources is of no use until source.py tells when its format is there.
    chosen = inspect.getsource(slide_source._family)
    assert not [name for name in source_classes() if name not in chosen]


POSITIONS = {
    "DicomSource": test_a_dicom_slide_equals_its_svs,
    "NpySource": test_arrays_of_all_supported_shapes_are_read,
    "OpenSlideSource": test_an_mrxs_is_read_at_its_position_on_every_level,
    "PictureSource": test_pictures_keep_every_pixel,
    "TiffSource": test_every_level_of_a_pyramid_is_read_at_its_position,
}
"""Tests that pixels of every source are read at their position."""


def test_the_pixels_of_every_source_are_compared_with_known_ones():
    assert set(POSITIONS) == source_classes()


def test_the_readme_names_every_module_that_reads_slides():
    named = (Path(slide_source.__file__).parent / "README.md").read_text()
    modules = {file.stem for file in Path(sources.__file__).parent.glob("[a-z]*.py")} - {"base"}
    assert not [name for name in modules if f"`sources/{name}.py`" not in named]
