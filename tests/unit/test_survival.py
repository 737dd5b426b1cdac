"""Survival: targets from the sheet, Cox losses, C-index, groups of risk, and tasks on bags from training to report."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from histomake.bags import objective
from histomake.bags.predict import load_bag_model, predict_bag
from histomake.bags.training import train_bags
from histomake.base.cells import survival
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.patient_bootstrap import patient_weights
from histomake.cohort.folds import assign_task
from histomake.cohort.sheet import Slide, read_sheet
from histomake.config import Encoder, Grid, Target, Task, parse_config
from histomake.evaluate.bags import baselines
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.horizon import Horizon
from histomake.evaluate.items import Items, SlidePrediction
from histomake.evaluate.plots import draw_figures
from histomake.evaluate.survival import risk_groups, survival_metrics
from histomake.explain.summaries import bag_table
from histomake.features.encoders import load_group
from histomake.features.extract import extract
from histomake.learn.data.patch_index import annotated_areas
from histomake.learn.engine.runtime import PreemptedError
from histomake.learn.heads.fits import fit_hazards
from histomake.learn.objectives.losses import build_loss
from histomake.report.task_section import risk_table
from histomake.target.kinds import sheet_target
from histomake.target.survival import concordance
from small_cohort import GRID_NAME, MPP, build_cohort

TARGET = Target(source="sheet", time="months", event="died")
MANY_TIES = {
    "x": [1.2, -0.3, 0.8, 0.1, -1.1, 0.5, 2.0, -0.7, 0.4, -1.6, 0.9, -0.2],
    "time": [2, 5, 2, 5, 9, 2, 1, 7, 5, 9, 3, 7],
    "event": [1, 1, 1, 0, 1, 1, 1, 0, 1, 0, 1, 1],
}

STATSMODELS = {"cox_efron": -12.820025613340546, "cox_breslow": -13.52549935132276}
"""PHReg.loglike of statsmodels 0.15 at the coefficient 0.7."""

LIFELINES = {
    "c_index": 0.9285714285714286,
    "c_index_of_tied_risks": 0.8928571428571429,
    "log_rank_p": 0.0012041695438593381,
    "median": [9.0, 2.0],
}
"""Of lifelines 0.30: concordance_index(time, -x, event), also with rounded x; logrank_test and median_survival_time_ \
of the groups with x up to and above 0.3."""


# --- the target ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [
        ("0", "1", "not a time after the start"),
        ("-3", "0", "not a time after the start"),
        ("nan", "1", "not a number"),
        ("inf", "1", "not a number"),
        ("3,5", "1", "not a number"),
        ("12", "", "while event is empty"),
        ("", "1", "empty, while event is '1'"),
        ("12", "2", "neither 1 nor 0"),
        ("12", "yes", "neither 1 nor 0"),
    ],
)
def test_a_time_or_an_event_that_is_none_is_refused_with_the_slide(time, event, message):
    with pytest.raises(ConfigError, match=f"slide s7: months is .*{message}"):
        sheet_target("survival", TARGET, {"months": time, "died": event}, slide_id="s7")


def test_time_and_event_are_read_and_both_empty_are_unknown():
    assert survival("12.5", "1.0") == (12.5, 1.0)
    assert sheet_target("survival", TARGET, {"months": "3", "died": "0"}, slide_id="s").tolist() == [3.0, 0.0]
    assert np.isnan(sheet_target("survival", TARGET, {}, slide_id="s")).all()


def raw(tmp_path, rows, **values):
    lines = ["slide_id\tpath\tpatient_id\tmonths\tdied", *("\t".join(row) for row in rows)]
    (tmp_path / "s.tsv").write_text("\n".join(lines) + "\n")
    told = {"kind": "survival", "level": "patient", "grid": "x20", "features": "a"}
    told |= {"target": {"source": "sheet", "time": "months", "event": "died"}, **values}
    encoder = {"grid": "x20", "name": "resnet10t", "weights": False}
    return {"sheet": str(tmp_path / "s.tsv"), "encoders": {"a": encoder}, "tasks": {"t": told}}


def read(tmp_path, rows, **values):
    config = parse_config(raw(tmp_path, rows, **values))
    return read_sheet(config.sheet, config, check_files=False)


def rows_of(*cells):
    return [(f"s{i}", f"s{i}.svs", f"p{i}", time, event) for i, (time, event) in enumerate(cells)]


def test_every_wrong_cell_of_the_sheet_is_listed_at_once_with_its_slide(tmp_path):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, rows_of(("5", "1"), ("-1", "1"), ("4", ""), ("", "0"), ("4", "3"), ("", "")))
    found = str(error.value)
    assert [f"(s{i})" in found for i in range(6)] == [False, True, True, True, True, False]


def test_a_cohort_without_an_event_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="every patient is censored"):
        read(tmp_path, rows_of(("5", "0"), ("6", "0")))


@pytest.mark.parametrize("level", ["slide", "patient"])
def test_a_patient_with_two_survival_times_is_refused_at_every_level(tmp_path, level):
    rows = rows_of(("5", "1"), ("6", "1"))
    rows[1] = (*rows[1][:2], "p0", *rows[1][3:])
    with pytest.raises(ConfigError, match="patient p0 has slides of different months"):
        read(tmp_path, rows, level=level)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "patch"}, "learned for slides or patients"),
        ({"target": {"source": "sheet", "column": "grade"}}, "needs time and event"),
        ({"target": {"source": "sheet", "time": "months"}}, r"target\.event: survival needs"),
        ({"target": {"source": "sheet", "time": "months", "event": "months"}}, "are the same column"),
        ({"target": {**TARGET.dump("source", "time", "event"), "classes": ["a"]}}, "has no classes"),
        ({"train": {"loss": "huber"}}, "does not fit survival"),
        ({"train": {"select": "auroc"}}, "is not measured for survival"),
        ({"pooling": {"name": "clam"}}, "needs kind classification"),
        ({"kind": "regression"}, r"target\.time: regression has no such column"),
    ],
)
def test_settings_that_do_not_fit_survival_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(raw(tmp_path, [], **changes))


def test_events_are_balanced_over_roles_and_unknown_slides_are_only_predicted():
    slides = [
        Slide(f"s{i}", "s.svs", f"p{i:02d}", labels={"months": str(i + 1), "died": str(int(i % 4 == 0))})
        for i in range(40)
    ]
    unknown = Slide("u", "u.svs", "u")
    settings = {"kind": "survival", "level": "patient", "grid": "g", "features": "a", "target": TARGET.dump()}
    task = Task.model_validate({**settings, "split": {"folds": 4}})
    found = assign_task([*slides, unknown], task, seed=0, name="t")
    events = {s.slide_id: int(s.labels["died"]) for s in slides}
    for fold in range(4):
        assert sum(events[a.slide_id] for a in found if (a.fold, a.role) == (fold, "test")) in (2, 3)
    assert {a.role for a in found if a.slide_id == "u"} == {"predict"}


# --- losses -------------------------------------------------------------------------------------------------------


def reference(risk, time, event, *, efron):
    """The formula of the partial likelihood, without any care for large numbers: loops over distinct times."""
    total = 0.0
    for moment in np.unique(time[event == 1]):
        tied, at_risk = (time == moment) & (event == 1), np.exp(risk[time >= moment]).sum()
        total += risk[tied].sum()
        for number in range(tied.sum()):
            total -= np.log(at_risk - efron * number / tied.sum() * np.exp(risk[tied]).sum())
    return -total / event.sum()


@pytest.mark.parametrize("name", ["cox_efron", "cox_breslow"])
@pytest.mark.parametrize("ties", [1, 4, 1000])
def test_cox_losses_and_their_gradients_are_those_of_the_formula(name, ties):
    rng = np.random.default_rng(ties)
    risk, event = rng.normal(size=50), (rng.random(50) < 0.6).astype(float)
    time = np.ceil(rng.exponential(size=50) * 1000 / ties)
    target = torch.from_numpy(np.stack([time, event], 1))
    logits = torch.from_numpy(risk)[:, None].requires_grad_()
    found = build_loss(name)(logits, target)
    assert found.item() == pytest.approx(reference(risk, time, event, efron=name == "cox_efron"), rel=1e-10)
    assert torch.autograd.gradcheck(lambda given: build_loss(name)(given, target), logits)


def test_cox_losses_are_those_of_statsmodels_on_tied_times():
    x, time, event = (np.array(MANY_TIES[key], float) for key in ("x", "time", "event"))
    logits, target = torch.from_numpy(0.7 * x)[:, None], torch.from_numpy(np.stack([time, event], 1))
    for name, loglike in STATSMODELS.items():
        assert float(build_loss(name)(logits, target)) * event.sum() == pytest.approx(-loglike, abs=1e-6)


@pytest.mark.parametrize("name", ["cox_efron", "cox_breslow"])
def test_cox_losses_stay_finite_for_large_risks_and_ignore_a_constant(name):
    target = torch.tensor([[1.0, 1], [1, 1], [2, 1], [3, 0]])
    logits = torch.tensor([[900.0], [-900], [0], [30]], requires_grad=True)
    build_loss(name)(logits, target).backward()
    assert torch.isfinite(logits.grad).all()
    small = torch.tensor([[0.3], [-0.2], [0.9], [0.1]], dtype=torch.float64)
    torch.testing.assert_close(build_loss(name)(small, target), build_loss(name)(small + 1e4, target))


@pytest.mark.parametrize("name", ["cox_efron", "cox_breslow"])
def test_a_batch_without_an_event_and_bags_of_unknown_survival_change_nothing(name):
    logits = torch.tensor([[1.0], [2.0]], requires_grad=True)
    loss = build_loss(name)(logits, torch.tensor([[1.0, 0], [2, 0]]))
    loss.backward()
    assert (loss.item(), logits.grad.abs().sum().item()) == (0.0, 0.0)
    some = torch.tensor([[1.0, 1], [2, 0]])
    more = torch.cat([some, torch.full((1, 2), torch.nan)])
    given = torch.tensor([[1.0], [2.0], [9.0]])
    assert build_loss(name)(given, more) == build_loss(name)(given[:2], some)


def hazards(count, seed, *, censored=True):
    """Survival times with the log hazard x0 - 0.5 x1, of which about a third is censored."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3)).astype(np.float32)
    time = rng.exponential(np.exp(-(x[:, 0] - 0.5 * x[:, 1])))
    end = rng.exponential(2.0, count) if censored else np.full(count, np.inf)
    return x, np.stack([np.minimum(time, end), (time <= end).astype(float)], 1)


