"""Tests of damaged slides: each gives a typed reason or a clean error, and never a partial store."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import imagecodecs
import msgspec
import numpy as np
import pytest
import tifffile
from histomake.base.errors import Reason, SlideError
from histomake.base.files import _take_place as take_place
from histomake.base.files import sha256_tree
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.passthrough import _StreamCheck, copy_levels
from histomake.slide.reader import SlideReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slide_files import SHARED, grid, write_pyramid, write_scn

from tests.bench.slides import big_slide

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
NOBODY = 65534


def refused(source: Path, folder: Path, mpp: float | None = 0.5, config: Convert | None = None) -> SlideError:
    with pytest.raises(SlideError) as caught:
        convert(source, folder / "a.zarr", slide_id="S1", config=config or Convert(), mpp=mpp)
    assert not [p for p in folder.iterdir() if "zarr" in p.name or "partial" in p.name]
    message = str(caught.value)
    assert "S1" in message
    assert str(source) in message
    return caught.value


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A pyramidal SVS of 1,204 px whose tiles can be copied."""
    return big_slide(tmp_path_factory.mktemp("small"), 1204)


@pytest.fixture
def damaged(small, tmp_path):
    """A copy of the small slide with some bytes changed: position → bytes."""

    def write(changes: dict[int, bytes]) -> Path:
        content = bytearray(small.read_bytes())
        for position, data in changes.items():
            content[position : position + len(data)] = data
        path = tmp_path / "damaged.svs"
        path.write_bytes(content)
        return path

    return write


def first_page(path: Path) -> tifffile.TiffPage:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert len(page.dataoffsets) == 25
        return page


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_svs(share, small, tmp_path):
    path = tmp_path / "cut.svs"
    path.write_bytes(small.read_bytes()[: int(small.stat().st_size * share)])
    assert refused(path, tmp_path).reason is Reason.TRUNCATED


@pytest.mark.shared
@pytest.mark.parametrize("share", [0.1, 0.7, 0.999])
def test_a_truncated_ndpi(share, tmp_path):
    content = (SHARED / "fluorescence-DAPI.ndpi").read_bytes()
    (tmp_path / "a.ndpi").write_bytes(content[: int(len(content) * share)])
    assert refused(tmp_path / "a.ndpi", tmp_path).reason in (Reason.TRUNCATED, Reason.UNREADABLE, Reason.DAMAGED_TILES)


def test_an_empty_file(tmp_path):
    (tmp_path / "a.svs").touch()
    assert refused(tmp_path / "a.svs", tmp_path).reason is Reason.TRUNCATED


def test_a_missing_file(tmp_path):
    assert refused(tmp_path / "a.svs", tmp_path).reason is Reason.UNREADABLE


def test_xml_named_svs(tmp_path):
    (tmp_path / "a.svs").write_text('<?xml version="1.0"?><Annotations/>')
    assert refused(tmp_path / "a.svs", tmp_path).reason is Reason.UNSUPPORTED


def test_a_picture_named_svs_is_a_picture_without_mpp(data, tmp_path):
    shutil.copyfile(data / "slides" / "synthetic_grid" / "XYC.png", tmp_path / "a.svs")
    assert refused(tmp_path / "a.svs", tmp_path, mpp=None).reason is Reason.NO_MPP


def test_an_implausible_mpp(data, tmp_path):
    error = refused(data / "slides" / "CMU-1-Small-Region.jpeg.tiff", tmp_path, mpp=None)
    assert error.reason is Reason.NO_MPP
    assert "0.00499" in error.detail


