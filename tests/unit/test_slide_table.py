"""Table of the test slides: rates of the patches or pixels of each, with errors by drawing patches."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from histomake.base.kinds import Kind
from histomake.base.records.metrics import MetricsRecord
from histomake.config import Target
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.evaluate.result import Evaluation
from histomake.evaluate.slide_table import write_slide_table
from histomake.report.slide_rates_section import slide_rates_section
from sklearn.metrics import roc_auc_score

NAMES = ["benign", "tumour"]


def patches(slide: int, scores, labels, *, names=NAMES, patient: int | None = None) -> SlidePrediction:
    """A slide whose patches have scores (n, classes) or, of two classes, of the second one; -1 is no label."""
    scores = np.asarray(scores, float)
    scores = np.stack([1 - scores, scores], 1) if scores.ndim == 1 else scores
    columns = {f"score_{name}": scores[:, i] for i, name in enumerate(names)}
    label = pa.array([names[i] if i >= 0 else None for i in labels], pa.string()).dictionary_encode()
    owner = f"p{slide if patient is None else patient}"
    return SlidePrediction(f"s{slide}", owner, 0, pa.table({**columns, "tissue": np.ones(len(scores)), "label": label}))


def run(predictions, *, kind=Kind.CLASSIFICATION, target=None, bootstraps: int = 1000, **told) -> Evaluation:
    target = target or Target(classes=NAMES)
    return evaluate(predictions, kind=kind, target=target, aggregate="mean", seed=3, bootstraps=bootstraps, **told)


def test_rates_of_a_slide_are_those_counted_by_hand():
    # Of the four tumour patches three are called, of the five benign ones four are not; one patch has no label.
    score = [0.9, 0.8, 0.7, 0.2, 0.1, 0.1, 0.3, 0.4, 0.6, 0.99]
    label = [1, 1, 1, 1, 0, 0, 0, 0, 0, -1]
    (row,) = run([patches(0, score, label)]).slides.to_pylist()
    assert {k: row[k] for k in ("slide_id", "patient_id", "fold", "class", "items", "positives")} == {
        **{"slide_id": "s0", "patient_id": "p0", "fold": 0, "class": "tumour"},
        **{"items": 9, "positives": 4},
    }
    assert row["accuracy"] == pytest.approx(7 / 9)
    assert (row["sensitivity"], row["specificity"]) == pytest.approx((3 / 4, 4 / 5))
    # Of 20 pairs, 0.2 loses to 0.3, 0.4 and 0.6.
    assert row["auroc"] == pytest.approx(17 / 20)


def noisy(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, count)
    return np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1), label


def test_errors_are_those_of_drawing_patches():
    score, label = noisy(300, 0)
    (row,) = run([patches(0, score, label)], bootstraps=4000).slides.to_pylist()
    for rate, count in (("accuracy", 300), ("sensitivity", label.sum()), ("specificity", 300 - label.sum())):
        assert row[f"{rate}_se"] == pytest.approx(np.sqrt(row[rate] * (1 - row[rate]) / count), rel=0.06), rate
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, 300, 300) for _ in range(300)]
    areas = [roc_auc_score(label[chosen], score[chosen]) for chosen in drawn]
    assert row["auroc_se"] == pytest.approx(np.std(areas), rel=0.15)
    assert row["auroc"] == pytest.approx(roc_auc_score(label, score))


def test_a_slide_has_the_same_row_whichever_others_are_tested():
    one, other = patches(0, *noisy(50, 1)), patches(1, *noisy(50, 2))
    both = run([one, other]).slides.to_pylist()
    assert run([one]).slides.to_pylist() == both[:1]
    assert run([other]).slides.to_pylist() == both[1:]


def test_a_slide_of_one_class_has_no_area_and_no_specificity():
    (row,) = run([patches(0, [0.9, 0.2, 0.7], [1, 1, 1])]).slides.to_pylist()
    assert (row["auroc"], row["auroc_se"], row["specificity"]) == (None, None, None)
    assert row["sensitivity"] == pytest.approx(2 / 3)


def test_a_slide_without_any_label_has_no_row():
    found = run([patches(0, [0.9, 0.2], [1, 0]), patches(1, [0.9, 0.2], [-1, -1])])
    assert [row["slide_id"] for row in found.slides.to_pylist()] == ["s0"]


def test_of_three_classes_each_is_compared_with_the_rest_and_the_accuracy_is_that_over_all():
    names = ["a", "b", "c"]
    found = run([patches(0, np.eye(3)[[0, 1, 2, 2]], [0, 1, 2, 0], names=names)], target=Target(classes=names))
    rows = {row["class"]: row for row in found.slides.to_pylist()}
    assert list(rows) == ["a", "b", "c", "all"]
    assert (rows["a"]["sensitivity"], rows["a"]["specificity"], rows["a"]["accuracy"]) == (0.5, 1.0, 0.75)
    assert (rows["all"]["accuracy"], rows["all"]["sensitivity"], rows["all"]["positives"]) == (0.75, None, None)
    assert rows["all"]["accuracy_se"] == pytest.approx(np.sqrt(0.75 * 0.25 / 4), rel=0.1)


def test_means_are_over_slides_and_their_intervals_over_patients():
    # Accuracies 1, 1 and 0.5; the first two slides are of one patient.
    predictions = [
        patches(0, [0.9, 0.1], [1, 0], patient=0),
        patches(1, [0.9, 0.1], [1, 0], patient=0),
        patches(2, [0.9, 0.9], [1, 0], patient=1),
    ]
    found = run(predictions).record.slide_means["tumour"]
    assert found["accuracy"].value == pytest.approx(2.5 / 3)
    assert (found["accuracy"].low, found["accuracy"].high) == (0.5, 1.0)


def segmented(slide: int, counts, names=NAMES) -> SlidePrediction:
    """A slide whose patches have tp, fp, fn of each class, int (n, classes, 3)."""
    counts = np.array(counts)
    columns = {f"score_{name}": np.full(len(counts), 0.5) for name in names}
    for i, name in enumerate(names):
        columns |= {f"{key}_{name}": counts[:, i, k] for k, key in enumerate(("tp", "fp", "fn"))}
    return SlidePrediction(f"s{slide}", f"p{slide}", 0, pa.table(columns))


MASK = {"kind": Kind.SEGMENTATION, "target": Target(source="mask", classes=NAMES)}


def of_confusion(confusion) -> list[list[int]]:
    """tp, fp, fn by class of a confusion matrix (truth, predicted)."""
    table = np.array(confusion)
    hit = np.diag(table)
    return np.stack([hit, table.sum(0) - hit, table.sum(1) - hit], 1).tolist()


def test_pixel_rates_of_a_segmented_slide_are_those_of_its_confusion_matrix():
    # Together: 50 of 60 benign and 30 of 40 tumour pixels are right.
    parts = [[[30, 10], [0, 10]], [[20, 0], [10, 20]], [[0, 0], [0, 0]]]
    found = run([segmented(0, [of_confusion(part) for part in parts])], **MASK)
    (row,) = found.slides.to_pylist()
    assert (row["class"], row["items"], row["positives"]) == ("tumour", 100, 40)
    assert (row["sensitivity"], row["specificity"], row["accuracy"]) == pytest.approx((0.75, 50 / 60, 0.8))
    assert row["auroc"] is None
    # Each sample has two of the two patches with known pixels: accuracies 0.8, 0.8 and 0.8.
    assert row["accuracy_se"] == pytest.approx(0, abs=1e-9)
    assert row["sensitivity_se"] > 0.05
    whole = found.record.levels["pixel"].metrics
    assert whole["all"]["accuracy"].value == pytest.approx(0.8)
    assert whole["tumour"]["sensitivity"].value == pytest.approx(0.75)
    assert whole["benign"]["sensitivity"].value == pytest.approx(50 / 60)
    assert whole["all"]["sensitivity"].value == pytest.approx((0.75 + 50 / 60) / 2)


def test_slides_of_a_segmentation_have_the_mean_of_their_rates_and_pixels_the_rates_of_all():
    first, second = [[[90, 0], [0, 10]], [[0, 0], [5, 5]]]
    predictions = [segmented(0, [of_confusion(first)]), segmented(1, [of_confusion(second)])]
    levels = run(predictions, **MASK).record.levels
    assert levels["slide"].metrics["tumour"]["sensitivity"].value == pytest.approx((1.0 + 0.5) / 2)
    assert levels["pixel"].metrics["tumour"]["sensitivity"].value == pytest.approx(15 / 20)
    # The second slide has no benign pixel, so that its specificity is not defined.
    assert levels["slide"].metrics["tumour"]["specificity"].value == pytest.approx(1.0)


def test_labels_are_judged_one_by_one_and_numbers_have_no_table():
    label = pa.array(["a+b", "b", ""]).dictionary_encode()
    columns = {"score_a": [0.9, 0.8, 0.1], "score_b": [0.9, 0.9, 0.2], "tissue": [1.0] * 3, "label": label}
    several = run(
        [SlidePrediction("s", "p", 0, pa.table(columns))], kind=Kind.MULTI_LABEL, target=Target(classes=["a", "b"])
    )
    rows = {row["class"]: row for row in several.slides.to_pylist()}
    assert (rows["a"]["specificity"], rows["b"]["accuracy"]) == (0.5, 1.0)
    numbers = {"score_age": [1.0, 2.0], "target_age": [1.0, 3.0], "tissue": [1.0, 1.0]}
    target = Target(source="sheet", column="age")
    told = {"kind": Kind.REGRESSION, "target": target}
    found = run([SlidePrediction("s", "p", 0, pa.table(numbers), labels={"age": "2"})], **told)
    assert (found.slides.num_rows, found.record.slide_means) == (0, {})


def test_the_patches_of_a_bag_have_no_rates():
    target = Target(source="sheet", column="grade", classes=NAMES)
    bags = [
        dataclasses.replace(patches(i, [0.9 - 0.8 * i] * 2, [1 - i] * 2), labels={"grade": NAMES[1 - i]})
        for i in (0, 1)
    ]
    found = run(bags, level="slide", target=target)
    assert found.record.levels["slide"].count == 2
    assert found.slides.num_rows == 0


def test_the_file_and_the_report_have_every_slide(tmp_path):
    found = run([patches(0, *noisy(40, 1)), patches(1, [0.9, 0.8], [1, 1])])
    write_slide_table(found.slides, tmp_path / "metrics" / "t.slides.csv")
    rows = list(csv.DictReader((tmp_path / "metrics" / "t.slides.csv").open()))
    assert [float(row["accuracy"]) for row in rows] == found.slides["accuracy"].to_pylist()
    assert rows[1]["auroc"] == ""
    assert MetricsRecord.decode(found.record.encode("m"), "m") == found.record
    shown = "".join(slide_rates_section(found.record, tmp_path / "metrics" / "t.slides.csv", tmp_path / "report"))
    assert f"{float(rows[0]['auroc']):.3f} ± {float(rows[0]['auroc_se']):.3f}" in shown
    assert 'href="../metrics/t.slides.csv"' in shown
    assert "mean over slides" in shown
