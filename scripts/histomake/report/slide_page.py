"""Page of one slide for the pathologist, in one printable file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import Quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.base.tables import lost_slide
from histomake.cells.table import read_cells
from histomake.explain.kinds import EXPLAINED
from histomake.explain.summaries import bag_table
from histomake.report import page
from histomake.report.cores_section import cores_of_slide
from histomake.report.graph_of_slide import graph_of_slide
from histomake.report.page import Html
from histomake.report.readers_section import readers_of_slide

VIEW_TITLES = {
    "prediction": "Prediction",
    "confidence": "Confidence",
    "truth": "Annotation, prediction, and differences",
    "attention": "Attention, contributions, chosen patches, and annotation",
    "graph": "The graph on its tissue: nodes by class and by contribution, and edges",
}


@dataclass(frozen=True)
class SlideTask:
    """Results of one fold of a task on the slide.

    model: model card; aggregate: how patch scores are pooled to the slide's score; views: pictures by name; regions:
    pictures by x, y, width and height in level-0 pixels; validated: whether the model was validated on the slide.
    """

    name: str
    fold: int
    model: ModelCard
    aggregate: str
    predictions: Path
    views: Mapping[str, Path]
    regions: Mapping[tuple[int, ...], Path]
    validated: bool = False

    @property
    def classes(self) -> list[str]:
        """The model's outputs, in order."""
        return self.model.class_names


class SlideRecords(NamedTuple):
    """The records of a usable slide; of its patch tables, one."""

    manifest: Manifest
    annotation: AnnotationRecord
    tissue: TissueRecord
    quality: QualityRecord
    table: PatchTableRecord


def slide_page(
    *,
    slide_id: str,
    patient_id: str,
    site: str,
    records: SlideRecords | Quarantined,
    tissue: Path,
    tasks: list[SlideTask],
    cascades: Mapping[str, Path],
    stages: Mapping[tuple[str, int], Path],
    cells: Mapping[str, Path],
    graphs: Mapping[str, tuple[Path, Path]],
    cores: tuple[Path, Path] | None = None,
) -> str:
    """The page as HTML.

    For a quarantined slide it shows the reason, for others the warnings of all records. ``tissue``: picture of tissue
    and quality; ``cascades``: picture of the levels of each nucleus cascade; ``stages``: picture of the stages of
    each patch cascade, by name and fold; ``cells``: cell tables by name; ``graphs``: graph and its picture, by name;
    ``cores``: table and picture of the cores of a microarray.
    """
    head = [
        page.tag("nav", page.link("← report", "../index.html")),
        page.tag("h1", slide_id),
        page.tag("p", f"Patient {patient_id}" + (f", {site}" if site else "")),
    ]
    if isinstance(records, Quarantined):
        text = f"In quarantine: {records.reason}. {records.detail}. {records.remedy}"
        return page.document(slide_id, [*head, page.tag("p", text, class_="warn")])
    parts = [page.picture(tissue, "Tissue and quality"), *(_task(task) for task in tasks)]
    parts += [
        page.section(f"Cascade {name}", page.picture(path, "Detected nuclei, and the regions that each level computed"))
        for name, path in cascades.items()
    ]
    parts += [
        page.section(f"Cascade {name}, fold {fold}", page.picture(path, "Scores, and which stage decided which patch"))
        for (name, fold), path in stages.items()
    ]
    parts += [cores_of_slide(*cores)] if cores else []
    parts += [_cells(name, path, records.tissue.area_mm2) for name, path in cells.items()]
    mm2_per_px = (records.manifest.mpp / 1000) ** 2
    parts.append(readers_of_slide(records.annotation.consensus, mm2_per_px=mm2_per_px))
    parts += [graph_of_slide(name, *files) for name, files in graphs.items()]
    warnings = [page.tag("p", text, class_="warn") for record in records for text in record.warnings]
    return page.document(slide_id, [*head, *warnings, _facts(records), *parts])