def test_a_damaged_png(data, tmp_path):
    whole = (data / "slides" / "synthetic_grid" / "XYC.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:9000])
    assert refused(tmp_path / "a.png", tmp_path).reason is Reason.TRUNCATED


def test_an_array_longer_than_its_file(tmp_path):
    np.save(tmp_path / "a.npy", grid(100, 100))
    os.truncate(tmp_path / "a.npy", 5000)
    assert refused(tmp_path / "a.npy", tmp_path).reason is Reason.TRUNCATED


def test_an_array_of_objects_runs_no_code(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    assert refused(tmp_path / "a.npy", tmp_path).reason is Reason.UNSUPPORTED


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((64, 64), np.uint16), Reason.UNSUPPORTED),
        (np.zeros((64, 64, 5), np.uint8), Reason.UNSUPPORTED),
        (np.zeros(64, np.uint8), Reason.UNSUPPORTED),
        (np.zeros((0, 64, 3), np.uint8), Reason.IMPLAUSIBLE_SIZE),
    ],
    ids=str,
)
def test_arrays_that_are_not_images(array, reason, tmp_path):
    np.save(tmp_path / "a.npy", array)
    assert refused(tmp_path / "a.npy", tmp_path).reason is reason


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (np.zeros((64, 64, 3), np.uint16), {"photometric": "rgb"}),
        (np.zeros((5, 64, 64), np.uint8), {"photometric": "minisblack"}),
        (np.zeros((4, 64, 64, 3), np.uint8), {"photometric": "rgb"}),
        (np.zeros((64, 64), np.uint8), {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}),
    ],
    ids=["16 bit", "channels", "stack", "palette"],
)
def test_tiffs_that_are_not_rgb_slides(image, options, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", image, metadata=None, **options)
    assert refused(tmp_path / "a.tif", tmp_path).reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("side", [10**9, 0, 1_000_000])
def test_a_header_with_an_impossible_size(side, damaged, small, tmp_path):
    width = first_page(small).tags["ImageWidth"]
    path = damaged({width.valueoffset: struct.pack("<I", side)})
    assert refused(path, tmp_path).reason is Reason.IMPLAUSIBLE_SIZE


def test_a_tile_beyond_the_end_of_the_file(damaged, small, tmp_path):
    offsets = first_page(small).tags["TileOffsets"]
    path = damaged({offsets.valueoffset + 8 * 7: struct.pack("<Q", 10**12)})
    assert refused(path, tmp_path).reason is Reason.TRUNCATED


def test_a_tile_of_zeros_is_named(damaged, small, tmp_path):
    page = first_page(small)
    path = damaged({page.dataoffsets[12]: bytes(page.databytecounts[12])})
    error = refused(path, tmp_path)
    assert error.reason is Reason.DAMAGED_TILES
    assert "row 2 column 2" in error.detail


@pytest.mark.parametrize("threads", [1, 3])
def test_a_single_damaged_tile_is_named_in_any_shard(threads, tmp_path):
    path = write_pyramid(tmp_path / "a.tif", [grid(1024, 1024)], compression="jpeg", tile=(16, 16))
    content = bytearray(path.read_bytes())
    offset = first_offsets(path)[50 * 64 + 37]
    content[offset : offset + 2] = b"\0\0"
    path.write_bytes(content)
    with pytest.raises(SlideError) as caught:
        convert(path, tmp_path / "a.zarr", slide_id="S1", config=Convert(shard_px=256), threads=threads)
    assert caught.value.reason is Reason.DAMAGED_TILES
    assert "1 of 4096 tiles are not jpeg streams of 16 x 16 px: row 50 column 37" in caught.value.detail
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_a_truncated_tile_is_named(damaged, small, tmp_path):
    page = first_page(small)
    half = page.databytecounts[12] // 2
    path = damaged({page.dataoffsets[12] + half: bytes(page.databytecounts[12] - half)})
    error = refused(path, tmp_path)
    assert error.reason is Reason.DAMAGED_TILES
    assert "row 2 column 2" in error.detail


def test_a_tile_that_cannot_be_decoded_for_re_encoding_is_named(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", [grid(512, 512)], compression="zlib")
    page_offsets = first_offsets(path)
    content = bytearray(path.read_bytes())
    content[page_offsets[5] : page_offsets[5] + 20] = b"\xff" * 20
    path.write_bytes(content)
    error = refused(path, tmp_path)
    assert error.reason is Reason.DAMAGED_TILES
    assert "row 1, column 1" in error.detail


def first_offsets(path: Path) -> tuple[int, ...]:
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[0].dataoffsets


def test_a_tile_with_damaged_content_is_an_error_when_it_is_read(damaged, small, tmp_path):
    """Copying does not decode tiles, so such damage is found when the tile is read, and reported with its position."""
    page = first_page(small)
    path = damaged({page.dataoffsets[12] + 2: b"\xff\xc0\x00\x02"})
    convert(path, tmp_path / "a.zarr", slide_id="S1", config=Convert())
    with SlideReader(tmp_path / "a.zarr") as reader, pytest.raises(SlideError, match="row 2, column 2") as caught:
        reader.read(0, 0, 1204, 0.499)
    assert caught.value.reason is Reason.DAMAGED_TILES


def test_a_tile_with_damaged_content_is_found_when_the_pyramid_is_made(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (150, 150, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    path = write_pyramid(tmp_path / "a.tif", [image], compression="jpeg")
    content = bytearray(path.read_bytes())
    frame = content.index(b"\xff\xc0", first_offsets(path)[30])
    content[frame + 9] = 9  # components
    path.write_bytes(content)
    error = refused(path, tmp_path)
    assert error.reason is Reason.DAMAGED_TILES
    assert "row 2, column 6" in error.detail


def test_tiles_with_implausible_byte_counts(damaged, small, tmp_path):
    counts = first_page(small).tags["TileByteCounts"]
    size = struct.calcsize({3: "H", 4: "I", 16: "Q"}[int(counts.dtype)])
    path = damaged({counts.valueoffset + size * 7: struct.pack("<Q", 1 << 31)[:size]})
    assert refused(path, tmp_path).reason in (Reason.IMPLAUSIBLE_SIZE, Reason.TRUNCATED)


@pytest.mark.parametrize("mpp", [0.499, 4 * 0.499], ids=["full", "reduced"])
def test_no_memory_is_allocated_for_the_size_in_a_forged_tile_header(mpp, damaged, small, tmp_path, monkeypatch):
    page = first_page(small)
    with small.open("rb") as stream:
        stream.seek(page.dataoffsets[12])
        frame = stream.read(page.databytecounts[12]).index(b"\xff\xc0")
    path = damaged({page.dataoffsets[12] + frame + 5: b"\xff\xff\xff\xff"})
    error = refused(path, tmp_path)
    assert error.reason is Reason.DAMAGED_TILES
    assert "1 of 25 tiles are not jpeg streams of 256 x 256 px: row 2 column 2" in str(error)
    # A store of an earlier version, which copied such a tile.
    monkeypatch.setattr(_StreamCheck, "_check_heads", lambda *_: {})
    convert(path, tmp_path / "a.zarr", slide_id="S1", config=Convert())
    with SlideReader(tmp_path / "a.zarr") as reader:
        reader.levels = reader.levels[:1]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(SlideError, match="row 2, column 2"):
            reader.read_whole(mpp)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # the header states 12 GB


def test_a_slide_for_which_memory_does_not_suffice(small, tmp_path, monkeypatch):
    def exhaust(*_):
        raise MemoryError

    monkeypatch.setattr("histomake.slide.convert.copy_levels", exhaust)
    error = refused(small, tmp_path)
    assert error.reason is Reason.OUT_OF_MEMORY
    assert "mem_mb" in error.remedy


def test_a_loop_of_directories(damaged, small, tmp_path):
    with tifffile.TiffFile(small) as tiff:
        first, second = tiff.pages[0].offset, tiff.pages[1].offset
    assert struct.unpack_from("<Q", small.read_bytes(), 8)[0] == first
    content = small.read_bytes()
    link = content.index(struct.pack("<Q", second), first)
    assert refused(damaged({link: struct.pack("<Q", first)}), tmp_path).reason is Reason.IMPLAUSIBLE_SIZE


def test_a_file_without_permission(small):
    # Root can read every file, so it drops its privileges here, in a folder that any user can enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = Path(shutil.copyfile(small, folder / "a.svs"))
        path.chmod(0)
        (folder / "out").mkdir(mode=0o755)
        caller = os.geteuid()
        os.seteuid(caller or NOBODY)
        try:
            error = refused(path, folder / "out")
        finally:
            os.seteuid(caller)
    assert error.reason is Reason.UNREADABLE


def test_a_folder_without_dicom(tmp_path):
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "readme.txt").write_text("no slide here, and long enough for a DICOM preamble" * 4)
    assert refused(tmp_path / "slide", tmp_path).reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_truncated_dicom(share, data, tmp_path):
    whole = (data / "slides" / "camelyon-lowres.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[: int(len(whole) * share)])
    assert refused(tmp_path / "a.dcm", tmp_path).reason in (Reason.TRUNCATED, Reason.UNREADABLE)


def test_a_slide_that_changes_while_it_is_copied(small, tmp_path, monkeypatch):
    path = shutil.copyfile(small, tmp_path / "a.svs")

    def copy_then_grow(*args: object) -> list[int]:
        with path.open("ab") as stream:
            stream.write(b"more")
        return copy_levels(*args)

    monkeypatch.setattr("histomake.slide.convert.copy_levels", copy_then_grow)
    error = refused(path, tmp_path)
    assert "changed while it was read" in error.detail


# Faults of disks and killed processes.


def run_convert(source: Path, store: Path, before: str = "") -> subprocess.Popen:
    """Convert in a separate process, after running the code ``before`` there."""
    code = textwrap.dedent(
        """
        import sys, time
        sys.path.insert(0, {scripts!r})
        from histomake.config import Convert
        from histomake.slide.convert import convert
        from histomake.slide.sources import base
        {before}
        convert({source!r}, {store!r}, slide_id="a", config=Convert(shard_px=256))
        """
    ).format(scripts=str(SCRIPTS), source=str(source), store=str(store), before=before)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def test_a_full_disk_raises_oserror_and_leaves_no_files(small, tmp_path):
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, {resource.RLIM_INFINITY}))"
    process = run_convert(small, tmp_path / "a.zarr", before=limit)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "OSError: [Errno 27] File too large" in errors
    assert "SlideError" not in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.machine
def test_a_full_file_system_raises_oserror_and_leaves_no_files(small, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=100k tmpfs {disk} || exit 77; {sys.executable} -c '"
        f'import sys; sys.path.insert(0, "{SCRIPTS}")\n'
        "from histomake.config import Convert\n"
        "from histomake.slide.convert import convert\n"
        f'convert("{small}", "{disk}/a.zarr", slide_id="a", config=Convert())'
        f"'; code=$?; ls -A {disk}; exit $code"
    )
    result = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1, result.stderr
    assert "No space left on device" in result.stderr
    assert result.stdout == ""


def test_a_killed_conversion_leaves_no_store_and_the_next_run_writes_one(small, tmp_path):
    slow = "write = base.os.write; base.os.write = lambda *a: (time.sleep(0.05), write(*a))[1]"
    process = run_convert(small, tmp_path / "a.zarr", before=slow)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".a.zarr.*.partial/a.zarr/0/c/0/0/0")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "a.zarr").exists()
    convert(small, tmp_path / "a.zarr", slide_id="a", config=Convert())
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    with SlideReader(tmp_path / "a.zarr") as reader:
        assert reader.read_whole(4.0).min() < 200


