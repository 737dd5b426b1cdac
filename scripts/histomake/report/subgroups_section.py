"""Report section of the metrics of subgroups of the test set."""

from __future__ import annotations

from collections import defaultdict

from histomake.base.records.metrics import Heterogeneity, MetricsRecord, SubgroupTable
from histomake.report import page
from histomake.report.metric_texts import LEVELS, in_order, levels_in_order, metric_name, with_interval
from histomake.report.page import Html

MAIN = 4
"""Metrics that are shown for all levels; the others are collapsed."""


def subgroups_section(metrics: MetricsRecord) -> list[Html]:
    """Tables of the metrics by level, column and value, with tests of heterogeneity."""
    low, high = metrics.interval_percent
    text = (
        f"Metrics of the test slides of each value of a column of the sheet; in brackets: {low:g}–{high:g} percentiles "
        f"of {metrics.bootstraps:,} bootstrap samples of patients. The last row tests whether all values have the same "
        "metric: p of Cochran's Q with the bootstrap variances, not corrected for the number of tests, and I², the "
        "share of the variation beyond chance."
    )
    parts = [page.tag("p", text)]
    for level, found in levels_in_order(metrics.levels).items():
        for column, table in found.subgroups.items():
            # Metrics that no value has are of no use in a table.
            known = {n for g in table.groups.values() for n, one in g.metrics.items() if one.value is not None}
            shown = in_order(known)
            title = f"{LEVELS[level]} by {column}"
            parts += [page.section(title, _table(column, table, shown[:MAIN]), level=4, anchor=f"by-{level}-{column}")]
            parts += _notes(table, shown[:MAIN])
            if len(shown) > MAIN:
                rest = page.join([_table(column, table, shown[MAIN:]), *_notes(table, shown[MAIN:])])
                parts.append(page.folded("further metrics", rest))
    return parts


def _table(column: str, table: SubgroupTable, metrics: list[str]) -> Html:
    """A row per value, and one with the tests."""
    rows: list[list[object]] = []
    for value, group in table.groups.items():
        found = [with_interval(group.metrics[name]) if name in group.metrics else None for name in metrics]
        rows.append([_title(value), group.count, group.patients, *found])
    rows.append(["heterogeneity", None, None, *(_tested(table.tests[name]) for name in metrics)])
    return page.table([column, "number", "patients", *(metric_name(name) for name in metrics)], rows)


def _tested(test: Heterogeneity) -> str | None:
    if test.p is None or test.i_squared is None:
        return None
    p = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
    return f"{p}, I² {test.i_squared:.0%}"


def _notes(table: SubgroupTable, metrics: list[str]) -> list[Html]:
    """Why values are not compared, and why there is no test."""
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for name in metrics:
        test = table.tests[name]
        for value, reason in test.left_out.items():
            reasons[f"{_title(value)} is not compared: {reason}"].append(metric_name(name))
        if test.undefined is not None:
            reasons[f"No test: {test.undefined}"].append(metric_name(name))
    told = [
        f"{reason}{'' if len(names) == len(metrics) else f' ({", ".join(names)})'}."
        for reason, names in reasons.items()
    ]
    return [page.tag("p", " ".join(told), class_="warn")] if told else []


def _title(value: str) -> str:
    return value or "(empty)"
