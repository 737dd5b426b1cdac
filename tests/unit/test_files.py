"""What the writing room promises: files appear whole or not at all."""

import pytest
from histomake.files import atomic_directory, atomic_file, read_json, sha256_tree, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "table.json"
    write_json(target, {"rows": 1})
    with pytest.raises(OSError, match="disk full"), atomic_file(target) as aside:
        aside.write_text("half")
        raise OSError("disk full")
    assert read_json(target) == {"rows": 1}
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


def test_json_with_no_number_is_refused(tmp_path):
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