def test_the_linear_baseline_recovers_a_synthetic_hazard():
    x, target = hazards(2000, 1)
    weights, bias = fit_hazards(x, target, np.ones(len(x)), 1e-6)
    assert weights[0] == pytest.approx([1, -0.5, 0], abs=0.1)
    assert (x @ weights[0] + bias).mean() == pytest.approx(0, abs=1e-4)


# --- evaluation ---------------------------------------------------------------------------------------------------


def items(risk, time, event, *, threshold=0.0, patient=None, fold=None):
    risk = np.array(risk, float)
    owner = np.arange(len(risk)) if patient is None else np.array(patient)
    target = np.stack([np.array(time, float), np.array(event, float)], 1)
    folds = np.zeros(len(risk), int) if fold is None else np.array(fold)
    return Items(risk[:, None], target, (risk > threshold).astype(int), owner, folds)


def c_index(found):
    patients = found.patient.max() + 1
    with np.errstate(invalid="ignore"):
        return survival_metrics(
            "patient", found, ["risk"], patient_weights(found.patient, patients, seed=0, bootstraps=20)
        )["", "c_index"]


def test_the_c_index_and_the_log_rank_test_are_those_of_lifelines():
    given = items(MANY_TIES["x"], MANY_TIES["time"], MANY_TIES["event"], threshold=0.3)
    assert c_index(given)[0] == pytest.approx(LIFELINES["c_index"], abs=1e-6)
    found = risk_groups(given)
    assert found.log_rank_p == pytest.approx(LIFELINES["log_rank_p"], abs=1e-6)
    assert [found.low.median_time, found.high.median_time] == LIFELINES["median"]
    rounded = np.round(np.array(MANY_TIES["x"]))
    expected = LIFELINES["c_index_of_tied_risks"]
    assert concordance(rounded, *given.target.T) == pytest.approx(expected, abs=1e-6)


