"""Report section of a comparison of two tasks."""

from __future__ import annotations

from pathlib import Path

from histomake.base.records.comparison import ComparisonRecord
from histomake.base.records.metrics import MetricDifference
from histomake.report import page
from histomake.report.metric_texts import LEVELS, in_order, levels_in_order, metric_name
from histomake.report.page import Html


def comparison_section(path: Path) -> Html:
    """Differences of two tasks with intervals and p values; nothing if the comparison has not been made."""
    if not path.is_file():
        return Html("")
    found = ComparisonRecord.read(path)
    low, high = found.interval_percent
    text = (
        f"{found.slides} test slides of {found.patients} patients that both tasks have predicted. In brackets: "
        f"{low:g}–{high:g} percentiles of {found.bootstraps:,} paired bootstrap samples of patients. p values are not "
        "corrected for the number of metrics."
    )
    parts: list[object] = [page.tag("p", text)]
    if found.left_out:
        text = f"Left out, because not both tasks have predictions of them: {', '.join(found.left_out)}."
        parts.append(page.tag("p", text, class_="warn"))
    if found.patients < 10:
        parts.append(page.tag("p", f"Only {found.patients} patients: the intervals are unreliable.", class_="warn"))
    for level, compared in levels_in_order(found.levels).items():
        metrics = compared.metrics.get("all", {})
        rows = [
            [metric_name(name), *difference_cells(metrics[name])]
            for name in in_order(metrics)
            if metrics[name].difference.value is not None
        ]
        header = [f"{LEVELS[level]} ({compared.count:,})", found.first, found.second, "difference", "p", "p (DeLong)"]
        parts.append(page.table(header, rows))
    return page.section(
        f"{found.first} against {found.second}", *parts, anchor=f"compared-{found.first}-{found.second}"
    )


def difference_cells(found: MetricDifference) -> list[str | None]:
    """Both values, their difference with its interval, and p values."""
    gap = found.difference
    interval = "" if gap.low is None else f" ({gap.low:+.3f} to {gap.high:+.3f})"
    values = [None if value is None else f"{value:.3f}" for value in (found.first, found.second)]
    p_values = [None if p is None else f"{p:.3f}" for p in (found.p_bootstrap, found.p_delong)]
    return [*values, f"{gap.value:+.3f}{interval}", *p_values]
