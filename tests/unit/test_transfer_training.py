"""Training of stain transfers on painted slides: what is drawn, learned and kept, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import json

import numpy as np
import pytest
import torch
import train_transfer_killed
from histomake.base.errors import HistomakeError, Reason, SlideError
from histomake.base.layout import Layout
from histomake.base.records.transfer_card import TransferCard
from histomake.config import Grid, StainTransfer
from histomake.generate import objective as module
from histomake.generate.objective import TransferObjective
from histomake.generate.patches import SidesBatches, index_side
from histomake.generate.training import train_transfer
from histomake.learn.engine.runtime import choose_runtime
from safetensors.torch import load_file
from small_cohort import build_cohort, build_quarantined

SMALL = {
    "from": {"column": "stain", "value": "HE"},
    "to": {"column": "stain", "value": "PAS"},
    "grid": "tiny",
    "generator": {"blocks": 1, "filters": 4},
    "discriminator": {"layers": 1, "filters": 4},
    "train": {"steps": 6, "record_every": 2, "workers": 0},
}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return build_cohort(tmp_path_factory.mktemp("cohort"), 4)


def settings(**train) -> StainTransfer:
    return StainTransfer.model_validate({**SMALL, "train": {**SMALL["train"], **train}})


def train(transfer, slides, folder, **changes):
    places = {"output": folder / "model", "state": folder / "state", "seed": 1, "threads": 1}
    return train_transfer(transfer, **{"source": slides[:2], "target": slides[2:], **places, **changes})


def objective_of(transfer, slides) -> TransferObjective:
    sides = index_side(slides[:2], "from"), index_side(slides[2:], "to")
    return TransferObjective(transfer, sides=sides, runtime=choose_runtime("fp32", threads=1), seed=1, threads=1)


def test_a_training_leaves_weights_card_and_history(slides, tmp_path):
    card = train(settings(), slides, tmp_path)
    weights = load_file(tmp_path / "model/model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"forward", "backward"}
    assert sum(w.numel() for w in weights.values()) == 2 * card.parameters
    assert (card.stains, card.slides, card.step) == (("HE", "PAS"), (["s0", "s1"], ["s2", "s3"]), 6)
    assert len(card.made_with) == 4
    assert TransferCard.read(tmp_path / "model/model.json") == card
    rows = list(csv.DictReader((tmp_path / "model/history.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert float(rows[-1]["train_generators_loss"]) > 0
    assert float(rows[-1]["train_critic_from"]) > 0


def test_a_training_killed_ten_times_ends_with_the_weights_of_an_uninterrupted_run(slides, tmp_path):
    transfer = settings(steps=60, batch=1, checkpoint_minutes=1e-9)
    train_transfer_killed.main(transfer.dump(), slides, tmp_path / "whole")
    steps = train_transfer_killed.kill_repeatedly(transfer, slides, tmp_path / "killed", kills=10)
    assert steps[-1] < 60
    assert not (tmp_path / "killed/model/model.safetensors").exists()
    train_transfer_killed.main(transfer.dump(), slides, tmp_path / "killed")
    whole, stopped = (tmp_path / name / "model/model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == stopped.read_bytes()


def test_a_batch_is_a_function_of_its_number(slides):
    sides = index_side(slides[:2], "from"), index_side(slides[2:], "to")
    source = SidesBatches(sides, batch=3, seed=5)
    first, again, other = source.prepare(7), source.prepare(7), source.prepare(8)
    assert torch.equal(first.source, again.source)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.source, other.source)
    assert first.source.shape == (3, 64, 64, 3)


def test_a_drawn_patch_is_one_of_the_slide_flipped_and_turned(slides):
    sides = index_side(slides[:2], "from"), index_side(slides[2:], "to")
    source = SidesBatches(sides, batch=8, seed=5)
    batch, changed = source.prepare(0), 0
    for index, image in zip(batch.index[0], batch.source.numpy(), strict=True):
        side = source.sides[0]
        reader = source.readers[0].pool.reader(int(side.slide[index]))
        patch = reader.read(int(side.x[index]), int(side.y[index]), 64, side.mpp)
        poses = [np.rot90(flipped, k) for k in range(4) for flipped in (patch, patch[:, ::-1])]
        assert any(np.array_equal(image, pose) for pose in poses)
        changed += not np.array_equal(image, patch)
    assert changed >= 4


def test_the_slides_of_a_side_are_drawn_equally_often(slides):
    sides = index_side(slides[:2], "from"), index_side(slides[2:], "to")
    source = SidesBatches(sides, batch=2000, seed=5)
    drawn = sides[0].slide[source.samplers[0].draw(0, 2000, worker=0)]
    assert abs(np.mean(drawn == 0) - 0.5) < 0.05


def test_the_loss_of_the_generators_is_that_of_its_parts(slides):
    transfer = StainTransfer.model_validate({**SMALL, "loss": {"cycle": 4, "identity": 2}})
    objective = objective_of(transfer, slides)
    batch = SidesBatches(objective.sides, batch=1, seed=1).prepare(0)
    turn = next(objective.turns(batch, 0))
    parts = {name: float(value) for name, value in turn.figures.items()}
    expected = parts["adversarial"] + 4 * parts["cycle"] + 2 * parts["identity"]
    assert turn.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_critics_see_earlier_translations_once_the_pool_is_full(slides, monkeypatch):
    objective = objective_of(settings(), slides)
    batches = SidesBatches(objective.sides, batch=1, seed=1)
    for pool in objective.pools:
        pool.size = 1
    shown = []
    monkeypatch.setattr(objective.pools[1], "exchange", lambda images, rng: shown.append(images) or images)
    for step in range(2):
        list(objective.turns(batches.prepare(step), step))
    assert len(objective.pools[0].images) == 1
    assert not any(image.requires_grad for image in shown)


def test_a_loss_that_is_not_a_number_stops_with_step_and_batch(slides, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cycle_loss", lambda images, returned: (returned * float("nan")).mean())
    with pytest.raises(HistomakeError, match=r"generators_loss is not a number at step 0; .*from: slide s[01] patch"):
        train(settings(), slides, tmp_path)


def test_a_side_without_usable_patches_is_refused_with_the_reason(slides, tmp_path):
    lost = build_quarantined(Layout(tmp_path / "lost"), "gone", grid=Grid(size=64, mpp=1.0))
    with pytest.raises(HistomakeError, match=r"side 'to' of the stain transfer has no usable patch: slide gone is in"):
        train(settings(), slides, tmp_path, target=[lost])


def test_a_damaged_slide_is_left_out_and_named(slides, tmp_path, monkeypatch):
    error = SlideError(Reason.DAMAGED_TILES, slide_id="s1", path="s1.zarr", detail="torn", remedy="convert again")

    def read(self, index, x, y, out=None):
        bad = [n for n, i in enumerate(index) if self.patches.entries[self.patches.slide[i]].slide_id == "s1"]
        return out, dict.fromkeys(bad, error)

    monkeypatch.setattr("histomake.generate.patches.PatchReader.read", read)
    card = train(settings(), slides, tmp_path, max_lost=0.5)
    assert [entry.slide_id for entry in card.left_out] == ["s1"]
    assert card.slides == (["s0"], ["s2", "s3"])
    assert json.loads((tmp_path / "model/model.json").read_text())["left_out"][0]["slide_id"] == "s1"


def test_only_settings_that_shape_the_weights_are_compared():
    assert settings(workers=3).fitting() == settings(workers=0).fitting()
    assert settings(steps=7).fitting() != settings(steps=8).fitting()


def test_the_state_of_a_run_holds_the_pools(slides):
    objective = objective_of(settings(), slides)
    list(objective.turns(SidesBatches(objective.sides, batch=1, seed=1).prepare(0), 0))
    state = objective.state()
    other = objective_of(settings(), slides)
    other.resume(1, state)
    for one, two in zip(objective.pools, other.pools, strict=True):
        assert torch.equal(torch.stack(one.images), torch.stack(two.images))


def test_the_same_seed_gives_the_same_weights(slides, tmp_path):
    digests = set()
    for name in ("a", "b"):
        train(settings(), slides, tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name / "model/model.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1
