"""Report section of the metrics of a task, and its headline figure."""

from __future__ import annotations

from collections.abc import Mapping

from histomake.base.records.metrics import LevelMetrics, MetricsRecord, MetricValue
from histomake.report import page
from histomake.report.metric_texts import LEVELS, in_order, levels_in_order, metric_name, with_interval
from histomake.report.page import Html

HEADLINES = (
    ("patch", "auroc", "patch AUROC"),
    ("patch", "r2", "patch R²"),
    ("pixel", "dice", "pixel Dice"),
    ("patient", "auroc", "patient AUROC"),
    ("patient", "r2", "patient R²"),
    ("patient", "c_index", "patient C-index"),
)
"""Level, metric and title; the first one that a task has is its headline figure."""

FEW_PATIENTS = 10
"""Test patients below which intervals are called unreliable."""


def headline(levels: Mapping[str, LevelMetrics]) -> list[tuple[str, str]]:
    """Title and value of a task's most important metric; empty without one. ``levels``: those of its metrics."""
    for level, metric, title in HEADLINES:
        found = levels[level].metrics.get("all", {}).get(metric) if level in levels else None
        if found and found.value is not None:
            interval = f" ({found.low:.2f}–{found.high:.2f})" if found.low is not None else ""
            return [(f"{title}{interval}", f"{found.value:.3f}")]
    return []


def metrics_table(metrics: MetricsRecord, *, named: bool = True) -> Html:
    """Table of metrics with their intervals, one column per level; metrics per class are collapsed.

    ``named``: whether patients that are not evaluated may be named.
    """
    low, high = metrics.interval_percent
    note = f"In brackets: {low:g}–{high:g} percentiles of {metrics.bootstraps:,} bootstrap samples of patients."
    if any(one.low is not None and one.low == one.high for one in _overall(metrics)):
        note += (
            " An interval without width is no certainty: all samples have the same value, as with perfect scores and "
            "few patients."
        )
    parts = [_metrics_of(metrics, whole=True), page.tag("p", note)]
    if metrics.patients < FEW_PATIENTS:
        text = f"Only {metrics.patients} test patients: the intervals are unreliable."
        parts.insert(0, page.tag("p", text, class_="warn"))
    refused = metrics.levels["patient"].refused if "patient" in metrics.levels else None
    if refused:
        patients = f" They are: {', '.join(metrics.patients_of_several_classes)}." if named else ""
        parts.insert(0, page.tag("p", f"Patients are not evaluated: {refused}.{patients}", class_="warn"))
    if any(set(found.metrics) - {"all"} for found in metrics.levels.values()):
        parts.append(page.folded("by class", _metrics_of(metrics, whole=False)))
    return page.join(parts)


def _overall(metrics: MetricsRecord) -> list[MetricValue]:
    """Metrics over all classes, of every level."""
    return [one for level in metrics.levels.values() for one in level.metrics.get("all", {}).values()]


def _metrics_of(metrics: MetricsRecord, *, whole: bool) -> Html:
    cells: dict[str, dict[str, str]] = {}
    levels = levels_in_order(metrics.levels)
    for level, found in levels.items():
        groups = {name: values for name, values in found.metrics.items() if (name == "all") == whole}
        for name, shown in shown_metrics(groups):
            cells.setdefault(name, {})[level] = shown
    rows = [[name, *(row.get(level) for level in levels)] for name, row in cells.items()]
    return page.table(["metric", *(f"{LEVELS[level]} ({r.count:,})" for level, r in levels.items())], rows)


def shown_metrics(groups: Mapping[str, Mapping[str, MetricValue]]) -> list[tuple[str, str]]:
    """Names and texts of the defined metrics, overall or per class; the most common ones first."""
    shown = []
    for group, values in groups.items():
        for name in in_order(values):
            found = values[name]
            if found.value is not None:
                title = metric_name(name)
                shown.append((title if group == "all" else f"{group}: {title}", with_interval(found) or ""))
    return shown