def _facts(records: SlideRecords) -> Html:
    manifest, annotation, tissue, quality, _ = records
    width_mm, height_mm = (length * manifest.mpp / 1000 for length in (manifest.width, manifest.height))
    artefacts = ", ".join(f"{name} {share:.1%}" for name, share in quality.shares.items() if share) or "none"
    values = {
        "size": f"{manifest.width:,} x {manifest.height:,} px, {width_mm:.2f} x {height_mm:.2f} mm",
        "resolution": f"{manifest.mpp:.4g} µm/px (from {manifest.mpp_source})",
        "tissue": f"{tissue.area_mm2:.2f} mm², {tissue.coverage:.0%} of the slide ({tissue.method})",
        "artefacts": artefacts,
        "absent tiles": f"{manifest.levels[0].empty_tiles:,}, shown as glass",
        "other images": "; ".join(f"{name}: {status}" for name, status in manifest.associated.items()) or "none",
        "annotation": _annotated(annotation, mm2_per_px=(manifest.mpp / 1000) ** 2),
        "source": f"{manifest.vendor}, {manifest.bytes_in / 1e6:,.1f} MB, sha256 {manifest.sha256}",
    }
    return page.facts(values)


def _annotated(annotation: AnnotationRecord, *, mm2_per_px: float) -> str:
    """Format, then regions and area of each class, and what was ignored, cut out or repaired."""
    found = [
        f"{name} {area * mm2_per_px:.3g} mm²" + (f" ({annotation.regions[name]})" if name in annotation.regions else "")
        for name, area in sorted(annotation.area_px.items())
    ]
    counts = {"ignored": annotation.ignored, "cut out": annotation.cut_out}
    found += [f"{what} {name} ({n})" for what, names in counts.items() for name, n in sorted(names.items())]
    found += [f"{annotation.repaired} outlines cross themselves"] if annotation.repaired else []
    return ": ".join(filter(None, [annotation.annotation_format, ", ".join(found)]))


def _cells(name: str, path: Path, tissue_mm2: float) -> Html:
    """Number of cells, their density in the tissue and their sizes: of all, and of each class."""
    table, record = read_cells(path)
    if isinstance(record, Quarantined):
        text = f"The slide has no cells: {record.detail}. {record.remedy}"
        return page.section(f"Cells {name}", page.tag("p", text, class_="warn"))
    groups = {"all": table}
    if record.class_names:
        groups |= {kind: table.filter(pc.equal(table["class"].cast(pa.string()), kind)) for kind in record.class_names}
    rows = [
        [
            kind,
            cells.num_rows,
            cells.num_rows / tissue_mm2 if tissue_mm2 else None,
            pc.quantile(cells["area_um2"], 0.5)[0].as_py(),
        ]
        for kind, cells in groups.items()
    ]
    header = ["class", "cells", "per mm² of tissue", "median area, µm²"]
    warnings = [page.tag("p", text, class_="warn") for text in record.warnings]
    return page.section(f"Cells {name}", *warnings, page.table(header, rows))


def _task(task: SlideTask) -> Html:
    table = pq.read_table(task.predictions)
    parts: list[object] = [_result(task, table)]
    if task.validated:
        text = "A validation slide, with which weights and thresholds of this model were chosen: no independent test."
        parts.insert(0, page.tag("p", text, class_="warn"))
    parts += [page.picture(task.views[view], title) for view, title in VIEW_TITLES.items() if view in task.views]
    parts += [
        page.picture(path, "Region at x {}, y {}, {} x {} level-0 px".format(*box))
        for box, path in task.regions.items()
    ]
    return page.section(f"Task {task.name}, fold {task.fold}", *parts)


def _result(task: SlideTask, table: pa.Table) -> Html:
    """Table of the result: per class, output or area, depending on the kind of task."""
    if lost := lost_slide(table):
        text = f"The slide is damaged, so this task has no prediction of it: {lost.detail}. {lost.remedy}"
        return page.tag("p", text, class_="warn")
    if not table.num_rows:
        return page.tag("p", "This slide has no predicted patch.", class_="warn")
    if task.model.bag is not None:
        return page.table(*bag_table(table, task.classes))
    return page.table(*EXPLAINED[task.model.kind].slide_table(table, task.classes, task.aggregate))
