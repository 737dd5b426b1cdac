"""The training loop alone, on tiny objectives: steps, turns, averages, checkpoints, processes."""

from __future__ import annotations

import csv
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import killed
import pytest
import torch
from histomake.base.errors import HistomakeError
from histomake.learn.engine.averaging import Average
from histomake.learn.engine.checkpoint import load_state
from histomake.learn.engine.launch import launch
from histomake.learn.engine.loop import Trainer
from histomake.learn.engine.objective import Result, Turn
from histomake.learn.engine.run import run
from histomake.learn.engine.runtime import Interrupts, PreemptedError
from safetensors.torch import load_file
from torch import nn
from toy_objectives import CPU, GAN_SETTINGS, Counter, GrowingGAN, Line, StopAt, Toy, run_gan, run_line, settings_with

KILLS = 10


def trained(objective: Toy, folder: Path, *, interrupts: Interrupts | None = None, **settings) -> Result:
    trainer = Trainer(objective, settings_with(**settings), runtime=CPU, state=folder)
    return trainer.run(interrupts or Interrupts())


def weight(result: Result) -> float:
    return float(result.weights["counter"]["weight"])


# --- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_accumulated_batches_learn_as_one_larger_batch(tmp_path: Path, optimiser: str) -> None:
    whole = trained(Line(optimiser=optimiser), tmp_path / "a", steps=10)
    parts = trained(Line(shares=4, optimiser=optimiser), tmp_path / "b", steps=10, accumulate=4)
    for name, value in whole.weights["line"].items():
        torch.testing.assert_close(parts.weights["line"][name], value, rtol=1e-5, atol=1e-6)


def test_a_longer_gradient_is_scaled_down_to_the_limit(tmp_path: Path) -> None:
    """The gradient is 1 and the learning rate is 1, so the weight moves by the clipped norm."""
    assert weight(trained(Counter(), tmp_path, steps=3, clip=0.25)) == pytest.approx(0.75, rel=1e-4)


def test_a_turn_gives_gradients_to_its_own_optimiser_alone(tmp_path: Path) -> None:
    objective = GrowingGAN()
    generator = [p.clone() for p in objective.networks["generator"].parameters()]

    def critic_alone(batch, step):
        yield Turn("critic", objective.judge(objective.generate(len(batch))).mean())
        assert all(p.grad is None for p in objective.networks["generator"].parameters())

    objective.turns = critic_alone
    trained(objective, tmp_path, steps=2)
    assert all(map(torch.equal, generator, objective.networks["generator"].parameters()))


def test_turns_come_in_the_order_of_the_objective_and_see_the_update_before(tmp_path: Path) -> None:
    objective, seen = Counter(), []

    def twice(batch, step):
        for _ in range(2):
            seen.append(objective.networks["counter"].weight.item())
            yield Turn("counter", -objective.networks["counter"](batch).sum())

    objective.turns = twice
    trained(objective, tmp_path, steps=2)
    assert seen == [0, 1, 2, 3]


def test_batches_of_one_step_must_take_the_same_turns(tmp_path: Path) -> None:
    objective = Counter()
    calls = iter(range(9))

    def uneven(batch, step):
        for _ in range(1 + next(calls) % 2):
            yield Turn("counter", -objective.networks["counter"](batch).sum())

    objective.turns = uneven
    with pytest.raises(ValueError, match="batches of step 0 take different turns"):
        trained(objective, tmp_path, accumulate=2)


def test_loss_that_is_not_a_number_stops_the_run_naming_loss_step_and_batch(tmp_path: Path) -> None:
    with pytest.raises(HistomakeError, match=r"the critic_loss is not a number at step 2; play less\. .*: 8 toys"):
        trained(GrowingGAN(poisoned=2), tmp_path)


# --- validation -------------------------------------------------------------------------------------------------------


def test_the_best_weights_are_kept_with_what_belongs_to_them(tmp_path: Path) -> None:
    result = trained(Counter([0.1, 0.9, 0.5]), tmp_path, steps=6)
    assert (result.step, weight(result), result.figures, result.kept) == (4, 4.0, {"score": 0.9}, {"at": 4})


