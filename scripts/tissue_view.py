"""Rule tissue_view: the picture of a slide's tissue and of what spoils it."""

from pathlib import Path

from histomake.explain.tissue_view import tissue_view
from histomake.explain.views import draw_quarantine, write_picture
from histomake.files import read_json
from histomake.job import job
from histomake.quality import ArtefactMap
from histomake.quarantine import quarantined
from histomake.slide.reader import open_slide
from histomake.tissue import TissueMask


def main(snakemake):
    given, out = snakemake.input, Path(snakemake.output.picture)
    with job(snakemake):
        lost = quarantined(*(read_json(path) for path in (given.manifest, given.tissue, given.quality)))
        if lost:
            draw_quarantine(lost, {"tissue": out})
            return
        mask, artefacts = TissueMask.load(given.mask, given.tissue), ArtefactMap.load(given.artefacts, given.quality)
        where = {"slide_id": snakemake.wildcards.slide, "mpp": snakemake.params.mpp}
        with open_slide(given.manifest) as reader:
            write_picture(tissue_view(reader, mask, artefacts, **where), out)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
