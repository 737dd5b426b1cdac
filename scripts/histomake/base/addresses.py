"""Addresses of files in an object store, `s3://bucket/key`, and the paths to which Snakemake fetches such files."""

from __future__ import annotations

import posixpath

SCHEME = "s3://"
FETCHED = ".snakemake/storage/s3/"
"""Folder into which Snakemake fetches files, in the folder in which it is started; bucket and key follow."""


def in_object_store(path: str) -> bool:
    """Whether a path of the sheet is an address."""
    return path.startswith(SCHEME)


def bucket_and_key(address: str) -> tuple[str, str]:
    """Bucket and key of an address; either may be empty."""
    bucket, _, key = address.removeprefix(SCHEME).partition("/")
    return bucket, key


def is_plain(address: str) -> bool:
    """Whether an address names a file, in the only spelling of its key that is also the path of a fetched file."""
    bucket, key = bucket_and_key(address)
    return bool(bucket and key) and posixpath.normpath(key) == key and not key.startswith(("/", ".."))


def address_of(path: str) -> str:
    """The address of a file that Snakemake fetched; any other path unchanged."""
    _, fetched, rest = path.partition(FETCHED)
    return SCHEME + rest if fetched else path
