"""Metrics: equal to a second implementation, with intervals by patient."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from histomake.base.errors import HistomakeError
from histomake.base.patient_bootstrap import patient_weights
from histomake.config import Target
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from sklearn import metrics as reference

NAMES = ["benign", "tumour"]


def prediction(
    slide: int, patient: int, score: np.ndarray, label: np.ndarray, names: list[str] = NAMES, threshold: float = 0.5
) -> SlidePrediction:
    columns = {f"score_{name}": score[:, i].astype(np.float32) for i, name in enumerate(names)}
    labels = pa.array([names[i] if i >= 0 else None for i in label]).dictionary_encode()
    return SlidePrediction(
        slide_id=f"s{slide}",
        patient_id=f"p{patient}",
        fold=0,
        table=pa.table({**columns, "tissue": np.ones(len(label), np.float32), "label": labels}),
        threshold=threshold,
        slide_thresholds={"mean": threshold},
    )


def cohort(seed: int, slides: int = 8, patches: int = 200, classes: int = 2) -> list[SlidePrediction]:
    """Slides of two per patient with noisy scores; the first class prevails in even patients."""
    rng = np.random.default_rng(seed)
    names = NAMES if classes == 2 else [f"c{i}" for i in range(classes)]
    made = []
    for slide in range(slides):
        weight = np.ones(classes)
        weight[(slide // 2) % classes] = 4
        label = rng.choice(classes, patches, p=weight / weight.sum())
        logits = rng.normal(0, 1, (patches, classes)) + 1.5 * np.eye(classes)[label]
        score = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        label[rng.random(patches) < 0.1] = -1
        made.append(prediction(slide, slide // 2, score, label, names))
    return made


def run(predictions: list[SlidePrediction], names: list[str] = NAMES, **options: int):
    return evaluate(
        predictions, kind="classification", target=Target(classes=names), aggregate="mean", seed=0, **options
    )


def metric(evaluation, level: str, name: str, class_name: str = "all") -> float:
    return evaluation.record.levels[level].metrics[class_name][name].value


@pytest.mark.parametrize("seed", range(3))
def test_binary_metrics_equal_sklearn(seed: int) -> None:
    evaluation = run(cohort(seed), bootstraps=10)
    items = evaluation.items["patch"]
    score, predicted = items.score[:, 1], items.predicted
    expected = {
        "auroc": reference.roc_auc_score(items.target, score),
        "auprc": reference.average_precision_score(items.target, score),
        "accuracy": reference.accuracy_score(items.target, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(items.target, predicted),
        "sensitivity": reference.recall_score(items.target, predicted),
        "specificity": reference.recall_score(items.target, predicted, pos_label=0),
        "f1": reference.f1_score(items.target, predicted),
        "mcc": reference.matthews_corrcoef(items.target, predicted),
    }
    for name, value in expected.items():
        assert metric(evaluation, "patch", name) == pytest.approx(value, abs=1e-9), name


def test_multiclass_metrics_equal_sklearn() -> None:
    names = ["c0", "c1", "c2"]
    evaluation = run(cohort(1, classes=3), names, bootstraps=10)
    items = evaluation.items["patch"]
    auroc = reference.roc_auc_score(items.target, items.score, multi_class="ovr", average="macro")
    assert metric(evaluation, "patch", "auroc") == pytest.approx(auroc, abs=1e-6)
    assert metric(evaluation, "patch", "mcc") == pytest.approx(
        reference.matthews_corrcoef(items.target, items.predicted)
    )
    f1 = reference.f1_score(items.target, items.predicted, average="macro")
    assert metric(evaluation, "patch", "f1") == pytest.approx(f1)


def test_binned_areas_under_curves_are_exact_to_a_thousandth() -> None:
    evaluation = run(cohort(2, patches=5000), bootstraps=10)
    items = evaluation.items["patch"]
    assert metric(evaluation, "patch", "auroc") == pytest.approx(
        reference.roc_auc_score(items.target, items.score[:, 1]), abs=1e-3
    )
    assert metric(evaluation, "patch", "auprc") == pytest.approx(
        reference.average_precision_score(items.target, items.score[:, 1]), abs=1e-3
    )


def test_calibration_error_of_confident_truth_is_zero_and_of_confident_error_is_one() -> None:
    label = np.array([0, 1, 0, 1])
    right = run([prediction(0, 0, np.eye(2)[label], label)], bootstraps=2)
    wrong = run([prediction(0, 0, np.eye(2)[1 - label], label)], bootstraps=2)
    assert metric(right, "patch", "ece") == pytest.approx(0)
    assert metric(wrong, "patch", "ece") == pytest.approx(1)


def test_threshold_of_the_model_decides() -> None:
    score = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6]])
    label = np.array([0, 1, 1])
    assert metric(run([prediction(0, 0, score, label)], bootstraps=2), "patch", "sensitivity") == pytest.approx(0.5)
    lower = run([prediction(0, 0, score, label, threshold=0.2)], bootstraps=2)
    assert metric(lower, "patch", "sensitivity") == pytest.approx(1.0)


def test_bootstrap_draws_whole_patients() -> None:
    weights = patient_weights(np.array([0, 0, 2]), 4, seed=1, bootstraps=500)
    assert weights[0].tolist() == [1, 0, 1, 0]
    assert (weights[1:].sum(1) == 2).all()
    assert (weights[:, [1, 3]] == 0).all()


def test_interval_is_as_wide_as_patients_differ_not_as_patches_are_many() -> None:
    rng = np.random.default_rng(0)
    predictions = []
    for patient in range(10):
        right = rng.random(2000) < (0.95 if patient % 2 else 0.55)
        label = rng.integers(0, 2, 2000)
        predictions.append(prediction(patient, patient, np.eye(2)[np.where(right, label, 1 - label)], label))
    row = run(predictions).record.levels["patch"].metrics["all"]["accuracy"]
    assert row.se == pytest.approx(0.2 / np.sqrt(10), rel=0.15)
    assert row.low < row.value < row.high


def test_evaluation_is_repeatable() -> None:
    assert run(cohort(4), bootstraps=50).rows == run(cohort(4), bootstraps=50).rows


def test_metric_of_a_single_class_is_null() -> None:
    evaluation = run([prediction(0, 0, np.full((5, 2), 0.5), np.zeros(5, int))], bootstraps=5)
    assert metric(evaluation, "patch", "auroc") is None
    assert metric(evaluation, "patch", "accuracy") is not None


def test_slide_label_is_that_of_most_annotated_patches() -> None:
    label = np.array([1, 1, 0, -1, -1])
    items = run([prediction(0, 0, np.full((5, 2), 0.5), label)], bootstraps=2).items["slide"]
    assert items.target.tolist() == [1]


def test_patients_pool_their_slides() -> None:
    evaluation = run(cohort(0, slides=8), bootstraps=5)
    assert len(evaluation.items["slide"]) == 8
    assert len(evaluation.items["patient"]) == 4


def test_predictions_without_any_label_are_an_error() -> None:
    with pytest.raises(HistomakeError, match="no test patch"):
        run([prediction(0, 0, np.full((3, 2), 0.5), np.full(3, -1))])


def test_quarantined_slides_are_skipped() -> None:
    empty = prediction(9, 9, np.zeros((0, 2)), np.zeros(0, int))
    assert run([*cohort(0), empty], bootstraps=3).record.slides == 9
