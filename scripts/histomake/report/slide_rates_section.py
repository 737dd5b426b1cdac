"""Report section of the test slides one by one."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from histomake.base.records.metrics import MetricsRecord
from histomake.report import page
from histomake.report.metric_texts import in_order, metric_name, with_interval
from histomake.report.page import Html

MOST_ROWS = 200
"""Rows of the table in the page. The file has all of them."""


def slide_rates_section(metrics: MetricsRecord, path: Path, folder: Path) -> list[Html]:
    """Mean rates over the slides, and a table of all of them, with the link to its file.

    ``path``: the CSV file; ``folder``: that of the page.
    """
    rates = in_order(rate for means in metrics.slide_means.values() for rate in means)
    text = (
        f"How well the patches or pixels of each slide are predicted. ±: standard error of {metrics.bootstraps:,} "
        "bootstrap samples of the slide's patches. They are drawn independently although neighbours are alike, so that "
        "it is rather too small. A rate is empty where it is not defined, such as AUROC where one class occurs. Means: "
        "over the slides where it is, with the interval of bootstrap samples of patients."
    )
    names = [metric_name(rate) for rate in rates]
    means = [
        [name, *(with_interval(found[rate]) if rate in found else None for rate in rates)]
        for name, found in metrics.slide_means.items()
    ]
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    header = ["slide", "patient", "fold", "class", "number", "positive", *names]
    table = page.table(header, [_row(row, rates) for row in rows[:MOST_ROWS]])
    more = f"The first {MOST_ROWS} of {len(rows):,} rows. " if len(rows) > MOST_ROWS else ""
    link = page.link("Download the table (CSV)", os.path.relpath(path, folder))
    return [
        page.tag("p", text),
        page.table(["mean over slides", *names], means),
        page.folded(f"{len({row['slide_id'] for row in rows}):,} slides", table),
        page.tag("p", more, link),
    ]


def _row(row: Mapping[str, str], rates: list[str]) -> list[object]:
    cells: list[object] = [row["slide_id"], row["patient_id"], int(row["fold"]), row["class"], int(row["items"])]
    cells.append(int(row["positives"]) if row["positives"] else None)
    return [*cells, *(_with_error(row[rate], row[f"{rate}_se"]) for rate in rates)]


def _with_error(value: str, error: str) -> str | None:
    if not value:
        return None
    return f"{float(value):.3f}" + (f" ± {float(error):.3f}" if error else "")