def test_who_dies_first_has_the_highest_risk():
    assert c_index(items([3, 2, 1], [1, 2, 3], [1, 1, 1]))[0] == 1
    assert c_index(items([1, 2, 3], [1, 2, 3], [1, 1, 1]))[0] == 0
    assert c_index(items([5, 5, 5], [1, 2, 3], [1, 1, 1]))[0] == 0.5


def test_a_patient_who_is_drawn_twice_counts_twice_in_every_pair():
    twice = items([3.0, 1.0, 2.0], [1, 2, 3], [1, 1, 0])
    weights = np.array([[2.0, 1.0, 1.0]])
    found = survival_metrics("patient", twice, ["risk"], weights)["", "c_index"]
    copied = np.array([3.0, 3.0, 1.0, 2.0])
    assert found[0] == concordance(copied, np.array([1.0, 1, 2, 3]), np.array([1.0, 1, 1, 0]))


def test_risks_of_two_models_are_not_compared():
    # The risks of the second model are larger by a constant, which a Cox model does not determine.
    given = items([2, 1, 12, 11], [1, 3, 2, 4], [1, 1, 1, 1], fold=[0, 0, 1, 1])
    assert c_index(given)[0] == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (items([1, -1, 1], [1, 2, 3], [0, 0, 0]), "no event was observed"),
        (items([1, 2, 3], [1, 2, 3], [1, 1, 1]), "all have high risk"),
        (items([-1, 1, 1], [1, 2, 3], [0, 1, 1]), "while patients of both groups were at risk"),
        (items([-1, 1], [2, 2], [1, 1]), "while patients of both groups were at risk"),
        (items([1, 1, -1], [1, 1, 2], [1, 1, 1], patient=[0, 0, 1]), "not independent"),
    ],
    ids=["no event", "one group", "censored before the first event", "all at once", "two slides of a patient"],
)
def test_a_test_that_is_not_defined_says_why_and_has_no_p(given, reason):
    found = risk_groups(given)
    assert found.log_rank_p is None
    assert reason in found.undefined


