"""Owns the page of one slide: what a pathologist needs to judge it, in one printable file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from histomake.explain import page
from histomake.explain.page import Html
from histomake.learn.score import pool_scores

VIEW_TITLES = {
    "tissue": "Tissue and quality",
    "prediction": "Prediction",
    "confidence": "Confidence",
    "truth": "Annotated, predicted, and where they differ",
}


@dataclass(frozen=True)
class SlideTask:
    """What one task's fold says of the slide: its predictions, how patches become a slide score, the views' paths."""

    name: str
    fold: int
    classes: list[str]
    aggregate: str
    predictions: Path
    views: Mapping[str, Path]


def slide_page(
    *, slide_id: str, patient_id: str, site: str, records: Mapping[str, dict[str, Any]], tasks: list[SlideTask]
) -> str:
    """The page as HTML. ``records``: manifest, annotation, tissue, quality; a quarantined slide gets its reason."""
    lost = next((r for r in records.values() if r["status"] != "ok"), None)
    head = [
        page.tag("nav", page.link("← report", "../index.html")),
        page.tag("h1", slide_id),
        page.tag("p", f"Patient {patient_id}" + (f", {site}" if site else "")),
    ]
    if lost:
        text = f"In quarantine: {lost['reason']}. {lost['detail']}. {lost['remedy']}"
        return page.document(slide_id, [*head, page.tag("p", text, class_="warn")])
    return page.document(slide_id, [*head, _facts(records), *(_task(task, i == 0) for i, task in enumerate(tasks))])


def _facts(records: Mapping[str, dict[str, Any]]) -> Html:
    manifest, quality = records["manifest"], records["quality"]
    width_mm, height_mm = (manifest[side] * manifest["mpp"] / 1000 for side in ("width", "height"))
    spoilt = ", ".join(f"{name} {share:.1%}" for name, share in quality["shares"].items() if share) or "nothing"
    values = {
        "size": f"{manifest['width']:,} x {manifest['height']:,} px, {width_mm:.2f} x {height_mm:.2f} mm",
        "resolution": f"{manifest['mpp']:.4g} µm/px (from {manifest['mpp_source']})",
        "tissue": f"{records['tissue']['area_mm2']:.2f} mm², {records['tissue']['coverage']:.0%} of the slide",
        "spoilt tissue": spoilt,
        "annotation": records["annotation"].get("format") or "none",
        "source": f"{manifest['vendor']}, {manifest['bytes_in'] / 1e6:,.1f} MB, sha256 {manifest['sha256']}",
    }
    return page.facts(values)


def _task(task: SlideTask, first: bool) -> Html:
    table = pq.read_table(task.predictions)
    parts: list[object] = [_result(task, table)]
    parts += [
        page.picture(task.views[view], title)
        for view, title in VIEW_TITLES.items()
        if view in task.views and (first or view != "tissue")
    ]
    return page.section(f"Task {task.name}, fold {task.fold}", *parts)


def _result(task: SlideTask, table: pa.Table) -> Html:
    """Patches per class, and the slide's score as the task aggregates it."""
    if not table.num_rows:
        return page.tag("p", "No patch of this slide was predicted.", class_="warn")
    scores = table.select([f"score_{name}" for name in task.classes]).to_pandas().to_numpy()
    pooled = pool_scores(scores, task.aggregate, table["tissue"].to_numpy())
    counts = Counter(table["predicted"].cast(pa.string()).to_pylist())
    rows = [
        [name, counts[name], counts[name] / table.num_rows, float(pooled[i])] for i, name in enumerate(task.classes)
    ]
    return page.table(["class", "patches", "share", f"slide score ({task.aggregate})"], rows)
