"""Atomic writing: files appear completely or not at all."""

import errno
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histomake.base.files import atomic_directory, atomic_file, sha256_tree, write_json
from histomake.base.tables import write_table

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "table.json"
    write_json(target, {"rows": 1})
    with pytest.raises(OSError, match="disk full"), atomic_file(target) as aside:
        aside.write_text("half")
        raise OSError("disk full")
    assert json.loads(target.read_text()) == {"rows": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_directory_leaves_the_old_tree_and_nothing_else(tmp_path):
    target = tmp_path / "a.zarr"
    with atomic_directory(target) as aside:
        (aside / "shard").write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_directory(target) as aside:
        (aside / "shard").write_bytes(b"half")
        raise RuntimeError
    assert (target / "shard").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_new_directory_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "a.zarr"
    for name in ("first", "second"):
        with atomic_directory(target) as aside:
            (aside / name).touch()
    assert [p.name for p in target.iterdir()] == ["second"]


WRITER = """
import sys, time
sys.path.insert(0, {scripts!r})
from histomake.base.files import atomic_directory, atomic_file
from histomake.base.tables import write_table
with {kind}({target!r}) as aside:
    (aside / "half" if aside.is_dir() else aside).write_text("half")
    print(aside, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writers():
    """Starts processes that go on writing to a target until they are killed, and returns where they write."""
    started = []

    def start(target: Path, kind: str = "atomic_directory") -> tuple[subprocess.Popen, Path]:
        code = WRITER.format(scripts=str(SCRIPTS), kind=kind, target=str(target))
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["atomic_directory", "atomic_file"])
def test_files_of_a_killed_writer_are_removed_by_the_next_writer(kind, writers, tmp_path):
    target = tmp_path / "a.zarr"
    process, aside = writers(target, kind)
    process.kill()
    process.wait()
    assert aside.exists()
    write_json(target, {"rows": 1})
    assert list(tmp_path.iterdir()) == [target]


def test_files_of_several_killed_writers_are_all_removed(writers, tmp_path):
    target = tmp_path / "a.zarr"
    killed = [writers(target)[0] for _ in range(3)]
    assert len(list(tmp_path.iterdir())) == 3
    for process in killed:
        process.kill()
        process.wait()
    write_json(target, {"rows": 1})
    assert list(tmp_path.iterdir()) == [target]


def test_files_of_a_live_writer_are_kept(writers, tmp_path):
    target = tmp_path / "a.zarr"
    _, theirs = writers(target)
    with atomic_directory(target) as ours:
        assert ours != theirs
        (ours / "shard").touch()
    assert theirs.exists()
    assert [p.name for p in target.iterdir()] == ["shard"]


def test_without_file_locks_writing_works_and_nothing_is_removed(writers, monkeypatch, tmp_path):
    target = tmp_path / "a.zarr"
    process, theirs = writers(target)
    process.kill()
    process.wait()

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    write_json(target, {"rows": 1})
    assert json.loads(target.read_text()) == {"rows": 1}
    assert theirs.exists()
    assert sorted(tmp_path.iterdir()) == sorted([target, theirs.parent])


def test_many_writers_at_once_leave_one_whole_file(tmp_path):
    target = tmp_path / "rows.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_json(target, {"rows": [i] * 100}), range(200)))
    assert len(set(json.loads(target.read_text())["rows"])) == 1
    assert list(tmp_path.iterdir()) == [target]


def test_json_with_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"auc": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_tree_digest_changes_with_a_byte_and_with_a_name(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    before = sha256_tree(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    changed = sha256_tree(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({before, changed, sha256_tree(tmp_path)}) == 3


def test_a_table_is_written_compressed_with_the_options_given(tmp_path):
    write_table(pa.table({"x": [1, 2], "y": ["a", "a"]}), tmp_path / "t.parquet", use_dictionary=["y"])
    columns = [pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0).column(i) for i in range(2)]
    assert [column.compression for column in columns] == ["ZSTD", "ZSTD"]
    assert [column.has_dictionary_page for column in columns] == [False, True]
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]
