"""Figures of an evaluation: each kind of task has its own, and their points are written as CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from histomake.config import Target
from histomake.evaluate import plots
from histomake.evaluate.curves import MAX_DOTS
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.evaluate.plots import draw_figures, figure_points
from histomake.evaluate.result import Evaluation
from matplotlib.figure import Figure
from PIL import Image

NAMES = ["benign", "tumour"]


def classified() -> list[SlidePrediction]:
    rng = np.random.default_rng(0)
    made = []
    for slide in range(4):
        label = rng.integers(0, 2, 100)
        score = np.clip(rng.normal(0.3 + 0.4 * label, 0.2), 0, 1)
        columns = {"score_benign": 1 - score, "score_tumour": score, "tissue": np.ones(100)}
        labels = pa.array(np.array(NAMES)[label]).dictionary_encode()
        made.append(SlidePrediction(f"s{slide}", f"p{slide}", 0, pa.table({**columns, "label": labels})))
    return made


def regressed() -> list[SlidePrediction]:
    values = np.linspace(0, 1, 50)
    table = pa.table({"score_grade": values, "target_grade": values + 0.1, "tissue": np.ones(50)})
    return [SlidePrediction("s0", "p0", 0, table, labels={"grade": "1"})]


def segmented() -> list[SlidePrediction]:
    columns = {f"{key}_{name}": [10] for name in NAMES for key in ("tp", "fp", "fn")}
    return [SlidePrediction(f"s{i}", f"p{i}", 0, pa.table(columns)) for i in range(3)]


def survived() -> list[SlidePrediction]:
    made = []
    for i, (time, event) in enumerate([(9, 1), (8, 0), (7, 1), (5, 1), (4, 0), (3, 1), (2, 1), (1, 1)]):
        columns = {"score_risk": [i - 4.0], "target_time": [time], "target_event": [event], "tissue": [1.0]}
        labels = {"months": str(time), "died": str(event)}
        made.append(SlidePrediction(f"s{i}", f"p{i}", 0, pa.table(columns), threshold=-0.5, labels=labels))
    return made


CASES = {
    "survival": (survived, Target(source="sheet", time="months", event="died"), {"kaplan_meier"}),
    "classification": (
        classified,
        Target(classes=NAMES),
        {"roc", "precision_recall", "reliability", "decision_curve", "confusion"},
    ),
    "regression": (regressed, Target(source="sheet", column="grade"), {"scatter"}),
    "segmentation": (segmented, Target(source="mask", classes=NAMES), {"overlap"}),
}


@pytest.mark.parametrize("kind", CASES)
def test_every_kind_of_task_gets_its_figures(kind: str, tmp_path: Path) -> None:
    make, target, expected = CASES[kind]
    evaluation = evaluate(make(), kind=kind, target=target, aggregate="mean", seed=0, bootstraps=20)
    paths = draw_figures(evaluation, kind=kind, out=tmp_path)
    assert {path.stem for path in paths} == expected
    for path in paths:
        assert np.asarray(Image.open(path).convert("L")).std() > 5


def test_curves_carry_the_measured_area_and_its_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Figure] = {}
    original = Figure.savefig

    def keep(self: Figure, path: Path, **options: object) -> None:
        drawn[Path(path).name.strip(".").partition(".")[0]] = self
        original(self, path, **options)

    monkeypatch.setattr(plots.Figure, "savefig", keep)
    target = Target(classes=NAMES)
    evaluation = evaluate(classified(), kind="classification", target=target, aggregate="mean", seed=0, bootstraps=20)
    draw_figures(evaluation, kind="classification", out=tmp_path)
    row = evaluation.record.levels["patch"].metrics["tumour"]["auroc"]
    (label,) = drawn["roc"].axes[0].get_legend_handles_labels()[1]
    assert label == f"tumour {row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"


def measured(kind: str, predictions: list[SlidePrediction] | None = None) -> tuple[Evaluation, dict]:
    make, target, _ = CASES[kind]
    found = evaluate(predictions or make(), kind=kind, target=target, aggregate="mean", seed=0, bootstraps=20)
    return found, {"kind": kind, "target": target}


@pytest.mark.parametrize("kind", CASES)
def test_what_is_drawn_lies_beside_the_figure_as_csv(kind: str, tmp_path: Path) -> None:
    evaluation, task = measured(kind)
    for path in draw_figures(evaluation, kind=task["kind"], out=tmp_path):
        points = pd.read_csv(path.with_suffix(".csv"))
        drawn = figure_points(evaluation, kind=task["kind"])[path.stem]
        pd.testing.assert_frame_equal(points, drawn, check_dtype=False)
        assert set(points.level) & {"patch", "pixel"}


def test_the_area_under_the_exported_roc_points_is_the_reported_one() -> None:
    evaluation, task = measured("classification")
    points = figure_points(evaluation, kind=task["kind"])["roc"]
    curve = points[points.level == "patch"]
    area = np.trapezoid(curve.sensitivity, curve.false_positive_rate)
    assert area == pytest.approx(evaluation.record.levels["patch"].metrics["tumour"]["auroc"].value)


def test_exported_calibration_gives_the_reported_error_and_confusion_counts_every_patch() -> None:
    evaluation, task = measured("classification")
    points = figure_points(evaluation, kind=task["kind"])
    bins = points["reliability"][points["reliability"].level == "patch"]
    error = (bins["count"] * (bins.accuracy - bins.confidence).abs()).sum() / bins["count"].sum()
    assert error == pytest.approx(evaluation.record.levels["patch"].metrics["all"]["ece"].value)
    cells = points["confusion"][points["confusion"].level == "patch"]
    assert cells["count"].sum() == 400
    assert cells.groupby("true").share.sum().tolist() == pytest.approx([1, 1])


def _points_of(predictions: list[SlidePrediction]) -> dict[str, pd.DataFrame]:
    evaluation, task = measured("classification", predictions)
    return figure_points(evaluation, kind=task["kind"])


def test_a_curve_of_one_class_only_has_no_points_but_its_columns() -> None:
    alike = [
        SlidePrediction(p.slide_id, p.patient_id, 0, p.table.set_column(3, "label", pa.array(["benign"] * 100)))
        for p in classified()
    ]
    points = _points_of(alike)["roc"]
    assert points.empty
    assert list(points.columns) == ["class", "threshold", "false_positive_rate", "sensitivity", "level"]


def test_predictions_that_are_all_the_same_are_drawn_and_called_no_better_than_chance(tmp_path: Path) -> None:
    same = pa.array(np.full(100, 0.5))
    alike = [
        SlidePrediction(
            p.slide_id, p.patient_id, 0, p.table.set_column(0, "score_benign", same).set_column(1, "score_tumour", same)
        )
        for p in classified()
    ]
    evaluation, task = measured("classification", alike)
    assert len(draw_figures(evaluation, kind=task["kind"], out=tmp_path)) == 5
    curve = figure_points(evaluation, kind=task["kind"])["roc"]
    curve = curve[curve.level == "patch"]
    assert np.trapezoid(curve.sensitivity, curve.false_positive_rate) == pytest.approx(0.5)


def test_a_scatter_plot_keeps_to_its_limit_of_dots() -> None:
    values = np.linspace(0, 1, 2 * MAX_DOTS - 1)
    table = pa.table({"score_grade": values, "target_grade": values, "tissue": np.ones(len(values))})
    many = [SlidePrediction("s0", "p0", 0, table, labels={"grade": "1"})]
    evaluation, task = measured("regression", many)
    points = figure_points(evaluation, kind=task["kind"])["scatter"]
    assert (points.level == "patch").sum() == MAX_DOTS
