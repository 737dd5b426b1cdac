"""Rules views and region: the pictures of one slide, or of a part of it, that a pathologist reads."""

from pathlib import Path

import pyarrow.parquet as pq
from histomake.annotation.model import Annotation
from histomake.audit.sidecar import job
from histomake.base.files import read_json, store_of
from histomake.cohort.quarantine import quarantined
from histomake.model.description import read_description
from histomake.patch.table import read_table
from histomake.pictures.findings import SlideFindings
from histomake.pictures.views import draw_quarantine, draw_region, draw_views
from histomake.slide.reader import open_slide


def main(snakemake):
    given = snakemake.input
    out = {view: Path(path) for view, path in snakemake.output.items()}
    with job(snakemake):
        records = [read_json(path) for path in (given.manifest, given.annotation, given.tissue, given.quality)]
        lost = quarantined(*records)
        if lost:
            draw_quarantine(lost, out)
            return
        with open_slide(given.manifest) as reader:
            findings = SlideFindings(
                reader=reader,
                meta=read_table(given.table)[1],
                model=read_description(given.description),
                predictions=pq.read_table(given.predictions),
                annotation=Annotation.load(given.annotation),
                label_store=store_of(given.labels) if given.labels else None,
            )
            if "region" in out:
                draw_region(findings, snakemake.params.box, out["region"])
            else:
                draw_views(findings, mpp=snakemake.params.mpp, out=out)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