def convert_often(source: Path, store: Path, config: Convert) -> None:
    for _ in range(8):
        convert(source, store, slide_id="a", config=config)


@pytest.mark.parametrize("kind", ["directory", "zip"])
def test_concurrent_conversions_of_one_slide_leave_one_complete_store(kind, small, tmp_path):
    config = Convert(store=kind)
    name = convert(small, tmp_path / "alone" / "a.zarr", slide_id="a", config=config).store
    together = tmp_path / "together" / "a.zarr"
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.starmap(convert_often, [(small, together, config)] * 3)
    assert [p.name for p in together.parent.iterdir()] == [name]
    if kind == "directory":
        assert sha256_tree(together) == sha256_tree(tmp_path / "alone" / name)
    with SlideReader(together.parent / name) as ours, SlideReader(tmp_path / "alone" / name) as theirs:
        assert np.array_equal(ours.read_level(0, 0, 0, 1204, 1204), theirs.read_level(0, 0, 0, 1204, 1204))


def test_the_manifest_is_complete_if_the_store_is_replaced_meanwhile(small, tmp_path, monkeypatch):
    def take_place_and_lose_it(aside: Path, target: Path, place: Path) -> None:
        take_place(aside, target, place)
        shutil.rmtree(target)

    undisturbed = convert(small, tmp_path / "a.zarr", slide_id="a", config=Convert())
    monkeypatch.setattr("histomake.base.files._take_place", take_place_and_lose_it)
    manifest = convert(small, tmp_path / "a.zarr", slide_id="a", config=Convert())
    assert msgspec.structs.replace(manifest, seconds={}) == msgspec.structs.replace(undisturbed, seconds={})


