"""Tests of where tiles and frames lie, of those that are absent, and of slides that are given in part."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from case_files import (
    FRAMES,
    PICTURE,
    SHUFFLED,
    TILE,
    WIDTH,
    jpeg,
    jpeg2000,
    reduced,
    remove_tiles,
    write_dicom,
    write_svs,
)
from histomake.base.errors import Reason, SlideError
from histomake.base.records.manifest import Manifest
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from hypothesis import given, settings
from hypothesis import strategies as st
from mrxs_file import write_mrxs
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit
from slide_files import write_pyramid
from test_slide_companions import VMS

COLUMNS = -(-WIDTH // TILE)


def converted(source: Path, folder: Path, codec: str = "zstd") -> tuple[Manifest, list[np.ndarray]]:
    """Convert and return the pixels of every level, which zarr-python must read as well."""
    manifest = convert(source, folder / "a.zarr", slide_id="a", config=Convert(codec=codec), mpp=0.5)
    with SlideReader(folder / "a.zarr") as reader:
        levels = [reader.read_level(i, 0, 0, level.width, level.height) for i, level in enumerate(reader.levels)]
    group = zarr.open_group(folder / "a.zarr", mode="r")
    for level, pixels in zip(manifest.levels, levels, strict=True):
        assert np.array_equal(np.moveaxis(group[level.path][...], 0, -1), pixels)
    return manifest, levels


def refusal(source: Path, folder: Path) -> SlideError:
    with pytest.raises(SlideError) as caught:
        converted(source, folder)
    return caught.value


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(int) - expected).mean())


# Frames


@settings(max_examples=15)
@given(order=st.permutations(range(FRAMES)), missing=st.integers(0, 5))
def test_frames_in_any_order_and_number_lie_where_they_state(order, missing, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    kept = order[: FRAMES - missing]
    source = write_dicom(folder / "a.dcm", organization="TILED_SPARSE", positions=True, order=kept)
    _, (pixels,) = converted(source, folder)
    expected = np.array(PICTURE)
    for index in set(range(FRAMES)) - set(kept):
        row, column = divmod(index, COLUMNS)
        expected[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = 255
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("organization", ["TILED_FULL", "TILED_SPARSE", "3D", None])
@pytest.mark.parametrize("order", [None, SHUFFLED], ids=["in order", "shuffled"])
def test_stated_places_win_over_the_order_of_frames(organization, order, tmp_path):
    source = write_dicom(tmp_path / "a.dcm", organization=organization, positions=True, order=order)
    _, (pixels,) = converted(source, tmp_path)
    assert np.array_equal(pixels, PICTURE)


@pytest.mark.parametrize("organization", [None, "3D", "TILED_SPARSE"])
def test_frames_without_places_are_refused_unless_their_order_is_stated(organization, tmp_path):
    error = refusal(write_dicom(tmp_path / "a.dcm", organization=organization), tmp_path)
    assert error.reason in (Reason.UNSUPPORTED, Reason.DAMAGED)
    assert "places" in error.detail


def test_a_single_frame_needs_no_place(tmp_path):
    _, (pixels,) = converted(write_dicom(tmp_path / "a.dcm", PICTURE[:100, :90], organization=None), tmp_path)
    assert np.array_equal(pixels, PICTURE[:100, :90])


def _move(dataset: Dataset, column: int) -> None:
    dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSlideSequence[
        0
    ].ColumnPositionInTotalImagePixelMatrix = column


@pytest.mark.parametrize(
    ("column", "reason"), [(1, Reason.UNSUPPORTED), (60, Reason.UNSUPPORTED), (100 * TILE + 1, Reason.DAMAGED)]
)
def test_frames_that_share_a_place_or_lie_outside_are_refused(column, reason, tmp_path):
    source = write_dicom(tmp_path / "a.dcm", positions=True, change=lambda dataset: _move(dataset, column))
    assert refusal(source, tmp_path).reason is reason


def test_places_of_some_frames_only_are_refused(tmp_path):
    def change(dataset: Dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSlideSequence

    error = refusal(write_dicom(tmp_path / "a.dcm", positions=True, change=change), tmp_path)
    assert error.reason is Reason.DAMAGED


@pytest.mark.parametrize("change", [-1, 1, 30])
def test_another_number_of_frames_than_places_is_refused(change, tmp_path):
    order = [i % FRAMES for i in range(FRAMES + change)]
    assert refusal(write_dicom(tmp_path / "a.dcm", order=order), tmp_path).reason in (
        Reason.UNSUPPORTED,
        Reason.IMPLAUSIBLE_SIZE,
    )


# Absent tiles


@pytest.mark.parametrize("codec", ["jpeg", "zstd"])
@pytest.mark.parametrize("tiles", [(0,), (1, 4), (5,), (0, 1, 2, 3, 4)], ids=str)
def test_gaps_of_a_reduced_level_are_filled_and_counted(tiles, codec, tmp_path):
    manifest, levels = converted(remove_tiles(write_svs(tmp_path / "a.svs"), 2, tiles), tmp_path, codec)
    assert [level.filled_tiles for level in manifest.levels] == [0, len(tiles)]
    assert difference(levels[1], reduced(PICTURE, 2)) < 6


def test_a_level_without_any_tile_is_left_out(tmp_path):
    manifest, levels = converted(remove_tiles(write_svs(tmp_path / "a.svs"), 2, range(6)), tmp_path)
    assert len(levels) == 1
    assert manifest.associated["page 2"].startswith("left out")


def test_gaps_of_several_levels_are_filled_from_the_finest_that_has_pixels(tmp_path):
    path = write_svs(tmp_path / "a.svs", levels=(2, 4))
    remove_tiles(remove_tiles(path, 2, (1,)), 3, (0,))
    manifest, levels = converted(path, tmp_path, "jpeg")
    assert [level.filled_tiles for level in manifest.levels] == [0, 1, 1]
    assert difference(levels[1], reduced(PICTURE, 2)) < 6
    assert difference(levels[2], reduced(PICTURE, 4)) < 6


def test_a_tile_that_no_level_has_is_white_and_no_gap(tmp_path):
    path = write_svs(tmp_path / "a.svs")
    remove_tiles(remove_tiles(path, 0, (0, 1, 6, 7)), 2, (0,))
    manifest, levels = converted(path, tmp_path, "jpeg")
    assert [(level.empty_tiles, level.filled_tiles) for level in manifest.levels] == [(4, 0), (1, 0)]
    assert levels[1][:TILE, :TILE].min() == 255


def test_gaps_of_a_level_without_copied_tiles(tmp_path):
    levels = [PICTURE, reduced(PICTURE, 2)]
    path = remove_tiles(write_pyramid(tmp_path / "a.tif", levels, compression="deflate"), 1, (2, 3))
    manifest, found = converted(path, tmp_path)
    assert [level.filled_tiles for level in manifest.levels] == [0, 2]
    assert np.array_equal(found[1], levels[1])


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless])
def test_frames_that_only_a_reduced_dicom_level_lacks_are_made(syntax, tmp_path):
    photometric = "YBR_FULL_422" if syntax == JPEGBaseline8Bit else "RGB"
    encoding = {
        "syntax": syntax,
        "encode": jpeg if syntax == JPEGBaseline8Bit else jpeg2000,
        "photometric": photometric,
    }
    write_dicom(tmp_path / "slide" / "1.dcm", **encoding)
    write_dicom(tmp_path / "slide" / "2.dcm", reduced(PICTURE, 2), mpp=1.0, empty=(1, 5), **encoding)
    manifest, levels = converted(tmp_path / "slide", tmp_path, "jpeg")
    assert [level.filled_tiles for level in manifest.levels] == [0, 2]
    assert difference(levels[1], reduced(PICTURE, 2)) < 6


def test_a_file_without_any_pixels_is_refused(tmp_path):
    path = remove_tiles(write_svs(tmp_path / "a.svs", levels=()), 0, range(24))
    error = refusal(path, tmp_path)
    assert error.reason is Reason.DAMAGED
    assert "no pixels" in error.detail


# Parts of slides


def test_an_mrxs_with_an_empty_folder_is_not_a_picture(tmp_path):
    path = write_mrxs(tmp_path / "a.mrxs", PICTURE, {(0, 0): (0, 0)}, images=(1, 1), overlap=0)
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    error = refusal(path, tmp_path)
    assert error.reason is Reason.UNREADABLE
    assert "lacks Slidedat.ini" in error.detail


def test_the_data_folder_of_an_mrxs_is_not_the_slide(tmp_path):
    write_mrxs(tmp_path / "a.mrxs", PICTURE, {(0, 0): (0, 0)}, images=(1, 1), overlap=0)
    error = refusal(tmp_path / "a", tmp_path)
    assert error.reason is Reason.UNREADABLE
    assert "a.mrxs" in error.detail


@pytest.mark.parametrize("suffix", [".vms", ".vmu"])
def test_a_hamamatsu_index_without_its_images_names_them(suffix, tmp_path):
    (tmp_path / f"b{suffix}").write_text(VMS)
    error = refusal(tmp_path / f"b{suffix}", tmp_path)
    assert error.reason is Reason.UNREADABLE
    assert "b-1.jpg" in error.detail


@pytest.mark.parametrize("version", ["zarr.json", ".zattrs"])
def test_a_zarr_store_is_not_a_slide(version, tmp_path):
    (tmp_path / "a.ome.zarr").mkdir()
    (tmp_path / "a.ome.zarr" / version).write_text("{}")
    error = refusal(tmp_path / "a.ome.zarr", tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "Zarr" in error.detail


def test_a_folder_of_files_that_are_slides_by_themselves_is_refused(tmp_path):
    (tmp_path / "slide").mkdir()
    write_svs(tmp_path / "slide" / "a.svs")
    error = refusal(tmp_path / "slide", tmp_path)
    assert error.reason is Reason.UNSUPPORTED
    assert "no DICOM" in error.detail


def test_copies_of_every_level_count_once(tmp_path):
    for factor in (1, 2):
        path = write_dicom(tmp_path / "slide" / f"{factor}.dcm", reduced(PICTURE, factor), mpp=0.5 * factor)
        shutil.copy(path, path.with_name(f"copy of {factor}.dcm"))
    manifest, levels = converted(tmp_path / "slide", tmp_path)
    assert np.array_equal(levels[0], PICTURE)
    assert len(levels) == 2
    assert "2 files" in manifest.associated["copies"]


@pytest.mark.parametrize("damage", ["text", "unsupported", "broken"])
def test_unsupported_and_damaged_files_have_different_reasons(damage, tmp_path):
    """Unsupported: the file is whole. Damaged: it is not."""
    path = tmp_path / "a.tif"
    if damage == "text":
        path.write_text("this is no slide at all")
    elif damage == "unsupported":
        np.save(tmp_path / "a.npy", PICTURE.astype(np.float32))
        path = tmp_path / "a.npy"
    else:
        write_pyramid(path, [PICTURE], compression="deflate")
        content = bytearray(path.read_bytes())
        start = int.from_bytes(content[4:8], "little")
        content[start + 2 : start + 60] = bytes(58)
        path.write_bytes(content)
    expected = (Reason.DAMAGED, Reason.IMPLAUSIBLE_SIZE) if damage == "broken" else (Reason.UNSUPPORTED,)
    assert refusal(path, tmp_path).reason in expected
