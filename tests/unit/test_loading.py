"""Loader processes return all requested batches in order and end with their context."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from histomake.base.errors import HistomakeError
from histomake.config import Task
from histomake.features.extract import SlidePixels
from histomake.learn.data import reading
from histomake.learn.data.batches import Batch, FixedBatches, PatchBatches, TrainingBatches
from histomake.learn.data.loader import HELD, load_batches
from histomake.learn.data.reading import MaskReader, PatchReader, SlidePool
from histomake.learn.data.source import NEW, Room
from histomake.learn.engine.runtime import advise_on_memory
from histomake.learn.train import known_patches
from histomake.patch.sampler import Sampler
from histomake.slide.reader import SlideReader, open_slide
from small_cohort import CLASSES, GRID_NAME, build_cohort

AUGMENT = {"rotate": 90, "elastic": 0.01, "blur": 1.0, "hed": 0.05}
TASKS = {
    "classification": {"target": {"classes": CLASSES}},
    "segmentation": {"kind": "segmentation", "target": {"source": "mask", "classes": CLASSES}},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    return build_cohort(tmp_path_factory.mktemp("cohort"), 2)


def training_batches(cohort, kind: str = "classification") -> TrainingBatches:
    task = Task.model_validate({"grid": GRID_NAME, "augment": AUGMENT, "train": {"batch": 8}, **TASKS[kind]})
    patches = known_patches(cohort, task)
    sampler = Sampler.from_weights(np.ones(len(patches)), seed=3)
    return TrainingBatches(PatchReader(patches, task.model), sampler, task, worker=0)


def loaders() -> list[psutil.Process]:
    """Loader processes: forks of this process, and not the fork server that other tests start."""
    this = psutil.Process()
    alive = [p for p in this.children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in alive if p.cmdline() == this.cmdline()]


def assert_same(found: Batch, expected: Batch) -> None:
    assert found.step == expected.step
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.target.to(expected.target.dtype), expected.target)
    for name in ("index", "x", "y"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    given, drawn = vars(found.parameters), vars(expected.parameters)
    for name, value in drawn.items():
        assert torch.equal(given[name], value) if isinstance(value, torch.Tensor) else given[name] == value


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("workers", [1, 3])
def test_loader_processes_return_the_batches_of_the_main_process(cohort, kind: str, workers: int) -> None:
    """More batches than there are slots, from step 5 on; now and then the user is slower than the loaders."""
    dataset, steps = training_batches(cohort, kind), range(5, 45)
    with load_batches(dataset, steps, workers=workers) as batches:
        for step, batch in zip(steps, batches, strict=True):
            if step % 10 == 0:
                time.sleep(0.1)
            assert_same(batch, dataset.prepare(step))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_last_batch_may_be_smaller(cohort, workers: int) -> None:
    task = Task.model_validate({"grid": GRID_NAME, **TASKS["segmentation"]})
    patches = known_patches(cohort, task)
    dataset = FixedBatches(PatchReader(patches, task.model), batch=33, masks=MaskReader(patches, task.target))
    assert len(patches) % 33
    with load_batches(dataset, range(len(dataset)), workers=workers) as batches:
        sizes = [(len(b.images), len(b.target), len(b.index)) for b in batches]
    assert sizes == [(33, 33, 33)] * (len(dataset) - 1) + [(len(patches) % 33,) * 3]


def decoded_tiles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int, int]]:
    """Slide, level, row and column of every tile that is decoded from now on."""
    tiles = []

    def counted(self, index, row, column, *rest, decode=SlideReader._decoded):
        tiles.append((self.slide_id, index, row, column))
        return decode(self, index, row, column, *rest)

    monkeypatch.setattr(SlideReader, "_decoded", counted)
    return tiles


def test_a_batch_decodes_each_tile_once_over_all_views(cohort, monkeypatch) -> None:
    task = Task.model_validate({"grid": GRID_NAME, "model": {"context": [2.0]}, **TASKS["classification"]})
    patches = known_patches(cohort, task)
    dataset, tiles = FixedBatches(PatchReader(patches, task.model), batch=len(patches)), decoded_tiles(monkeypatch)
    dataset.prepare(0)
    assert len(tiles) > len(cohort)
    assert len(set(tiles)) == len(tiles)


def test_a_batch_of_features_decodes_each_tile_once(cohort, monkeypatch) -> None:
    patches = known_patches(cohort, Task.model_validate({"grid": GRID_NAME, **TASKS["classification"]}))
    mine = np.flatnonzero(patches.slide == 0)
    places = np.stack([patches.x[mine], patches.y[mine]], axis=1).astype(np.int64)
    entry = patches.entries[0]
    source = SlidePixels(
        entry.slide_id, entry.manifest, places, size=patches.size, mpp=patches.mpp, batch=len(mine), stains=[None]
    )
    tiles = decoded_tiles(monkeypatch)
    assert source.prepare(0).error is None
    assert len(set(tiles)) == len(tiles) < len(mine)


def test_pixels_of_a_batch_are_not_overwritten_by_later_batches(cohort) -> None:
    dataset = training_batches(cohort)
    with load_batches(dataset, range(30), workers=2) as batches:
        kept = [next(batches) for _ in range(HELD)]
        for step, batch in enumerate(kept):
            assert_same(batch, dataset.prepare(step))
        next(batches)
        assert len(kept[0].images) == 0
        assert_same(kept[1], dataset.prepare(1))


def test_loaders_end_with_the_context_even_after_an_error(cohort) -> None:
    """They ignore SIGTERM: nothing but the context ends them, and the job would hang at its end."""
    with (
        pytest.raises(ZeroDivisionError),
        load_batches(training_batches(cohort), range(1000), workers=2) as batches,
    ):
        next(batches)
        assert len(loaders()) == 2
        _ = 1 / 0
    assert not loaders()


def test_a_killed_loader_is_distinguished_from_an_error_in_a_loader(cohort) -> None:
    with (
        pytest.raises(HistomakeError, match=r"a loader process was killed.*mem_mb"),
        advise_on_memory("with batches of 8"),
        load_batches(training_batches(cohort), range(10_000), workers=1) as batches,
    ):
        next(batches)
        os.kill(loaders()[0].pid, signal.SIGKILL)
        for _ in batches:
            pass


class _Failing(PatchBatches):
    masks, batch = None, 4

    def __init__(self, dataset: TrainingBatches) -> None:
        self.reader = dataset.reader

    def prepare(self, number: int, room: Room = NEW) -> Batch:
        raise HistomakeError(f"no batch {number}")


def test_an_error_in_a_loader_is_raised_unchanged(cohort) -> None:
    with (
        pytest.raises(HistomakeError, match="no batch 0"),
        load_batches(_Failing(training_batches(cohort)), range(4), workers=1) as batches,
    ):
        next(batches)
    assert not loaders()


def test_no_file_is_made_in_shared_memory(cohort) -> None:
    """Containers have 64 MB of /dev/shm, and what does not fit there ends in a bus error."""
    before = set(Path("/dev/shm").iterdir())
    with load_batches(training_batches(cohort), range(20), workers=2) as batches:
        next(batches)
        new = {path for path in set(Path("/dev/shm").iterdir()) - before if path.name.startswith("torch")}
    assert not new


def test_slides_and_annotations_are_opened_once_while_there_is_room(cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def noted(manifest: Path):
        opened.append(manifest.stem)
        return open_slide(manifest)

    monkeypatch.setattr(reading, "open_slide", noted)
    pool = SlidePool(cohort)
    first = [pool.reader(slide) for slide in (0, 1, 0, 1)]
    assert opened == ["s0", "s1"]
    assert first[0] is first[2]
    monkeypatch.setattr(reading, "MOST_READERS", 1)
    small = SlidePool(cohort)
    for slide in (0, 0, 1, 1, 0):
        assert small.reader(slide).slide_id == f"s{slide}"
    assert opened[2:] == ["s0", "s1", "s0"]


def test_annotations_are_dropped_from_the_cache_when_they_exceed_its_memory(
    cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ANNOTATION_BYTES", 1)
    pool = SlidePool(cohort)
    one = pool.annotation(0)
    assert pool.annotation(0) is one
    assert pool.annotation(1).class_names == tuple(CLASSES)
    assert pool.annotation(0) is not one
