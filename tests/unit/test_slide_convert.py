"""Tests of conversion: content of the store, compatibility with other readers, and the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import dask.array
import numpy as np
import pytest
import tifffile
import zarr
from histomake.base.errors import Reason, SlideError
from histomake.base.files import sha256_file, sha256_tree
from histomake.base.records.manifest import Manifest
from histomake.config import Convert
from histomake.slide.codec import TileCoding
from histomake.slide.convert import convert
from histomake.slide.encode import halve
from histomake.slide.reader import SlideReader
from histomake.slide.source import open_source
from histomake.slide.store import Store
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import Image
from slide_files import grid, openslide_level, write_pyramid

from tests.bench.slides import big_slide


@pytest.fixture(scope="module")
def svs(tmp_path_factory) -> Path:
    return big_slide(tmp_path_factory.mktemp("svs"), 2404)


@pytest.fixture(scope="module")
def store(svs, tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("store")
    manifest = convert(svs, folder / "a.zarr", slide_id="a", config=Convert(shard_px=1024), threads=2)
    return manifest, folder / "a.zarr"


def test_encoded_tiles_are_copied_byte_for_byte(svs, store):
    stored = Store(store[1])
    with tifffile.TiffFile(svs) as tiff, svs.open("rb") as stream:
        pages = [page for page in tiff.pages if page.is_tiled]
        assert len(pages) == 3
        for index, page in enumerate(pages):
            columns = stored.levels[index].grid[1]
            for i, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
                stream.seek(offset)
                assert stored.tile(index, *divmod(i, columns)) == stream.read(count)


def test_zarr_and_dask_read_the_same_pixels_as_openslide(svs, store):
    truth = np.moveaxis(openslide_level(svs), -1, 0)
    assert np.array_equal(zarr.open(store[1], mode="r")["0"][...], truth)
    assert np.array_equal(dask.array.from_zarr(store[1], component="0").compute(), truth)


def test_ome_zarr_reads_every_level(store):
    (node, *_) = Reader(parse_url(store[1]))()
    assert [level.shape for level in node.data] == [(3, 2404, 2404), (3, 601, 601), (3, 150, 150)]
    assert int(node.data[2].compute().min()) < 255


def test_the_metadata_is_valid_ome_zarr(store):
    image = Image.from_zarr(zarr.open_group(store[1], mode="r"))
    (multiscale,) = image.ome_attributes.multiscales
    assert [(axis.name, axis.unit) for axis in multiscale.axes] == [
        ("c", None),
        ("y", "micrometer"),
        ("x", "micrometer"),
    ]
    scales = [d.coordinateTransformations[0].scale for d in multiscale.datasets]
    assert scales == [[1.0, 0.499 * d, 0.499 * d] for d in (1, 4, 16)]


def test_levels_share_their_top_left_corner(store):
    image = Image.from_zarr(zarr.open_group(store[1], mode="r"))
    for dataset in image.ome_attributes.multiscales[0].datasets:
        scale, shift = (t.scale if t.type == "scale" else t.translation for t in dataset.coordinateTransformations)
        assert shift[2] - scale[2] / 2 == pytest.approx(-0.499 / 2)


def test_the_manifest_describes_the_store(svs, store):
    manifest, path = store
    assert Manifest.decode(json.dumps(manifest.dump(), allow_nan=False), "a.json") == manifest
    assert manifest.sha256 == sha256_file(svs)
    assert manifest.bytes_in == svs.stat().st_size
    assert manifest.bytes_out == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    assert manifest.files == len(manifest.checksums) == sum(p.is_file() for p in path.rglob("*"))
    assert [level.mpp for level in manifest.levels] == pytest.approx([0.499, 1.996, 7.984])
    assert set(manifest.seconds) == {"open", "tiles", "commit", "total"}


def test_a_store_is_at_most_2_percent_larger_than_its_source(svs, tmp_path):
    manifest = convert(svs, tmp_path / "a.zarr", slide_id="a", config=Convert())
    assert manifest.bytes_out <= 1.02 * manifest.bytes_in


def test_a_folder_is_hashed_as_a_tree(data, tmp_path):
    source = data / "slides" / "CMU-1-Small-Region_dicom"
    manifest = convert(source, tmp_path / "a.zarr", slide_id="a", config=Convert())
    assert manifest.sha256 == sha256_tree(source)


@pytest.mark.parametrize("shard_px", [256, 512, 1000, 8192])
def test_the_shard_size_does_not_change_pixels(shard_px, svs, store, tmp_path):
    convert(svs, tmp_path / "a.zarr", slide_id="a", config=Convert(shard_px=shard_px))
    with SlideReader(tmp_path / "a.zarr") as ours, SlideReader(store[1]) as theirs:
        assert np.array_equal(ours.read_level(0, 0, 0, 2404, 2404), theirs.read_level(0, 0, 0, 2404, 2404))


@pytest.mark.parametrize("codec", ["jpeg", "jpegxl", "zstd"])
def test_every_codec_gives_the_same_pixels_in_zarr_and_the_reader(codec, data, tmp_path):
    truth = tifffile.imread(data / "slides" / "CMU-1-Small-Region.webp.tiff")[:700, -1100:, :3]
    np.save(tmp_path / "a.npy", truth)
    manifest = convert(
        tmp_path / "a.npy", tmp_path / "a.zarr", slide_id="a", config=Convert(codec=codec), mpp=0.5, threads=2
    )
    with SlideReader(tmp_path / "a.zarr") as reader:
        for index, level in enumerate(manifest.levels):
            shown = reader.read_level(index, 0, 0, level.width, level.height)
            by_zarr = np.moveaxis(zarr.open(tmp_path / "a.zarr", mode="r")[str(index)][...], 0, -1)
            assert np.array_equal(by_zarr, shown)
            assert np.array_equal(by_zarr, _as_stated(Store(tmp_path / "a.zarr"), index))
        difference = np.abs(reader.read_level(0, 0, 0, 1100, 700).astype(int) - truth).mean()
    assert difference == 0 if codec == "zstd" else 0 < difference < 2


def _as_stated(store: Store, index: int) -> np.ndarray:
    """Decode the tiles of a level with nothing but the settings of its codec."""
    level = store.levels[index]
    rows = [
        np.hstack(
            [
                level.coding.decode_as_stated(tile, level.tile_shape)
                for tile in store.tiles(index, row, 0, level.grid[1])
            ]
        )
        for row in range(level.grid[0])
    ]
    return np.vstack(rows)[: level.height, : level.width]


def test_tiles_that_zarr_python_decodes_to_other_colours_are_refused(svs, tmp_path, monkeypatch):
    decode = TileCoding.decode_as_stated
    monkeypatch.setattr(TileCoding, "decode_as_stated", lambda *given: decode(*given)[:, :, ::-1])
    with pytest.raises(SlideError, match="can be read in two ways: at row") as caught:
        convert(svs, tmp_path / "a.zarr", slide_id="a", config=Convert())
    assert caught.value.reason is Reason.UNSUPPORTED


def test_a_pyramid_is_made_for_a_source_without_one(data, tmp_path):
    source = data / "slides" / "CMU-1-Small-Region.webp.tiff"
    manifest = convert(source, tmp_path / "a.zarr", slide_id="a", config=Convert(codec="zstd"), mpp=0.5)
    sizes = [(level.width, level.height, level.downsample) for level in manifest.levels]
    assert sizes == [(2220, 2967, 1.0), (1110, 1484, 2.0), (555, 742, 4.0)]
    with SlideReader(tmp_path / "a.zarr") as reader:
        full, half = reader.read_level(0, 0, 0, 2220, 2967), reader.read_level(1, 0, 0, 1110, 1484)
    assert np.array_equal(half, halve(full))


def test_a_wide_pyramid_is_made_in_several_passes(tmp_path):
    image = np.repeat(np.repeat(grid(1300, 40), 14, axis=1), 14, axis=0)
    np.save(tmp_path / "a.npy", image)
    manifest = convert(tmp_path / "a.npy", tmp_path / "a.zarr", slide_id="a", config=Convert(codec="zstd"), mpp=0.5)
    assert [level.width for level in manifest.levels] == [18200, 9100, 4550, 2275, 1138, 569]
    expected = image
    with SlideReader(tmp_path / "a.zarr") as reader:
        for index, level in enumerate(manifest.levels):
            shown = reader.read_level(index, 0, 0, level.width, level.height)
            assert np.abs(shown.astype(int) - expected).max() <= 1
            expected = halve(expected)


@pytest.mark.parametrize("tile_px", [64, 512, 2048])
def test_a_pyramid_is_made_for_any_tile_size(tile_px, tmp_path):
    image = grid(2600, 1100)
    np.save(tmp_path / "a.npy", image)
    config = Convert(codec="zstd", tile_px=tile_px)
    manifest = convert(tmp_path / "a.npy", tmp_path / "a.zarr", slide_id="a", config=config, mpp=0.5, threads=2)
    assert [level.width for level in manifest.levels] == [2600, 1300, 650]
    with SlideReader(tmp_path / "a.zarr") as reader:
        assert np.array_equal(reader.read_level(0, 0, 0, 2600, 1100), image)
        assert np.array_equal(reader.read_level(1, 0, 0, 1300, 550), halve(image))


def test_the_number_of_threads_changes_no_byte(data, tmp_path):
    source = data / "slides" / "CMU-1-Small-Region.webp.tiff"
    trees = []
    for threads in (1, 3):
        path = tmp_path / str(threads) / "a.zarr"
        convert(source, path, slide_id="a", config=Convert(tile_px=64, shard_px=1024), mpp=0.5, threads=threads)
        trees.append(sha256_tree(path))
    assert trees[0] == trees[1]


def test_tiles_missing_in_a_tiff_are_white_and_counted(tmp_path):
    full = np.full((128, 128, 3), 40, np.uint8)
    tiles = [full, None, full, full, full, full]
    for compression in ("jpeg", "zlib"):
        path = tmp_path / f"{compression}.tif"
        tifffile.imwrite(
            path,
            iter(tiles),
            shape=(256, 384, 3),
            dtype=np.uint8,
            tile=(128, 128),
            photometric="rgb",
            compression=compression,
            metadata=None,
        )
        manifest = convert(path, tmp_path / "a.zarr", slide_id="a", config=Convert(tile_px=128), mpp=0.5)
        with SlideReader(tmp_path / "a.zarr") as reader:
            pixels = reader.read_level(0, 0, 0, 384, 256)
        assert manifest.levels[0].empty_tiles == 1
        assert pixels[:128, 128:256].min() == 255
        assert abs(int(pixels[128:].mean()) - 40) <= 1


def test_levels_keep_their_tile_sizes_and_jpeg_tables(tmp_path):
    path = tmp_path / "a.tif"
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with tifffile.TiffWriter(path) as writer:
        for step, (tile, level) in enumerate([(256, 95), (128, 40)]):
            writer.write(
                image[:: 1 << step, :: 1 << step],
                tile=(tile, tile),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": level},
                subfiletype=step,
                metadata=None,
            )
    manifest = convert(path, tmp_path / "a.zarr", slide_id="a", config=Convert(), mpp=0.5)
    assert [level.passthrough for level in manifest.levels] == [True, True]
    with SlideReader(tmp_path / "a.zarr") as reader, tifffile.TiffFile(path) as tiff:
        assert [level.tile_width for level in reader.levels] == [256, 128]
        for index, page in enumerate(tiff.pages):
            assert np.array_equal(reader.read_level(index, 0, 0, page.imagewidth, page.imagelength), page.asarray())


def test_a_level_with_cropped_edge_tiles_is_re_encoded(tmp_path):
    image = grid(300, 200)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression="jpeg", rowsperstrip=128, metadata=None)
    manifest = convert(tmp_path / "a.tif", tmp_path / "a.zarr", slide_id="a", config=Convert(codec="zstd"), mpp=0.5)
    assert [level.codec for level in manifest.levels] == ["zstd"]
    with SlideReader(tmp_path / "a.zarr") as reader:
        assert np.array_equal(reader.read_level(0, 0, 0, 300, 200), tifffile.imread(tmp_path / "a.tif"))


def test_a_zip_store_is_one_file_for_zarr_and_the_reader(svs, store, tmp_path):
    convert(svs, tmp_path / "a.zarr", slide_id="a", config=Convert())
    manifest = convert(svs, tmp_path / "a.zarr", slide_id="a", config=Convert(store="zip"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr.zip"] == [manifest.store]
    with SlideReader(tmp_path / "a.zarr.zip") as ours, SlideReader(store[1]) as theirs:
        assert np.array_equal(ours.read(500, 600, 700, 0.499), theirs.read(500, 600, 700, 0.499))
    with zarr.storage.ZipStore(tmp_path / "a.zarr.zip", mode="r") as archive:
        assert zarr.open_group(archive, mode="r")["2"][...].shape == (3, 150, 150)


def test_changing_from_zip_to_directory_leaves_one_store(svs, tmp_path):
    for kind in ("zip", "directory"):
        convert(svs, tmp_path / "a.zarr", slide_id="a", config=Convert(store=kind))
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_the_label_image_is_stored_only_on_request(data, tmp_path):
    source = data / "slides" / "CMU-1-Small-Region.svs"
    without = convert(source, tmp_path / "a.zarr", slide_id="a", config=Convert())
    assert sorted(p.name for p in (tmp_path / "a.zarr" / "associated").iterdir()) == ["thumbnail", "zarr.json"]
    assert all(without.associated[name].startswith("left out") for name in ("label", "macro"))
    convert(source, tmp_path / "a.zarr", slide_id="a", config=Convert(keep_label_image=True))
    with open_source(source, slide_id="a") as slide:
        label = slide.associated()["label"]()
    kept = np.moveaxis(zarr.open(tmp_path / "a.zarr", mode="r")["associated/label"][...], 0, -1)
    assert np.abs(kept.astype(int) - label).mean() < 4


def test_operator_and_dates_are_not_copied(data, tmp_path):
    source = data / "slides" / "CMU-1-Small-Region.svs"
    manifest = convert(source, tmp_path / "a.zarr", slide_id="a", config=Convert())
    text = json.dumps(manifest.dump()) + "".join(p.read_text() for p in (tmp_path / "a.zarr").rglob("zarr.json"))
    assert manifest.properties["aperio.AppMag"] == "20"
    for private in ("12/29/09", "b414003d", "CPAPERIOCS"):
        assert private in source.read_bytes().decode("latin1")
        assert private not in text


def test_pixels_that_are_almost_square_keep_both_spacings(tmp_path):
    write_pyramid(tmp_path / "a.tif", [grid(300, 200)], compression="zlib", subifds=False)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[0].tags["YResolution"].overwrite((20_100, 1))
    manifest = convert(tmp_path / "a.tif", tmp_path / "a.zarr", slide_id="a", config=Convert())
    assert (manifest.mpp_x, manifest.mpp_y) == pytest.approx((0.5, 0.49751), rel=1e-4)
    image = Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    scale = image.ome_attributes.multiscales[0].datasets[0].coordinateTransformations[0].scale
    assert scale == pytest.approx([1, 0.49751, 0.5], rel=1e-4)