# Damage to a store.


@pytest.mark.parametrize("file", ["zarr.json", "0/zarr.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"not json"])
def test_a_store_without_readable_metadata_does_not_open(file, content, small, tmp_path):
    convert(small, tmp_path / "a.zarr", slide_id="a", config=Convert())
    if content is None:
        (tmp_path / "a.zarr" / file).unlink()
    else:
        (tmp_path / "a.zarr" / file).write_bytes(content)
    with pytest.raises(SlideError, match="Delete the store"):
        SlideReader(tmp_path / "a.zarr")


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_shard_index_is_detected(damage, small, tmp_path):
    convert(small, tmp_path / "a.zarr", slide_id="a", config=Convert())
    shard = tmp_path / "a.zarr" / "0" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content if damage == "flip" else content[:-7])
    with SlideReader(tmp_path / "a.zarr") as reader, pytest.raises(SlideError, match="index"):
        reader.read(0, 0, 256, 0.499)


# Fuzzing: any file is either converted or refused with a reason.

fuzzing = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6)


class Seeds(dict[str, bytes]):
    """File contents by format, with a short representation for failure reports."""

    def __repr__(self) -> str:
        return f"<{len(self)} seeds>"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, data) -> Seeds:
    """One small intact file for each parser."""
    folder = tmp_path_factory.mktemp("seeds")
    np.save(folder / "a.npy", grid(40, 30))
    write_pyramid(folder / "jpeg.tif", [grid(200, 150), grid(100, 75)], compression="jpeg")
    write_pyramid(folder / "zlib.ome.tif", [grid(200, 150), grid(100, 75)], compression="zlib", subifds=True)
    tifffile.imwrite(folder / "strips.tif", grid(90, 60), photometric="rgb", rowsperstrip=8, compression="lzw")
    write_scn(folder / "scn", [grid(200, 150), grid(100, 75)], offset=(50, 60), canvas=(300, 300))
    (folder / "jpeg").write_bytes(imagecodecs.jpeg8_encode(grid(90, 60)))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["dicom"] = (data / "slides" / "camelyon-lowres.dcm").read_bytes()
    files["png"] = (data / "slides" / "synthetic_grid" / "XYC.png").read_bytes()
    return Seeds(files)


@fuzzing
@given(
    kind=st.sampled_from(["a.npy", "jpeg.tif", "zlib.ome.tif", "strips.tif", "dicom", "png", "jpeg", "scn"]),
    changes=changes,
    header=st.booleans(),
    cut=st.none() | st.floats(0, 1),
)
def test_arbitrary_bytes_are_converted_or_refused_with_a_reason(seeds, tmp_path, kind, changes, header, cut):
    content = bytearray(seeds[kind])
    reach = min(2000, len(content)) if header else len(content)
    for share, data in changes:
        position = int(share * reach)
        content[position : position + len(data)] = data[: len(content) - position]
    path = tmp_path / "fuzz"
    path.write_bytes(content if cut is None else content[: int(len(content) * cut)])
    with suppress(SlideError):  # any other exception fails the test
        manifest = convert(path, tmp_path / "a.zarr", slide_id="S1", config=Convert(tile_px=64), mpp=0.5)
        assert manifest.width * manifest.height < 1 << 32
    assert not list(tmp_path.glob(".*.partial"))