def test_without_events_the_c_index_is_not_defined():
    assert np.isnan(c_index(items([1, 2, 3], [1, 2, 3], [0, 0, 0]))).all()
    assert np.isnan(concordance(np.array([1.0]), np.array([2.0]), np.array([1.0])))


# --- a task -------------------------------------------------------------------------------------------------------

GRID = Grid(size=64, mpp=MPP)
SHORT = {"steps": 40, "batch": 6, "validate_every": 20, "workers": 0, "learning_rate": 0.003}


def task(**train):
    told = {"kind": "survival", "level": "slide", "grid": GRID_NAME, "features": "a", "target": TARGET.dump()}
    told |= {"pooling": {"name": "additive", "embed": 16, "hidden": [16], "dropout": 0.0}, "bag": {"size": 16}}
    return Task.model_validate({**told, "train": {**SHORT, **train}})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def slides(root):
    """Ten slides, from the largest share of the class speckled to the smallest; a larger share is an earlier event."""
    entries = build_cohort(root, 10)
    shares = [float(annotated_areas(e, pq.read_table(e.table))["speckled"].mean()) for e in entries]
    order = np.argsort(shares)[::-1]
    labels = [{"months": str(3 + rank), "died": str(int(rank % 5 != 4))} for rank in range(10)]
    return [replace(entries[i], labels=labels[rank]) for rank, i in enumerate(order)]


@pytest.fixture(scope="module")
def files(slides, root):
    encoders = load_group({"a": Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}, GRID, models={}, threads=1)
    found = {entry.slide_id: root / f"{entry.slide_id}.arrow" for entry in slides}
    for entry in slides:
        extract(encoders, entry, found[entry.slide_id], batch=32, threads=1, code="c", made_of="m")
    return found


def trained(settings, slides, files, folder, **roles):
    given = {"train": [*slides[::3], *slides[1::3]], "val": slides[2::3], **roles}
    folders = {"output": folder / "model", "state": folder / "state"}
    return train_bags(settings, **given, files=files, column="a", **folders, seed=1, threads=1)


def test_a_task_learns_a_higher_risk_for_an_earlier_event_and_is_evaluated(slides, files, tmp_path):
    card = trained(task(), slides, files, tmp_path)
    assert (card.class_names, card.bag.usual) == (["risk"], [0.0])
    assert card.threshold == card.slide_thresholds["mean"]
    assert card.metrics["c_index"] >= 0.5
    predictor = load_bag_model(tmp_path / "model")
    tables = [predict_bag(predictor, slide, [], files) for slide in slides]
    risks = [table["score_risk"][0].as_py() for table in tables]
    assert np.mean(risks[:3]) > np.mean(risks[-3:])
    assert tables[0]["contribution_risk"].to_numpy().sum() == pytest.approx(risks[0], abs=1e-4)
    assert (tables[0]["target_time"][0].as_py(), tables[0]["target_event"][0].as_py()) == (3.0, 1.0)
    assert bag_table(tables[4], ["risk"])[1][0][3] == "censored at 7"
    predictions = [
        SlidePrediction(s.slide_id, s.patient_id, 0, t, card.threshold, card.slide_thresholds, s.labels)
        for s, t in zip(slides, tables, strict=True)
    ]
    beside = baselines(predictions, card.class_names, {0: card.bag.usual})
    settings = {"kind": card.kind, "target": TARGET, "aggregate": "mean", "seed": 1, "bootstraps": 50}
    record = evaluate(predictions, **settings, level="slide", baselines=beside).record
    measured = record.levels["patient"].metrics["all"]["c_index"]
    assert measured.value > 0.75
    assert measured.low <= measured.value <= measured.high
    assert record.baselines["usual_target"]["slide"].metrics["all"]["c_index"].value == 0.5
    assert record.baselines["mean_features"]["slide"].metrics["all"]["c_index"].value > 0.5
    groups = record.levels["patient"].risk_groups
    assert groups.low.count + groups.high.count == 10
    assert "median time" in risk_table(record, "months")
    assert risk_table(record, "months").count("log-rank p") == len(record.levels)