def test_of_equal_scores_the_first_is_the_best(tmp_path: Path) -> None:
    assert trained(Counter([0.5, 0.5]), tmp_path, steps=4).step == 2


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    result = trained(Counter(), tmp_path, steps=5)
    assert (result.step, weight(result), result.figures) == (5, 5.0, {})


def test_training_ends_after_patience_validations_without_a_better_one(tmp_path: Path) -> None:
    result = trained(Counter([0.3, 0.5, 0.4, 0.5, 0.9]), tmp_path, steps=10, patience=2)
    assert [row["step"] for row in result.history] == [2, 4, 6, 8]
    assert result.step == 4


# --- averages ---------------------------------------------------------------------------------------------------------


def test_averages_are_those_computed_by_hand() -> None:
    """a ← d a + (1 - d) w with d = min(0.5, n / (n + 10)), over w = 1, 3, 2 and then 4 often enough for d = 0.5."""
    network = nn.Linear(1, 1, bias=False)
    average = Average(network, 0.5)
    expected = 0.0
    for update, value in enumerate([1.0, 3.0, 2.0, *[4.0] * 12]):
        nn.init.constant_(network.weight, value)
        average.update(network)
        share = min(0.5, update / (update + 10))
        expected = share * expected + (1 - share) * value
        assert float(average.values["weight"]) == pytest.approx(expected, rel=1e-6)
        if update == 1:
            assert expected == pytest.approx(1 / 11 * 1 + 10 / 11 * 3)


def test_counts_are_copied_into_an_average() -> None:
    network = nn.BatchNorm1d(2)
    average = Average(network, 0.9)
    for _ in range(3):
        network(torch.randn(4, 2))
        average.update(network)
    assert int(average.values["num_batches_tracked"]) == 3
    assert not torch.equal(average.values["running_mean"], network.running_mean)


def test_averaged_weights_are_measured_and_kept_while_training_goes_on_with_its_own(tmp_path: Path) -> None:
    objective = Counter([0.1, 0.2])
    result = trained(objective, tmp_path, steps=4, ema=0.5)
    first = 1 / 11 * 1 + 10 / 11 * 2
    third = (2 / 12 * first + 10 / 12 * 3) * 3 / 13 + 10 / 13 * 4
    assert objective.seen == pytest.approx([first, third])
    assert weight(result) == pytest.approx(third)
    assert objective.networks["counter"].weight.item() == 4.0


def test_only_the_networks_of_the_result_are_averaged_and_kept(tmp_path: Path) -> None:
    assert list(trained(GrowingGAN(), tmp_path, ema=0.9).weights) == ["generator"]


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_sigterm_saves_the_state_and_the_next_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = trained(Line(), tmp_path / "whole", steps=9)
    stopped = Line()
    with pytest.raises(PreemptedError, match="stopped by a signal at step 5"):
        trained(stopped, tmp_path / "state", steps=9, interrupts=StopAt(stopped, 4, signal.SIGTERM))
    result = trained(Line(), tmp_path / "state", steps=9)
    assert all(torch.equal(value, result.weights["line"][name]) for name, value in whole.weights["line"].items())
    assert [row["step"] for row in result.history] == [2, 4, 6, 8, 9]


def test_sigusr1_saves_the_state_and_the_run_goes_on(tmp_path: Path) -> None:
    objective = Line()
    result = trained(objective, tmp_path, steps=6, interrupts=StopAt(objective, 2, signal.SIGUSR1))
    assert result.step == 6
    assert load_state(tmp_path)["step"] == 3


@pytest.mark.parametrize("change", [{"steps": 7}, {"seed": 1}, {"ema": 0.5}, {"clip": 1.0}])
def test_a_state_of_other_settings_is_not_continued(tmp_path: Path, change: dict, caplog) -> None:
    objective = Line()
    trained(objective, tmp_path, steps=6, interrupts=StopAt(objective, 2, signal.SIGUSR1))
    trained(Line(), tmp_path, **{"steps": 6} | change)
    assert "the state of another configuration: training starts from step 0" in caplog.text


