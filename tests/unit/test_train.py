"""Training: models learn, resume bit for bit, and stop with a reason."""

from __future__ import annotations

import csv
import re
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.base.records.model_card import ModelCard, ModelGrid
from histomake.config import Grid, Model, Task
from histomake.learn.data.batches import TrainingBatches
from histomake.learn.data.reading import PatchReader
from histomake.learn.engine.checkpoint import load_state, save_state
from histomake.learn.train import check_classes, known_patches, require_slides, train
from histomake.patch.sampler import Sampler
from killed import wait_for_step
from small_cohort import CLASSES, GRID_NAME, build_cohort, build_quarantined
from train_killed import kill_repeatedly, start

ROOT = Path(__file__).resolve().parents[2]
KILLS = 2
"""In every test run; `make bench` kills ten times."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("cohort")
    return root, build_cohort(root, 4)


def make_task(**settings) -> Task:
    options = {"steps": 12, "batch": 8, "validate_every": 6, "workers": 0, "learning_rate": 1e-3}
    return Task.model_validate(
        {
            "grid": GRID_NAME,
            "target": {"classes": CLASSES},
            "model": {"name": "test_resnet"},
            **{key: value for key, value in settings.items() if key != "train"},
            "train": options | settings.get("train", {}),
        }
    )


def fit(task: Task, entries, output: Path, *, val=None, seed: int = 7) -> dict:
    return train(
        task,
        train=entries[:2],
        val=entries[2:3] if val is None else val,
        class_names=CLASSES,
        output=output,
        state=output.with_name(f"{output.name}.state"),
        seed=seed,
        threads=1,
    )


def test_model_learns_and_is_described(cohort, tmp_path: Path) -> None:
    described = fit(make_task(train={"steps": 40, "validate_every": 20}), cohort[1], tmp_path / "model")
    assert described.metrics["auroc"] > 0.95
    assert described == ModelCard.read(tmp_path / "model/model.json")
    assert described.class_names == CLASSES
    assert described.grid == ModelGrid(name=GRID_NAME, size=64, mpp=1.0)
    assert 0 < described.threshold < 1
    with open(tmp_path / "model/history.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [20, 40]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    assert not (tmp_path / "model.state/state.safetensors").exists()


def test_the_history_has_the_documented_columns_and_no_others(cohort, tmp_path: Path) -> None:
    fit(make_task(train={"steps": 2, "validate_every": 2}), cohort[1], tmp_path / "model")
    with open(tmp_path / "model/history.csv") as stream:
        columns = next(csv.reader(stream))
    documented = re.findall(r"^\| `([a-z_<>]+)` \|", (ROOT / "docs/training.md").read_text(), re.MULTILINE)
    patterns = [re.sub("<[a-z]+>", "[a-z_]+", name) for name in documented]
    assert [next((p for p in patterns if re.fullmatch(p, name)), None) for name in columns[:7]] == patterns
    assert all(re.fullmatch(patterns[-1], name) for name in columns[6:])


def test_same_seed_gives_the_same_weights_and_another_seed_others(cohort, tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        fit(make_task(train={"steps": 4, "validate_every": 4}), cohort[1], tmp_path / name, seed=seed)
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert weights["a"] == weights["b"]
    assert weights["a"] != weights["c"]


def test_loader_processes_do_not_change_the_weights(cohort, tmp_path: Path) -> None:
    for workers in (0, 2):
        options = {"steps": 4, "validate_every": 4, "workers": workers}
        fit(make_task(train=options), cohort[1], tmp_path / str(workers))
    assert (tmp_path / "0/model.safetensors").read_bytes() == (tmp_path / "2/model.safetensors").read_bytes()


@pytest.mark.timeout(300)
def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(cohort, tmp_path: Path) -> None:
    root, entries = cohort
    task = make_task(train={"steps": 60, "validate_every": 25, "checkpoint_minutes": 0.003})
    fit(task, entries, tmp_path / "whole")
    assert kill_repeatedly(root, task, tmp_path / "killed", kills=KILLS) < 60
    assert not (tmp_path / "killed/model.safetensors").exists()
    fit(task, entries, tmp_path / "killed")
    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.timeout(120)
def test_sigterm_saves_the_state_and_ends_the_run(cohort, tmp_path: Path) -> None:
    task = make_task(train={"steps": 5000, "validate_every": 5000, "checkpoint_minutes": 0.001, "workers": 1})
    process = start(cohort[0], task, tmp_path / "model")
    saved = wait_for_step(process, tmp_path / "model.state", 0)
    time.sleep(0.3)
    for member in [*psutil.Process(process.pid).children(recursive=True), process]:
        # Slurm and Snakemake signal all processes of a job, loaders first or last.
        member.terminate()
    process.join(60)
    assert process.exitcode == 1
    assert load_state(tmp_path / "model.state")["step"] > saved


def test_state_of_another_configuration_is_not_continued(cohort, tmp_path: Path, caplog) -> None:
    fit(make_task(train={"steps": 4, "validate_every": 4}), cohort[1], tmp_path / "fresh")
    folder = tmp_path / "model.state"
    folder.mkdir()
    save_state(folder, {"identity": "another", "step": 3})
    fit(make_task(train={"steps": 4, "validate_every": 4}), cohort[1], tmp_path / "model")
    assert "another configuration" in caplog.text
    assert (tmp_path / "fresh/model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()


def test_state_survives_the_disk_bit_for_bit(tmp_path: Path) -> None:
    state = {
        "network": {"w": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last), "n": torch.tensor(3)},
        "groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.999), "fused": None}],
        "by_number": {0: {"step": torch.tensor(1.0)}, 1: {}},
        "history": [{"loss": float("nan")}],
    }
    save_state(tmp_path, state)
    loaded = load_state(tmp_path)
    assert torch.equal(loaded["network"]["w"], state["network"]["w"])
    assert loaded["groups"] == [{"lr": 0.1 + 0.2, "betas": [0.9, 0.999], "fused": None}]
    assert list(loaded["by_number"]) == [0, 1]
    assert np.isnan(loaded["history"][0]["loss"])


def test_damaged_state_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(HistomakeError, match="delete it"):
        load_state(tmp_path)


def test_class_without_training_patches_stops_the_run_naming_it(cohort, tmp_path: Path) -> None:
    patches = known_patches(cohort[1][:2], make_task())
    with pytest.raises(HistomakeError, match=r"no training patch has class speckled .*s0, s1"):
        check_classes(patches.take(patches.target == 0), patches, make_task())


def test_class_without_validation_patches_is_only_warned_about(cohort, caplog) -> None:
    patches = known_patches(cohort[1][:2], make_task())
    check_classes(patches, patches.take(patches.target == 0), make_task())
    assert "no validation patch has class speckled" in caplog.text


def test_a_class_that_is_not_an_annotation_class_is_named(cohort, tmp_path: Path) -> None:
    with pytest.raises(HistomakeError, match="no annotation class is called absent"):
        fit(make_task(target={"classes": [*CLASSES, "absent"]}), cohort[1], tmp_path / "model")


def test_slides_in_quarantine_contribute_no_patch(cohort, tmp_path: Path) -> None:
    lost = build_quarantined(Layout(tmp_path), "lost", grid=Grid(size=64, mpp=1.0))
    alone = known_patches(cohort[1][:1], make_task())
    both = known_patches([cohort[1][0], lost], make_task())
    assert len(both) == len(alone) > 0


def test_slides_without_usable_patches_are_an_error_that_says_why(tmp_path: Path) -> None:
    lost = build_quarantined(Layout(tmp_path), "lost", grid=Grid(size=64, mpp=1.0))
    with pytest.raises(HistomakeError, match=r"usable patch: slide lost is in quarantine \(no_mpp: no mpp\)"):
        known_patches([lost], make_task())


def test_a_slide_in_quarantine_is_named_if_no_patch_of_the_others_has_a_label(cohort, tmp_path: Path) -> None:
    lost = build_quarantined(Layout(tmp_path), "lost", grid=Grid(size=64, mpp=1.0))
    patches = known_patches([cohort[1][0], lost], make_task())
    with pytest.raises(HistomakeError, match=r"no validation patch has a label .*; slide lost is in quarantine"):
        check_classes(patches, patches.take(patches.target < 0), make_task())


def test_a_split_without_validation_slides_is_an_error(cohort, tmp_path: Path) -> None:
    with pytest.raises(HistomakeError, match="there is no validation slide"):
        require_slides(cohort[1], [])


class _Unreadable(PatchReader):
    """A reader that fails on some patches, as on damaged tiles."""

    def __init__(self, patches, bad: set[int]) -> None:
        super().__init__(patches, Model())
        self.bad = bad

    def read(self, index, x, y, out=None):
        pixels, errors = super().read(index, x, y, out)
        errors |= {
            slot: HistomakeError(f"patch {i} is damaged") for slot, i in enumerate(index.tolist()) if i in self.bad
        }
        return pixels, errors


def test_unreadable_patches_are_counted_and_replaced_by_other_draws_never_by_blank_pixels(cohort) -> None:
    patches = known_patches(cohort[1][:1], make_task())
    sampler = Sampler.from_weights(np.ones(len(patches)), seed=0)
    bad = set(sampler.draw(0, 8)[:2].tolist())
    task = make_task(train={"max_read_errors": 1000})
    batch = TrainingBatches(_Unreadable(patches, bad), sampler, task, worker=0)[0]
    assert len(batch.read_errors) >= 2
    assert not bad & set(batch.index.tolist())
    expected, _ = PatchReader(patches, Model()).read(batch.index, batch.x, batch.y)
    assert np.array_equal(batch.images.numpy(), expected)


def test_vanished_slide_stops_training_naming_slide_and_place(tmp_path: Path) -> None:
    import shutil

    entries = build_cohort(tmp_path / "cohort", 3)
    shutil.rmtree(tmp_path / "cohort/slides/s0.zarr")
    with pytest.raises(HistomakeError, match=r"slide s0 .*patch at x=\d+ y=\d+"):
        fit(make_task(train={"validate_every": 12}), entries, tmp_path / "model")