def test_a_task_learns_hazards_by_intervals_and_is_evaluated_at_a_time(slides, files, tmp_path):
    card = trained(task(loss="hazards", intervals=3, batch=2), slides, files, tmp_path)
    assert len(card.survival.times) == 3
    assert card.survival.cumulative_hazard == sorted(card.survival.cumulative_hazard)
    predictor = load_bag_model(tmp_path / "model")
    tables = [predict_bag(predictor, slide, [], files) for slide in slides]
    risks = [table["score_risk"][0].as_py() for table in tables]
    assert np.mean(risks[:3]) > np.mean(risks[-3:])
    predictions = [
        SlidePrediction(s.slide_id, s.patient_id, 0, t, card.threshold, card.slide_thresholds, s.labels)
        for s, t in zip(slides, tables, strict=True)
    ]
    beside = baselines(predictions, card.class_names, {0: card.bag.usual})
    settings = {"kind": card.kind, "target": TARGET, "aggregate": "mean", "seed": 1, "bootstraps": 50}
    found = evaluate(
        predictions, **settings, level="slide", baselines=beside, horizon=Horizon.of(None, {0: card.survival})
    )
    measured = found.record.levels["slide"]
    assert measured.at_horizon.time == card.survival.median_event_time
    assert measured.metrics["all"]["auc_at_horizon"].value > 0.75
    assert abs(measured.metrics["all"]["calibration_at_horizon"].value) < 0.5
    assert found.record.baselines["usual_target"]["slide"].metrics["all"]["auc_at_horizon"].value == 0.5
    drawn = draw_figures(found, kind=card.kind, out=tmp_path / "figures")
    assert "survival_calibration" in {path.stem for path in drawn}
    assert "AUC and calibration are those at time" in risk_table(found.record, "months")


def test_slides_of_unknown_survival_are_predicted_and_not_trained_on(slides, files, tmp_path):
    blank = replace(slides[0], labels={})
    train = [blank, slides[1], slides[3], slides[4]]
    trained(task(steps=2, validate_every=2, audit=True), slides, files, tmp_path, train=train)
    drawn = pq.read_table(tmp_path / "model" / "training" / "drawn.parquet")
    assert blank.slide_id not in set(drawn["slide_id"].to_pylist())
    table = predict_bag(load_bag_model(tmp_path / "model"), blank, [], files)
    assert table["target_time"].null_count == table["predicted"].null_count == table.num_rows > 0
    assert bag_table(table, ["risk"])[1][0][3] is None


@pytest.mark.parametrize("role", ["train", "val"])
def test_a_role_in_which_no_risk_can_be_compared_is_refused(slides, files, tmp_path, role):
    censored = [replace(slide, labels={**slide.labels, "died": "0"}) for slide in slides[:4]]
    with pytest.raises(
        HistomakeError, match=f"no {'training' if role == 'train' else 'validation'} slide has the event"
    ):
        trained(task(steps=2), slides, files, tmp_path, **{role: censored})


def test_a_model_is_the_same_after_it_is_stopped(slides, files, tmp_path, monkeypatch):
    settings = task(steps=12, validate_every=4)
    trained(settings, slides, files, tmp_path / "whole")
    made, stops = objective.BagBatches.prepare, {3, 8}

    def interrupted(self, number, *room):
        if number in stops:
            stops.discard(number)
            os.kill(os.getpid(), signal.SIGTERM)
        return made(self, number, *room)

    monkeypatch.setattr(objective.BagBatches, "prepare", interrupted)
    for _ in range(2):
        with pytest.raises(PreemptedError):
            trained(settings, slides, files, tmp_path / "stopped")
    trained(settings, slides, files, tmp_path / "stopped")
    assert not stops
    whole, stopped = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()
