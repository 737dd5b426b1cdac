"""The cache of small files: it returns the current content of files, and only changed files are read."""

import json
import os

import pytest
from histomake.base.file_cache import FileCache


def decode(text, path):
    return json.loads(text)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.json" for i in range(5)]
    for i, path in enumerate(paths):
        path.write_text(f'{{"number": {i}}}')
    return paths


@pytest.fixture
def memory(tmp_path, files):
    """The memory after a first reading of all files."""
    cache = FileCache(tmp_path / "memory.parquet")
    assert [r["number"] for r in cache.read_records(files, decode)] == list(range(5))
    assert cache.files_read == 5
    cache.save()
    return tmp_path / "memory.parquet"


def test_unchanged_files_are_not_read_again(files, memory):
    cache = FileCache(memory)
    assert cache.read_texts(files, lambda path: pytest.fail(f"read {path}")) == [f.read_text() for f in files]
    assert cache.files_read == 0


def test_what_another_version_made_of_a_file_is_made_again(files, tmp_path):
    memory = tmp_path / "made.parquet"
    for version, times in (("1", 5), ("1", 0), ("2", 5)):
        cache = FileCache(memory, version)
        assert cache.read_texts(files, lambda path, version=version: version) == [version] * 5
        assert cache.files_read == times
        cache.save()


def test_changed_new_and_removed_files_have_their_current_content(files, memory, tmp_path):
    files[1].write_text('{"number": 77}')
    files[2].unlink()
    new = tmp_path / "new.json"
    new.write_text('{"number": 99}')
    cache = FileCache(memory)
    assert cache.read_texts([*files, new]) == [
        '{"number": 0}',
        '{"number": 77}',
        None,
        '{"number": 3}',
        '{"number": 4}',
        '{"number": 99}',
    ]
    assert cache.files_read == 2


def test_a_change_that_keeps_the_size_is_seen_by_its_time(files, memory):
    files[0].write_text('{"number": 8}')
    os.utime(files[0], ns=(1, 1))
    assert FileCache(memory).read_records(files[:1], decode) == [{"number": 8}]


def test_files_that_are_no_longer_requested_are_dropped(files, memory):
    cache = FileCache(memory)
    cache.read_texts(files[:2])
    cache.save()
    kept = FileCache(memory)
    kept.read_texts(files)
    assert kept.files_read == 3


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"x" * 1000])
def test_an_unusable_cache_only_costs_time(files, memory, content):
    memory.write_bytes(content)
    cache = FileCache(memory)
    assert [r["number"] for r in cache.read_records(files, decode)] == list(range(5))
    assert cache.files_read == 5


def test_a_missing_record_is_an_error_that_names_it(memory, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        FileCache(memory).read_records([tmp_path / "absent.json"], decode)
