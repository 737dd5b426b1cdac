"""Report sections of the statistics beside a task's metrics: operating points and subgroups."""

from __future__ import annotations

from collections.abc import Iterator

from histomake.base.records.metrics import MetricsRecord, OperatingPoint
from histomake.report import page
from histomake.report.metric_texts import LEVELS, levels_in_order, with_interval
from histomake.report.page import Html
from histomake.report.subgroups_section import subgroups_section

FEW = 20
"""Validation items of a class below which a threshold that is chosen on them is called unreliable."""

RATES = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"}


def statistics_sections(name: str, metrics: MetricsRecord) -> list[Html]:
    """The sections of the statistics that a task has."""
    found = []
    if any(level.operating_points for level in metrics.levels.values()):
        found.append(page.section("Operating points", *_operating_points(metrics), level=3, anchor=f"{name}-points"))
    if any(level.subgroups for level in metrics.levels.values()):
        found.append(page.section("Subgroups", *subgroups_section(metrics), level=3, anchor=f"{name}-subgroups"))
    return found


def _operating_points(metrics: MetricsRecord) -> list[Html]:
    points = list(_points(metrics))
    shares = list(dict.fromkeys(at.prevalence for *_, point in points for at in point.at_prevalence))
    text = (
        "Thresholds are chosen on the validation set and applied to the test set; the model's own threshold has the "
        "largest sensitivity + specificity there. Intervals take thresholds as fixed. PPV and NPV: probability that a "
        "call, or its absence, is right, with the prevalence of the test set; below, with other prevalences."
    )
    header = ["level", "class", "chosen for", "threshold", "on validation", *RATES.values()]
    parts = [page.tag("p", text), page.table(header, [_row(*point) for point in points])]
    if few := [point for *_, point in points if min(point.positives or FEW, point.negatives or FEW) < FEW]:
        least = min(min(point.positives or 0, point.negatives or 0) for point in few)
        note = f"Some thresholds are chosen on few validation items of a class (fewest: {least}): they are unreliable."
        parts.append(page.tag("p", note, class_="warn"))
    if shares:
        header = ["level", "class", "chosen for", *(f"{v} at {s:g}" for s in shares for v in ("PPV", "NPV"))]
        parts.append(page.table(header, [_predictive_row(*point) for point in points if point[-1].at_prevalence]))
    return parts


def _points(metrics: MetricsRecord) -> Iterator[tuple[str, str, OperatingPoint]]:
    for level, found in levels_in_order(metrics.levels).items():
        for name, points in found.operating_points.items():
            yield from ((LEVELS[level], name, point) for point in points)


def _aim(point: OperatingPoint) -> str:
    return "model's own" if point.wanted is None else f"{point.aim} {point.wanted:g}"


def _row(level: str, name: str, point: OperatingPoint) -> list[object]:
    if point.refused:
        return [level, name, _aim(point), point.refused, None, *(None for _ in RATES)]
    thresholds = ", ".join(f"{value:.3g}" for value in point.thresholds.values()) or None
    reached = None
    if point.reached is not None:
        reached = f"{point.reached:.3f} of {point.positives:,} positive, {point.negatives:,} negative"
    return [level, name, _aim(point), thresholds, reached, *(with_interval(point.metrics[rate]) for rate in RATES)]


def _predictive_row(level: str, name: str, point: OperatingPoint) -> list[object]:
    values = (value for at in point.at_prevalence for value in (at.ppv, at.npv))
    return [level, name, _aim(point), *map(with_interval, values)]
