"""Owns the page of one slide: what a pathologist needs to judge it, in one printable file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from histomake.report import page
from histomake.report.page import Html
from histomake.target.pooling import pool_scores
from histomake.target.targets import JOINER

if TYPE_CHECKING:
    from numpy.typing import NDArray

VIEW_TITLES = {
    "prediction": "Prediction",
    "confidence": "Confidence",
    "truth": "Annotated, predicted, and where they differ",
}


@dataclass(frozen=True)
class SlideTask:
    """What one task's fold says of the slide.

    model: its description; aggregate: how patches become a slide's score; views: pictures by name; regions: pictures
    by x, y, width and height in level-0 pixels.
    """

    name: str
    fold: int
    model: Mapping[str, Any]
    aggregate: str
    predictions: Path
    views: Mapping[str, Path]
    regions: Mapping[tuple[int, ...], Path]

    @property
    def classes(self) -> list[str]:
        """The model's outputs, in order."""
        return self.model["class_names"]


def slide_page(
    *,
    slide_id: str,
    patient_id: str,
    site: str,
    records: Mapping[str, dict[str, Any]],
    tissue: Path,
    tasks: list[SlideTask],
    cascades: Mapping[str, Path],
) -> str:
    """The page as HTML.

    ``records``: manifest, annotation, tissue, quality; a quarantined slide gets its reason. ``tissue``: the
    picture of tissue and quality; ``cascades``: of what the levels of each nucleus cascade did.
    """
    lost = next((r for r in records.values() if r["status"] != "ok"), None)
    head = [
        page.tag("nav", page.link("← report", "../index.html")),
        page.tag("h1", slide_id),
        page.tag("p", f"Patient {patient_id}" + (f", {site}" if site else "")),
    ]
    if lost:
        text = f"In quarantine: {lost['reason']}. {lost['detail']}. {lost['remedy']}"
        return page.document(slide_id, [*head, page.tag("p", text, class_="warn")])
    parts = [page.picture(tissue, "Tissue and quality"), *(_task(task) for task in tasks)]
    parts += [
        page.section(f"Cascade {name}", page.picture(path, "Nuclei found, and what every level did"))
        for name, path in cascades.items()
    ]
    return page.document(slide_id, [*head, _facts(records), *parts])


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


def _task(task: SlideTask) -> Html:
    table = pq.read_table(task.predictions)
    parts: list[object] = [_result(task, table)]
    parts += [page.picture(task.views[view], title) for view, title in VIEW_TITLES.items() if view in task.views]
    parts += [
        page.picture(path, "Region at x {}, y {}, {} x {} level-0 px".format(*box))
        for box, path in task.regions.items()
    ]
    return page.section(f"Task {task.name}, fold {task.fold}", *parts)


def _result(task: SlideTask, table: pa.Table) -> Html:
    """What the model found: patches and score per class, the slide's value, or areas and agreement."""
    if not table.num_rows:
        return page.tag("p", "No patch of this slide was predicted.", class_="warn")
    if task.model["kind"] == "segmentation":
        return _segmented(task, table)
    scores = np.stack([table[f"score_{name}"].to_numpy() for name in task.classes], axis=1)
    pooled = pool_scores(scores, task.aggregate, table["tissue"].to_numpy())
    if task.model["kind"] == "regression":
        return _valued(task, table, scores, pooled)
    counts: Counter[str] = Counter()
    for names in table["predicted"].cast(pa.string()).to_pylist():
        counts.update((names or "").split(JOINER))
    rows = [
        [name, counts[name], counts[name] / table.num_rows, float(pooled[i])] for i, name in enumerate(task.classes)
    ]
    return page.table(["class", "patches", "share", f"slide score ({task.aggregate})"], rows)


def _valued(task: SlideTask, table: pa.Table, scores: NDArray[np.float32], pooled: NDArray[np.float64]) -> Html:
    """Of a regression: the slide's value, the spread of its patches, and the truth where it is known."""
    rows = []
    for i, name in enumerate(task.classes):
        target = table[f"target_{name}"].drop_null().to_numpy()
        low, middle, high = (float(v) for v in np.percentile(scores[:, i], (5, 50, 95)))
        error = np.abs(scores[:, i] - table[f"target_{name}"].to_numpy(zero_copy_only=False))
        known = [float(target.mean()), float(np.nanmean(error))] if len(target) else [None, None]
        rows.append([name, float(pooled[i]), middle, f"{low:.3g} to {high:.3g}", *known])
    header = ["output", f"slide ({task.aggregate})", "median patch", "5 to 95 % of patches", "true mean", "mean error"]
    return page.table(header, rows)


def _segmented(task: SlideTask, table: pa.Table) -> Html:
    """Of a segmentation: the share of tissue patches per class and, where there is truth, how far the two agree."""
    rows = []
    for name in task.classes:
        hit, alarm, missed = (int(table[f"{count}_{name}"].to_numpy().sum()) for count in ("tp", "fp", "fn"))
        seen = 2 * hit + alarm + missed
        rows.append([name, float(table[f"score_{name}"].to_numpy().mean()), 2 * hit / seen if seen else None])
    return page.table(["class", "share of the patches' area", "Dice on this slide"], rows)