def test_a_state_is_continued_when_only_the_time_between_checkpoints_differs(tmp_path: Path, caplog) -> None:
    objective = Line()
    trained(objective, tmp_path, steps=6, interrupts=StopAt(objective, 2, signal.SIGUSR1))
    caplog.set_level("INFO")
    trained(Line(), tmp_path, steps=6, checkpoint_minutes=99.0)
    assert "resumed at step 3 of 6" in caplog.text


@pytest.mark.parametrize("step", [GrowingGAN.CHANGE - 2, GrowingGAN.CHANGE - 1, GrowingGAN.CHANGE])
def test_a_run_stopped_around_a_phase_change_ends_with_the_same_weights(tmp_path: Path, step: int) -> None:
    settings = {"steps": 12, "ema": 0.9}
    whole = trained(GrowingGAN(), tmp_path / "whole", **settings)
    stopped = GrowingGAN()
    with pytest.raises(PreemptedError):
        trained(stopped, tmp_path / "state", interrupts=StopAt(stopped, step, signal.SIGTERM), **settings)
    result = trained(GrowingGAN(), tmp_path / "state", **settings)
    found, expected = (each.weights["generator"] for each in (result, whole))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.timeout(120)
def test_generator_and_critic_killed_ten_times_across_a_phase_change_end_with_the_same_weights(tmp_path: Path) -> None:
    """Dropout, an image pool, an average, two optimisers that are replaced, batches whose shape changes."""
    settings = asdict(GAN_SETTINGS)
    run_gan(tmp_path / "whole", settings, 0.0)

    def begin():
        return killed.start(run_gan, tmp_path / "killed", settings, 0.03)

    steps = killed.kill_repeatedly(begin, tmp_path / "killed/state", kills=KILLS, pause=0.06)
    assert steps[0] < GrowingGAN.CHANGE < steps[-1] < GAN_SETTINGS.steps
    assert not (tmp_path / "killed/model/model.safetensors").exists()
    run_gan(tmp_path / "killed", settings, 0.0)
    files = [tmp_path / name / "model/model.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "killed/state/state.safetensors").exists()


# --- what is written --------------------------------------------------------------------------------------------------


def columns(folder: Path) -> list[str]:
    with open(folder / "history.csv") as stream:
        return next(csv.reader(stream))


def test_the_history_has_the_documented_columns(tmp_path: Path) -> None:
    settings = settings_with()
    run(Counter([0.5, 0.6]), settings, runtime=CPU, state=tmp_path / "state", output=tmp_path / "model")
    assert columns(tmp_path / "model") == ["step", "train_loss", "learning_rate", "seconds", "data_wait", "val_score"]
    assert list((tmp_path / "model/training/events").glob("events.out.tfevents.*"))


def test_with_several_optimisers_losses_and_rates_are_named_by_them(tmp_path: Path) -> None:
    run(GrowingGAN(), settings_with(), runtime=CPU, state=tmp_path / "state", output=tmp_path / "model")
    named = ["train_critic_loss", "train_penalty", "train_generator_loss"]
    rates = ["learning_rate_generator", "learning_rate_critic"]
    assert columns(tmp_path / "model") == ["step", *named, *rates, "seconds", "data_wait"]


def test_weights_of_several_networks_are_named_by_them(tmp_path: Path) -> None:
    class Both(GrowingGAN):
        result = ("generator", "critic")

    run(Both(), settings_with(), runtime=CPU, state=tmp_path / "state", output=tmp_path / "model")
    found = load_file(tmp_path / "model/model.safetensors")
    assert {name.split(".")[0] for name in found} == {"generator", "critic"}


def test_progress_has_losses_speed_waiting_and_time_left(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    trained(Line(), tmp_path, steps=20, record_every=50)
    assert "step 20 of 20: loss " in caplog.text
    assert all(words in caplog.text for words in ("samples/s", "% waiting for data", "0 min left"))


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_two_processes_learn_what_one_learns_from_their_batches_together(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    launch(run_line, {"folder": str(tmp_path), "steps": 6}, folder=tmp_path, processes=2)
    together = load_file(tmp_path / "model/model.safetensors")
    alone = trained(Line(shares=2), tmp_path / "alone", steps=6, accumulate=2, record_every=6)
    for name, value in alone.weights["line"].items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-6)
