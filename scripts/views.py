"""Rule views: the pictures of one slide that a pathologist reads."""

from pathlib import Path

import pyarrow.parquet as pq
from histomake.annotation.model import Annotation
from histomake.explain.views import SlideFindings, draw_quarantine, draw_views
from histomake.files import read_json
from histomake.job import job
from histomake.patch.table import read_table
from histomake.quality import ArtefactMap
from histomake.quarantine import quarantined
from histomake.slide.reader import open_slide
from histomake.tissue import TissueMask


def main(snakemake):
    given = snakemake.input
    out = {view: Path(path) for view, path in snakemake.output.items()}
    with job(snakemake):
        records = [read_json(path) for path in (given.manifest, given.annotation, given.tissue, given.quality)]
        lost = quarantined(*records)
        if lost:
            draw_quarantine(lost, out)
            return
        model = read_json(given.description)
        with open_slide(given.manifest) as reader:
            findings = SlideFindings(
                reader=reader,
                meta=read_table(given.table)[1],
                predictions=pq.read_table(given.predictions),
                classes=model["class_names"],
                threshold=model["threshold"],
                tissue=TissueMask.load(given.mask, given.tissue),
                artefacts=ArtefactMap.load(given.artefacts, given.quality),
                annotation=Annotation.load(given.annotation),
            )
            draw_views(findings, mpp=snakemake.params.mpp, out=out)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
