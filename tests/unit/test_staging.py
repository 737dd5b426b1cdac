"""Staging: the same training from copies on the node's local disk, which are removed at the end."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined
from histomake.config import Convert, Grid
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.data.staging import staged
from histomake.learn.train import train
from histomake.slide.convert import convert
from small_cohort import CLASSES, build_cohort, build_quarantined
from test_train import make_task


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohort")
    return root, build_cohort(root, 3)


@pytest.fixture
def local(tmp_path, monkeypatch):
    """The node's own disk."""
    folder = tmp_path / "local"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def stores(entries):
    return [entry.manifest.parent / Manifest.read_usable(entry.manifest).store for entry in entries]


def test_staged_stores_are_equal_and_are_removed_afterwards(cohort, local):
    root, entries = cohort
    with staged([*entries, build_quarantined(Layout(root), "lost", grid=Grid(mpp=1.0, size=64))]) as here:
        assert all(local in entry.manifest.parents for entry in here)
        assert isinstance(Manifest.read(here[-1].manifest), Quarantined)
        for copy, original in zip(stores(here[:-1]), stores(entries), strict=True):
            files = {p.relative_to(original): sha256_file(p) for p in original.rglob("*") if p.is_file()}
            assert files == {p.relative_to(copy): sha256_file(p) for p in copy.rglob("*") if p.is_file()}
    assert list(local.iterdir()) == []


def test_a_store_in_one_file_is_staged(local, tmp_path):
    source = tmp_path / "s.npy"
    np.save(source, np.full((256, 256, 3), 200, np.uint8))
    manifest = tmp_path / "s.json"
    record = convert(source, tmp_path / "s.zarr", slide_id="s", config=Convert(store="zip"), mpp=1.0)
    record.write(manifest)
    with staged([SlideEntry("s", "p", manifest, manifest)]) as here:
        (copy,) = stores(here)
        assert sha256_file(copy) == sha256_file(tmp_path / record.store)


def test_weights_do_not_depend_on_staging(cohort, local, tmp_path):
    _, entries = cohort
    for name, stage in (("there", False), ("here", True)):
        train(
            make_task(train={"steps": 3, "validate_every": 3, "stage": stage}),
            train=entries[:2],
            val=entries[2:],
            class_names=CLASSES,
            output=tmp_path / name,
            state=tmp_path / f"{name}.state",
            seed=7,
            threads=1,
        )
    first, second = (tmp_path / name / "model.safetensors" for name in ("there", "here"))
    assert first.read_bytes() == second.read_bytes()
    assert list(local.iterdir()) == []


def test_a_damaged_store_is_named_and_nothing_is_left(cohort, local):
    _, entries = cohort
    shard = max((p for p in stores(entries)[0].rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    kept = shard.read_bytes()
    shard.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(HistomakeError, match=f"slide {entries[0].slide_id}: .*differs from the converted store"):
        staged(entries).__enter__()
    shard.write_bytes(kept)
    assert list(local.iterdir()) == []


def test_a_disk_that_is_too_small_is_reported_before_anything_is_copied(cohort, local, monkeypatch):
    monkeypatch.setattr("histomake.learn.data.staging.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(HistomakeError, match="set TMPDIR to a larger disk"):
        staged(cohort[1]).__enter__()
    assert list(local.iterdir()) == []
