"""Rules views and region: pictures of one slide's predictions, or of a region, for the pathologist."""

from pathlib import Path

import pyarrow.parquet as pq
from histomake.annotation.model import Annotation
from histomake.audit.sidecar import job
from histomake.base.files import store_of
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import Quarantined, quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.base.tables import lost_slide
from histomake.cohort.quarantine import attempt, in_memory
from histomake.graphs.store import read_graph
from histomake.patch.table import read_table
from histomake.pictures.findings import ChoosingScores, SlideFindings
from histomake.pictures.views import draw_quarantine, draw_region, draw_views
from histomake.slide.reader import open_slide


def choosing(table, predictions):
    """Scores that chose the patches; none of a slide that is quarantined or was found to be damaged there."""
    record, found = read_table(table)[1], pq.read_table(predictions)
    return None if isinstance(record, Quarantined) or lost_slide(found) else ChoosingScores(record, found)


def draw(given, params, predictions, out):
    with open_slide(given.manifest) as reader:
        findings = SlideFindings(
            reader=reader,
            table=read_table(given.table)[1],
            model=ModelCard.read(given.description),
            predictions=predictions,
            annotation=Annotation.load(given.annotation),
            label_store=next(map(store_of, given.labels), None),
            graph=next(map(read_graph, given.graph), None),
            nodes=next(map(pq.read_table, given.nodes), None),
            choosing=choosing(*given.choosing) if given.choosing else None,
        )
        if "region" in out:
            draw_region(findings, params.box, out["region"])
        else:
            draw_views(findings, mpp=params.mpp, out=out)


def main(snakemake):
    given = snakemake.input
    out = {view: Path(path) for view, path in snakemake.output.items()}
    held = {"rule": snakemake.rule, "output": next(iter(out.values())), "manifest": given.manifest}

    def work():
        draw(given, snakemake.params, predictions, out)

    with job(snakemake) as done:
        predictions = pq.read_table(given.predictions)
        lost = quarantined(
            Manifest.read(given.manifest),
            AnnotationRecord.read(given.annotation),
            TissueRecord.read(given.tissue),
            QualityRecord.read(given.quality),
        ) or lost_slide(predictions)
        lost = lost or attempt(
            "views", lambda: in_memory(work, slide_id=snakemake.wildcards.slide, **held), lost=done.lost
        )
        if lost is not None:
            draw_quarantine(lost, out)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
