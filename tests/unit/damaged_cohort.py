"""A cohort of which one slide is damaged in a way that only decoding shows, and a model to predict it with."""

from __future__ import annotations

from pathlib import Path

from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard
from histomake.config import Grid, Task
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.train import train
from small_cohort import CLASSES, GRID_NAME, MPP, build_cohort

OPTIONS = {"steps": 12, "batch": 8, "validate_every": 12, "workers": 0, "learning_rate": 1e-3}
TASK = Task(grid=GRID_NAME, target={"classes": CLASSES}, model={"name": "test_resnet"}, train=OPTIONS)
GRID = Grid(size=64, mpp=MPP)


def damage(manifest: Path) -> None:
    """Overwrite the bytes of all tiles of a store, but not the indexes of its shards."""
    store = manifest.parent / Manifest.read(manifest).store
    for shard in (path for path in store.rglob("c/0/*/*") if path.is_file()):
        content = bytearray(shard.read_bytes())
        content[: len(content) // 2] = bytes(len(content) // 2)
        shard.write_bytes(content)


def fit(entries: list[SlideEntry], folder: Path, *, max_lost: float = 1.0) -> ModelCard:
    """Train a model, of which the last slide validates; it is in ``folder/model``."""
    places = {"output": folder / "model", "state": folder / "state"}
    (folder / "state").mkdir(parents=True, exist_ok=True)
    return train(
        TASK, train=entries[:-1], val=entries[-1:], class_names=CLASSES, **places, seed=0, threads=1, max_lost=max_lost
    )


def build_damaged(root: Path) -> list[SlideEntry]:
    """Four slides, the last of which is damaged."""
    entries = build_cohort(root, 4)
    damage(entries[3].manifest)
    return entries
