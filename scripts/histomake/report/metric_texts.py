"""Names of levels and metrics in reports, and the text of a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from histomake.base.records.metrics import LevelMetrics, MetricValue

LEVELS = {"pixel": "Pixels", "patch": "Patches", "slide": "Slides", "patient": "Patients"}
"""Titles of levels, in the order of tables and figures."""

SHOWN_METRICS = (
    "c_index",
    "auc_at_horizon",
    "calibration_at_horizon",
    "dice",
    "iou",
    "r2",
    "mae",
    "auroc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "auprc",
    "f1",
    "mcc",
    "ece",
    "calibration_in_the_large",
    "calibration_slope",
)
"""Metrics in the order of tables; others follow by name."""

METRIC_NAMES = {
    "c_index": "C-index",
    "auc_at_horizon": "AUC at one time",
    "calibration_at_horizon": "predicted minus observed share without the event at one time",
    "dice": "Dice",
    "iou": "IoU",
    "r2": "R²",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "mcc": "Matthews correlation",
    "ece": "calibration error (ECE)",
    "calibration_in_the_large": "calibration in the large (0: calibrated)",
    "calibration_slope": "calibration slope (1: calibrated)",
}


def levels_in_order[T](levels: Mapping[str, T]) -> dict[str, T]:
    """Metrics by level, in the order of tables, which the keys of a file do not have."""
    return {level: levels[level] for level in LEVELS if level in levels}


def highest_level(levels: Mapping[str, LevelMetrics]) -> str:
    """The highest level of which there are metrics: patients, unless they are not evaluated."""
    ordered = levels_in_order(levels)
    return [level for level, found in ordered.items() if found.metrics][-1]


def in_order(names: Iterable[str]) -> list[str]:
    """Names of metrics in the order of tables, each once."""
    rank = {name: i for i, name in enumerate(SHOWN_METRICS)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))


def metric_name(name: str) -> str:
    """The name of a metric in a table."""
    return METRIC_NAMES.get(name, name.replace("_", " "))


def with_interval(found: MetricValue) -> str | None:
    """A value with its interval; None if it is not defined."""
    if found.value is None:
        return None
    if found.low is None:
        return f"{found.value:.3f}"
    # A dash beside a minus sign is easily misread.
    between = "–" if found.low >= 0 else " to "
    return f"{found.value:.3f} ({found.low:.3f}{between}{found.high:.3f})"
