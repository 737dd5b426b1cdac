"""Unusual label masks: of one bit, truncated, sparse, huge. Each is read correctly, reported, or refused."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from histomake.annotation import mask as mask_module
from histomake.annotation.drawn import AnnotationError
from histomake.annotation.formats import MASK_SUFFIXES
from histomake.annotation.mask import OPENERS, open_mask, parts
from histomake.annotation.model import Annotation
from histomake.annotation.png_rows import PngRows
from histomake.annotation.read import read_annotation
from histomake.annotation.write import write_annotation
from histomake.base.errors import SlideError
from histomake.config import Annotations
from PIL import Image

WIDTH, HEIGHT = 555, 742
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[100:475, 100:425] = True  # 121,875 px


def read(path: Path, *, width=WIDTH, height=HEIGHT, **classes) -> Annotation:
    config = Annotations(classes=classes or {"1": "tumor", "2": "stroma", "255": "tumor"})
    return read_annotation(path, config, slide_id="s1", width=width, height=height)


def refusal(path: Path, **keys) -> str:
    with pytest.raises(SlideError) as caught:
        read(path, **keys)
    return caught.value.detail


def labels(annotation: Annotation) -> np.ndarray:
    return annotation.label_image.read(slice(None), slice(None))


# Masks of true and false


def save_bool(path: Path, kind: str) -> Path:
    path = path / kind
    if kind == "bool.npy":
        np.save(path, MASK)
    elif kind == "1bit.png":
        Image.fromarray(MASK).save(path)
    elif kind == "bilevel.tif":
        tifffile.imwrite(path, MASK, compression="deflate", rowsperstrip=50)
    elif kind == "bilevel_pillow.tif":
        Image.fromarray(MASK).save(path)
    elif kind == "fortran.npy":
        np.save(path, np.asfortranarray(MASK))
    else:
        zarr.create_array(path, data=MASK, chunks=(128, 128))
    return path


@pytest.mark.parametrize(
    "kind", ["bool.npy", "fortran.npy", "1bit.png", "bilevel.tif", "bilevel_pillow.tif", "bool.zarr"]
)
def test_a_mask_of_true_and_false_has_the_labels_1_and_0(tmp_path, kind):
    annotation = read(save_bool(tmp_path, kind))
    assert annotation.record.area_px == {"tumor": 121_875}
    np.testing.assert_array_equal(labels(annotation) == 2, MASK)  # class names are sorted: stroma, tumor


@pytest.mark.parametrize("content", [MASK, MASK.astype(np.uint8)])
def test_a_tiff_that_states_0_as_white_keeps_its_stored_labels_and_is_reported(tmp_path, content):
    tifffile.imwrite(tmp_path / "m.tif", content, photometric="miniswhite")
    record = read(tmp_path / "m.tif").record
    assert record.area_px == {"tumor": 121_875}
    assert "WhiteIsZero" in record.warnings[0]


# Damaged files


def save(folder: Path, kind: str) -> Path:
    path, content = folder / f"m{Path(kind).suffix}", MASK.astype(np.uint8)
    content[::7, ::5] += 1
    compression = {"raw": None, "lzw": "lzw", "zip": "deflate", "packbits": "packbits", "zstd": "zstd"}
    if path.suffix == ".tif":
        layout = {"tile": (128, 128)} if "tiles" in kind else {"rowsperstrip": 64}
        tifffile.imwrite(path, content, compression=compression[kind.split("_")[0]], **layout)
    elif path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".png":
        Image.fromarray(content).save(path)
    return path


KINDS = [f"{codec}_{part}.tif" for codec in ("raw", "lzw", "zip", "packbits", "zstd") for part in ("tiles", "strips")]
KINDS += ["m.npy", "m.png"]


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_copied_in_part_is_refused(tmp_path, kind, kept):
    path = save(tmp_path, kind)
    assert read(path).record.area_px["tumor"] > 0
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert refusal(path)


@pytest.mark.parametrize("suffix", [".npy", ".png", ".tif"])
def test_an_empty_file_is_refused(tmp_path, suffix):
    (tmp_path / f"m{suffix}").write_bytes(b"")
    assert "cannot be read" in refusal(tmp_path / f"m{suffix}")


def test_damaged_chunks_of_zarr_are_refused_and_missing_ones_reported(tmp_path):
    content = MASK.astype(np.uint8) + 1
    zarr.create_array(tmp_path / "m.zarr", data=content, chunks=(256, 256))
    chunk = tmp_path / "m.zarr" / "c" / "1" / "1"
    assert read(tmp_path / "m.zarr").record.warnings == ()
    chunk.write_bytes(chunk.read_bytes()[:-5])
    assert "cannot be read" in refusal(tmp_path / "m.zarr")
    chunk.unlink()
    record = read(tmp_path / "m.zarr").record
    assert record.warnings == ("m.zarr: 1 of 9 chunks are absent and read as 0.",)


def test_missing_shards_and_tiles_are_reported(tmp_path):
    content = np.ones((512, 512), np.uint8)
    zarr.create_array(tmp_path / "m.zarr", data=content, chunks=(64, 64), shards=(256, 256))
    (tmp_path / "m.zarr" / "c" / "0" / "1").unlink()
    tifffile.imwrite(tmp_path / "m.tif", content, tile=(256, 256))
    with tifffile.TiffFile(tmp_path / "m.tif", mode="r+b") as tiff:
        tiff.pages[0].tags["TileByteCounts"].overwrite([65536, 0, 65536, 65536])
    said = [read(tmp_path / name, width=512, height=512).record.warnings for name in ("m.zarr", "m.tif")]
    assert said == [
        ("m.zarr: 16 of 64 chunks are absent and read as 0.",),
        ("m.tif: 1 of 4 tiles are absent and read as 0.",),
    ]


def test_a_tiff_whose_bits_per_pixel_do_not_fit_its_tiles_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", np.ones((256, 256), np.uint8), tile=(128, 128), compression="deflate")
    with tifffile.TiffFile(tmp_path / "m.tif", mode="r+b") as tiff:
        tiff.pages[0].tags["BitsPerSample"].overwrite(1)
    assert "size and bits per pixel need 2048" in refusal(tmp_path / "m.tif", width=256, height=256)


def test_a_tiff_of_several_images_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "m.tif") as writer:
        for dtype in (np.uint8, np.uint16):
            writer.write(np.ones((HEIGHT, WIDTH), dtype), metadata=None)
    assert "contains 2 images" in refusal(tmp_path / "m.tif")


def test_a_chunk_larger_than_memory_is_refused_before_it_is_decoded(tmp_path):
    zarr.create_array(tmp_path / "m.zarr", shape=(40_000, 40_000), chunks=(40_000, 40_000), dtype="uint8")
    assert "40000 x 40000 px of the mask are compressed together" in refusal(tmp_path / "m.zarr")


@pytest.mark.parametrize("shape", ["(1000000, -1, 3)", "(" * 4000 + ")" * 4000, "()", "(1.5, 2)", "None"])
def test_numpy_headers_that_make_no_sense_are_refused(tmp_path, shape):
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(118) + b"\n"
    (tmp_path / "m.npy").write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + bytes(1000))
    assert refusal(tmp_path / "m.npy")


def test_every_suffix_of_a_mask_has_an_opener():
    assert set(OPENERS) == set(MASK_SUFFIXES)


# Masks of any size, in parts


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(content, "png")
    return content.getvalue()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
def test_strips_of_a_png_are_the_rows_that_pillow_decodes(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("histomake.annotation.png_rows.STRIP_BYTES", 5000)
    rng = np.random.default_rng(0)
    # Smooth areas and noise make the encoder choose all filters.
    smooth = np.add.outer(np.arange(301), np.arange(157)) // 2
    array = np.where(rng.random((301, 157)) < 0.5, rng.integers(0, 60_000, (301, 157)), smooth).astype(dtype)
    (tmp_path / "m.png").write_bytes(png(array))
    rows = PngRows(tmp_path / "m.png")
    assert (rows.shape, rows.dtype) == ((301, 157), np.uint16 if dtype is np.uint16 else np.uint8)
    np.testing.assert_array_equal(rows[:, :], array)
    for part in (slice(40, 90), slice(90, 301), slice(0, 7), slice(300, 301), slice(5, 5)):
        np.testing.assert_array_equal(rows[part, 20:30], array[part, 20:30])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
def test_samples_of_fewer_bits_are_labels_and_not_stretched_to_grey_values(tmp_path, depth, colour):
    array = np.random.default_rng(depth).integers(0, 2**depth, (23, 37)).astype(np.uint8)
    bits = np.unpackbits(array[..., None], axis=2)[..., 8 - depth :].reshape(23, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 37, 23, depth, colour, 0, 0, 0)}
    chunks |= {b"PLTE": bytes(3 * 2**depth)} if colour else {}
    chunks |= {b"IDAT": zlib.compress(rows), b"IEND": b""}
    parts = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks.items())
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    np.testing.assert_array_equal(open_mask(tmp_path / "m.png")[:, :], array)


def test_a_png_beyond_the_limit_of_pillow_is_read_with_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(mask_module, "WHOLE_PX", 1000)
    content = np.zeros((9000, 3000), np.uint8)
    content[4000:5000, 1000:2000] = 1
    (tmp_path / "m.png").write_bytes(png(content))
    del content
    tracemalloc.start()
    annotation = read(tmp_path / "m.png", width=3000, height=9000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert annotation.record.area_px == {"tumor": 1_000_000}
    assert peak < 150e6
    files = {"record": tmp_path / "r.json", "geojson": tmp_path / "r.geojson", "labels": tmp_path / "r.labels.zarr"}
    write_annotation(annotation, **files)
    again = Annotation.load(files["record"]).label_image
    assert (again.read(slice(3990, 4010), slice(990, 1010)) > 0).sum() == 100


def test_what_needs_any_order_does_not_take_a_png_that_only_has_one(tmp_path, monkeypatch):
    monkeypatch.setattr(mask_module, "WHOLE_PX", 1000)
    (tmp_path / "m.png").write_bytes(png(MASK.astype(np.uint8)))
    assert open_mask(tmp_path / "m.png", in_order=True).shape == (HEIGHT, WIDTH)
    with pytest.raises(AnnotationError, match="too large") as caught:
        open_mask(tmp_path / "m.png")
    assert "tiled TIFF" in caught.value.remedy


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_a_changed_byte_in_the_pixels_of_a_png_is_found_by_its_checksum(tmp_path, at):
    path = save(tmp_path, "m.png")
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 16
    path.write_bytes(bytes(content))
    assert refusal(path)


def test_colour_images_are_not_masks(tmp_path):
    Image.new("RGBA", (WIDTH, HEIGHT)).save(tmp_path / "m.png")
    assert "this PNG has colours" in refusal(tmp_path / "m.png")


def test_parts_cover_a_raster_once_and_keep_chunks_whole():
    for shape, chunks in (((3000, 5000), (1, 1)), ((3000, 5000), (1, 5000)), ((2100, 50), (2000, 30))):
        seen = np.zeros(shape, int)
        for rows, columns in parts(shape, chunks):
            seen[rows, columns] += 1
            assert rows.start % 1024 == 0
        assert (seen == 1).all()
    assert len(list(parts((3000, 5000), (1, 5000)))) == 3


def test_a_mask_that_changes_after_it_was_opened_is_a_bad_annotation(tmp_path):
    zarr.create_array(tmp_path / "m.zarr", data=np.ones((HEIGHT, WIDTH), np.uint8), chunks=(256, 256))
    annotation = read(tmp_path / "m.zarr")
    (tmp_path / "m.zarr" / "c" / "1" / "1").write_bytes(b"other bytes")
    with pytest.raises(AnnotationError, match="cannot be read"):
        labels(annotation)


# Masks that number cells


def test_a_mask_of_cells_has_no_class_of_patches(tmp_path):
    np.save(tmp_path / "m.npy", np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH))
    config = Annotations(mask_values="cells", classes={"1": "tumor"})
    found = read_annotation(tmp_path / "m.npy", config, slide_id="s1", width=WIDTH, height=HEIGHT)
    assert (found.regions, found.label_image) == ([], None)
    assert found.record.annotation_format == "cell mask.npy"


def test_a_mask_of_cells_must_fit_the_slide_too(tmp_path):
    np.save(tmp_path / "m.npy", np.ones((HEIGHT, WIDTH), np.uint32))
    with pytest.raises(SlideError, match="no whole scale fits"):
        read_annotation(
            tmp_path / "m.npy", Annotations(mask_values="cells"), slide_id="s1", width=WIDTH + 7, height=HEIGHT
        )
