"""Tests of verification: any changed byte of a store or a slide is found and its file named."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from histomake.base.errors import Reason, SlideError
from histomake.base.files import sha256_tree
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined
from histomake.config import Convert
from histomake.slide.convert import convert, store_digest, write_no_store
from histomake.slide.store import Store, StoreError
from histomake.slide.verify import verify_slide
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import sample_records
from tests.bench.slides import big_slide


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return big_slide(tmp_path_factory.mktemp("small"), 1204)


@pytest.fixture(scope="module", params=["directory", "zip"])
def manifest(request, small, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    record = convert(small, folder / "a.zarr", slide_id="a", config=Convert(store=request.param, shard_px=512))
    record.write(folder / "a.json")
    return folder / "a.json"


def store_files(manifest: Path) -> list[Path]:
    return sorted(p for p in manifest.parent.rglob("*") if p.is_file() and p != manifest)


def test_the_manifest_states_the_digest_of_the_store(manifest):
    record = Manifest.read_usable(manifest)
    assert store_digest(record) == sha256_tree(manifest.parent / record.store)


@pytest.mark.parametrize("store", ["directory", "zip"])
def test_a_quarantined_slide_has_a_store_with_its_reason(small, tmp_path, store):
    other = Convert(store={"directory": "zip", "zip": "directory"}[store])
    convert(small, tmp_path / "a.zarr", slide_id="a", config=other)
    write_no_store(sample_records.lost(), tmp_path / "a.zarr", Convert(store=store))
    (path,) = tmp_path.iterdir()
    if store == "zip":
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read("zarr.json"))
    else:
        content = json.loads((path / "zarr.json").read_text())
    assert content["attributes"]["histomake"]["reason"] == "no_mpp"
    with pytest.raises(StoreError):
        Store(path)


def test_a_slide_with_a_digest_other_than_in_the_sheet_is_refused(small, tmp_path):
    with pytest.raises(SlideError, match="but the sheet has") as caught:
        convert(small, tmp_path / "a.zarr", slide_id="a", config=Convert(), sha256="0" * 64)
    assert caught.value.reason is Reason.CHECKSUM


def test_an_unchanged_slide_has_no_problem(manifest, small):
    assert verify_slide(manifest, small) == []


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_found_and_its_file_named(manifest, which, where, change):
    files = store_files(manifest)
    file = files[int(which * len(files))]
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[int(where * len(flipped))] ^= change
    file.write_bytes(flipped)
    try:
        assert verify_slide(manifest) == [f"slide a: {file} has changed since it was written"]
    finally:
        file.write_bytes(whole)


def test_missing_and_foreign_files_are_named(small, tmp_path):
    convert(small, tmp_path / "a.zarr", slide_id="a", config=Convert()).write(tmp_path / "a.json")
    (tmp_path / "a.zarr" / "1" / "zarr.json").rename(tmp_path / "a.zarr" / "other.json")
    missing, foreign = verify_slide(tmp_path / "a.json")
    assert missing.endswith("1/zarr.json is missing")
    assert foreign.endswith("other.json was not written by the conversion")


def test_a_folder_of_a_store_that_leads_elsewhere_is_named(small, tmp_path):
    convert(small, tmp_path / "a.zarr", slide_id="a", config=Convert()).write(tmp_path / "a.json")
    level = tmp_path / "a.zarr" / "0"
    level.rename(tmp_path / "elsewhere")
    level.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "c" / "further").write_bytes(b"a tile that the slide lacks")
    (problem,) = verify_slide(tmp_path / "a.json")
    assert problem == f"slide a: {level} is a link; a conversion writes none"


def test_a_missing_store_is_a_problem(small, tmp_path):
    convert(small, tmp_path / "a.zarr", slide_id="a", config=Convert()).write(tmp_path / "a.json")
    (tmp_path / "a.zarr").rename(tmp_path / "moved.zarr")
    assert verify_slide(tmp_path / "a.json") == [f"slide a: {tmp_path / 'a.zarr'} is missing"]


def test_a_different_slide_file_is_reported(manifest, small, tmp_path):
    other = tmp_path / "other.svs"
    content = bytearray(small.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    (problem,) = verify_slide(manifest, other)
    assert "the store was made from" in problem
    assert verify_slide(manifest, tmp_path / "gone.svs") == [f"slide a: {tmp_path / 'gone.svs'} is missing"]
    other.write_bytes(b"")
    assert "empty" in verify_slide(manifest, other)[0]


def test_a_dicom_folder_is_verified_as_a_whole(data, tmp_path):
    source = data / "slides" / "CMU-1-Small-Region_dicom"
    convert(source, tmp_path / "a.zarr", slide_id="a", config=Convert()).write(tmp_path / "a.json")
    assert verify_slide(tmp_path / "a.json", source) == []


def test_a_quarantined_slide_has_nothing_to_verify(tmp_path):
    error = SlideError(Reason.TRUNCATED, slide_id="a", path="a.svs", detail="cut", remedy="copy")
    Quarantined.of(error, "convert").write(tmp_path / "a.json")
    assert verify_slide(tmp_path / "a.json") == []
