"""Slides in an object store (S3). Snakemake's storage plugin fetches them for the job that converts them.

Settings and credentials are those of the plugin, so a slide is looked up where Snakemake will fetch it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from histomake.base.addresses import bucket_and_key, in_object_store, is_plain
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.cohort.originals import Row, why_not_alone
from histomake.slide.companions import COMPANIONS

PLUGIN = "snakemake-storage-plugin-s3"
COPY = "copy the slide into a folder, or mount the bucket, and enter the path"


class Storage(Protocol):
    """The object ``storage`` of a Snakefile."""

    def s3(self, query: str) -> Any:
        """A file in an object store, as an input of a rule."""


@dataclass(frozen=True)
class StoredFile:
    """A file in an object store: name, size in bytes, and the store's tag of its content."""

    name: str
    size: int
    tag: str
    object: Any

    def read(self, offset: int, count: int) -> bytes:
        """Bytes from ``offset``; fewer than ``count`` at the end."""
        if not self.size:
            return b""
        with _naming(f"s3://{self.object.bucket_name}/{self.object.key}"):
            found: bytes = self.object.get(Range=f"bytes={offset}-{offset + count - 1}")["Body"].read()
        return found


class ObjectStore:
    """Looks up files by address.

    Args:
        storage: The object ``storage`` of a Snakefile.
        many: Whether many files will be looked up: then folders are listed, 1,000 files a request.
    """

    def __init__(self, storage: Storage, *, many: bool) -> None:
        self._storage, self._many = storage, many
        self._listed: dict[tuple[str, str], dict[str, tuple[int, str]]] = {}

    def find(self, address: str) -> StoredFile | None:
        """The file at an address; None if there is none.

        Raises HistomakeError if the plugin is not installed, or if the store refuses or cannot be reached.
        """
        found = self._object(address)
        with _naming(address):
            size, tag = self._in_listing(found) if self._many else _asked(found)
        return None if tag is None else StoredFile(PurePosixPath(found.key).name, size, tag, found)

    def _object(self, address: str) -> Any:
        from snakemake_interface_common.exceptions import InvalidPluginException

        try:
            return self._storage.s3(address).flags["storage_object"].s3obj()
        except (InvalidPluginException, KeyError) as error:
            raise HistomakeError(
                f"{address} needs {PLUGIN} in the environment of Snakemake: docs/object_stores.md ({error})"
            ) from None

    def _in_listing(self, found: Any) -> tuple[int, str | None]:
        folder = found.bucket_name, found.key.rpartition("/")[0]
        if folder not in self._listed:
            self._listed[folder] = _listing(found.meta.client, *folder)
        return self._listed[folder].get(found.key, (0, None))


def _listing(client: Any, bucket: str, folder: str) -> dict[str, tuple[int, str]]:
    """Size and tag of the files in a folder, without those of folders in it, by key."""
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=f"{folder}/" if folder else "", Delimiter="/"
    )
    return {entry["Key"]: (entry["Size"], entry["ETag"]) for page in pages for entry in page.get("Contents", ())}


def _asked(found: Any) -> tuple[int, str | None]:
    """Size and tag of a file, asked for by itself."""
    from botocore.exceptions import ClientError

    try:
        return found.content_length, found.e_tag
    except ClientError as error:
        if error.response["Error"]["Code"] == "404":
            return 0, None
        raise


@contextmanager
def _naming(address: str) -> Iterator[None]:
    """Raise HistomakeError with an address and a remedy in place of an error of the store's library."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise HistomakeError(
            f"{address}: the object store refuses, or cannot be reached: {error}. Compare credentials and "
            "--storage-s3-endpoint-url (docs/object_stores.md)"
        ) from None


def slide_input(storage: Storage, path: str) -> Any:
    """A slide as an input of a rule. Snakemake fetches one that is in an object store, and removes it after the job."""
    return storage.s3(path) if in_object_store(path) else path


def results_problems(results: str, *, elsewhere: bool) -> Iterator[str]:
    """Why results cannot be kept; ``elsewhere``: whether Snakemake is to keep all files in a storage."""
    if in_object_store(results) or elsewhere:
        yield (
            "only slides can be in an object store, because jobs read the results by their paths: set results to a "
            "folder that all machines share, without --default-storage-provider, and copy it when the run has ended"
        )


def stored_slide_problems(slides: Iterable[Row], layout: Layout, exists: Callable[[str], bool]) -> Iterator[str]:
    """Slides in an object store that cannot be fetched. A file that is gone is not needed if its store is whole."""
    for slide in (slide for slide in slides if in_object_store(slide.path)):
        fault = _fault(slide.path)
        if fault is None and not exists(slide.path) and (reason := why_not_alone(slide, layout)):
            fault = f"does not exist, {reason}. A folder (DICOM) is several files: {COPY}"
        if fault:
            yield f"slide {slide.slide_id}: {slide.path} {fault}"


def _fault(address: str) -> str | None:
    """Why an address names no slide that can be fetched."""
    if not is_plain(address):
        return "is no address of a file: s3://bucket/key, without empty parts, '.' and '..'"
    if PurePosixPath(bucket_and_key(address)[1]).suffix.lower() in COMPANIONS:
        return f"is one of several files of its slide, and only slides of one file are fetched: {COPY}"
    return None
