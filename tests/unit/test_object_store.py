"""Slides in an object store: found, identified by their content, and refused when they cannot be fetched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from histomake.audit.code import SCRIPTS
from histomake.audit.fingerprints import MISSING, Fingerprints, quick_fingerprint
from histomake.audit.sidecar import job
from histomake.base.addresses import address_of, is_plain
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.layout import Layout
from histomake.base.records.sidecar import Sidecar
from histomake.cohort.sheet import Slide, read_sheet
from histomake.config import Config
from histomake.planning.object_store import ObjectStore, results_problems, stored_slide_problems
from histomake.slide.companions import named_files


class Bucket:
    """An object store with one bucket, and what it was asked; its files are (tag, content) by key."""

    def __init__(self, **files: tuple[str, bytes]) -> None:
        self.files, self.asked = files, []

    def s3(self, address: str):
        key = address.removeprefix("s3://b/")
        file = StoredObject(self, key)
        return SimpleNamespace(flags={"storage_object": SimpleNamespace(s3obj=lambda: file)})

    def get_paginator(self, name: str):
        return SimpleNamespace(paginate=self.list)

    def list(self, *, Bucket: str, Prefix: str, Delimiter: str):  # noqa: N803  # as boto3 calls them
        self.asked.append(f"list {Prefix}")
        found = [k for k in self.files if k.startswith(Prefix) and Delimiter not in k.removeprefix(Prefix)]
        return [{"Contents": [{"Key": k, "Size": len(self.files[k][1]), "ETag": self.files[k][0]}]} for k in found]


class StoredObject:
    """A file of a bucket, as boto3 shows it."""

    bucket_name = "b"

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket, self.key, self.meta = bucket, key, SimpleNamespace(client=bucket)

    def _file(self) -> tuple[str, bytes]:
        self.bucket.asked.append(f"head {self.key}")
        if self.key == "secret":
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")
        if self.key not in self.bucket.files:
            raise ClientError({"Error": {"Code": "404"}}, "HeadObject")
        return self.bucket.files[self.key]

    @property
    def content_length(self) -> int:
        return len(self._file()[1])

    @property
    def e_tag(self) -> str:
        return self._file()[0]

    def get(self, *, Range: str):  # noqa: N803
        first, last = map(int, Range.removeprefix("bytes=").split("-"))
        self.bucket.asked.append("read")
        content = self.bucket.files[self.key][1][first : last + 1]
        return {"Body": SimpleNamespace(read=lambda: content)}


def fingerprints(bucket, tmp_path, *, many=True):
    return Fingerprints(tmp_path / "memory.json", remember=False, stored=ObjectStore(bucket, many=many).find)


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 1_000_003])
def test_a_slide_in_a_store_has_the_fingerprint_of_its_copy_in_a_folder(tmp_path, size):
    content = bytes(range(251)) * (size // 251 + 1)
    copy = tmp_path / "s.svs"
    copy.write_bytes(content[:size])
    bucket = Bucket(**{"cohort/s.svs": ("t", content[:size])})
    assert fingerprints(bucket, tmp_path).of("s3://b/cohort/s.svs") == quick_fingerprint(named_files(copy))


def test_a_folder_is_listed_once_for_all_of_its_slides(tmp_path):
    bucket = Bucket(**{"c/1.svs": ("t", b"1"), "c/2.svs": ("u", b"2"), "c/d/3.svs": ("v", b"3")})
    known = fingerprints(bucket, tmp_path)
    found = {known.of(f"s3://b/c/{name}") for name in ("1.svs", "2.svs", "9.svs")}
    assert (len(found), MISSING in found) == (3, True)
    assert [asked for asked in bucket.asked if asked != "read"] == ["list c/"]


def test_a_job_asks_for_its_own_slide_only(tmp_path):
    bucket = Bucket(**{"c/1.svs": ("t", b"1")})
    known = fingerprints(bucket, tmp_path, many=False)
    assert known.of("s3://b/c/1.svs") != MISSING
    assert known.of("s3://b/c/9.svs") == MISSING
    assert not [asked for asked in bucket.asked if asked.startswith("list")]


def test_a_slide_is_read_again_only_if_the_tag_of_its_content_changed(tmp_path):
    bucket = Bucket(**{"s.svs": ("t", b"bytes")})
    known = fingerprints(bucket, tmp_path)
    first = known.of("s3://b/s.svs")
    known.save()
    read = bucket.asked.count("read")
    assert fingerprints(bucket, tmp_path).of("s3://b/s.svs") == first
    assert bucket.asked.count("read") == read
    bucket.files["s.svs"] = ("uploaded in parts", b"bytes")
    assert fingerprints(bucket, tmp_path).of("s3://b/s.svs") == first
    bucket.files["s.svs"] = ("u", b"other")
    assert fingerprints(bucket, tmp_path).of("s3://b/s.svs") != first


def test_a_refusal_of_the_store_is_named_with_the_address(tmp_path):
    with pytest.raises(HistomakeError, match=r"s3://b/secret: the object store refuses.*403.*credentials"):
        fingerprints(Bucket(), tmp_path, many=False).of("s3://b/secret")


def test_without_the_plugin_its_name_is_given(tmp_path):
    class Storage:
        def s3(self, address):
            from snakemake_interface_common.exceptions import InvalidPluginException

            raise InvalidPluginException("s3", "not installed")

    with pytest.raises(HistomakeError, match=r"s3://b/s\.svs needs snakemake-storage-plugin-s3 in the environment"):
        fingerprints(Storage(), tmp_path).of("s3://b/s.svs")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("s3://b/there.svs", None),
        ("there.svs", None),
        ("s3://b/gone.svs", "does not exist, and there is no store of it"),
        ("s3://b/series/", "is no address of a file"),
        ("s3://b", "is no address of a file"),
        ("s3://b/a//there.svs", "is no address of a file"),
        ("s3://b/slide.mrxs", "is one of several files of its slide"),
        ("s3://b/slide.VMS", "is one of several files of its slide"),
    ],
)
def test_slides_that_cannot_be_fetched_are_refused_before_any_job(tmp_path, path, problem):
    exists = {"s3://b/there.svs"}.__contains__
    found = list(stored_slide_problems([Slide("S1", path, "P1")], Layout(tmp_path), exists))
    assert [line.partition(f"slide S1: {path} ")[2][: len(problem or "")] for line in found] == [problem] * bool(
        problem
    )


def test_results_stay_in_a_folder():
    assert list(results_problems("results", elsewhere=False)) == []
    assert "only slides can be in an object store" in next(results_problems("s3://b/results", elsewhere=False))
    assert "only slides can be in an object store" in next(results_problems("results", elsewhere=True))


def sheet(tmp_path, annotation=""):
    path = tmp_path / "slides.tsv"
    path.write_text(f"slide_id\tpath\tpatient_id\tannotation\nS1\ts3://b/s.svs\tP1\t{annotation}\n")
    return read_sheet(path, Config(results=str(tmp_path / "results")), check_files=True)


def test_a_sheet_with_addresses_is_read_without_asking_a_store(tmp_path):
    assert sheet(tmp_path)["S1"].path == "s3://b/s.svs"


def test_an_annotation_in_a_store_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"annotation file s3://b/s\.xml is in an object store: copy it"):
        sheet(tmp_path, "s3://b/s.xml")


def test_the_sidecar_of_a_job_states_the_address_of_a_fetched_slide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetched, output = ".snakemake/storage/s3/b/c/s.svs", tmp_path / "s.json"
    snakemake = SimpleNamespace(rule="convert", scriptdir=str(SCRIPTS), resources={}, params={}, wildcards={})
    snakemake.input, snakemake.output, snakemake.log, snakemake.threads = [fetched], [str(output)], [], 1
    with job(snakemake):
        output.write_text("{}")
    assert list(Sidecar.read(f"{output}.meta.json").inputs) == ["s3://b/c/s.svs"]


@pytest.mark.parametrize("key", ["s.svs", "a/b c/s.svs", "a/.hidden"])
def test_an_address_and_the_path_to_which_its_file_is_fetched_name_each_other(key):
    assert is_plain(f"s3://b/{key}")
    assert address_of(f"/run/.snakemake/storage/s3/b/{key}") == f"s3://b/{key}"
    assert address_of(f"/data/s3/b/{key}") == f"/data/s3/b/{key}"


@pytest.mark.parametrize(
    "address", ["s3://", "s3://b/", "s3:///s.svs", "s3://b//s.svs", "s3://b/../s.svs", "s3://b/a/."]
)
def test_other_spellings_of_a_key_are_not_plain(address):
    assert not is_plain(address)
