"""Rule overview: pictures of a slide before any model: tissue, artefacts, and kept and excluded patches."""

from functools import partial
from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.records.manifest import Manifest
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.cohort.quarantine import attempt, in_memory
from histomake.patch.table import read_table
from histomake.pictures.canvas import quarantine_card, write_picture
from histomake.pictures.contact_sheet import contact_sheet, no_contact_sheet
from histomake.pictures.tissue_view import tissue_view
from histomake.slide.reader import open_slide
from histomake.tissue.artefacts import ArtefactMap
from histomake.tissue.mask import TissueMask


def draw_tissue(given, picture, slide_id, mpp):
    stages = Manifest.read(given.manifest), TissueRecord.read(given.tissue), QualityRecord.read(given.quality)
    lost = quarantined(*stages)
    if lost:
        write_picture(quarantine_card(lost), picture)
        return
    mask = TissueMask.load(given.mask, given.tissue)
    artefacts = ArtefactMap.load(given.artefacts, given.quality)
    with open_slide(given.manifest) as reader:
        write_picture(tissue_view(reader, mask, artefacts, slide_id=slide_id, mpp=mpp), picture)


def draw_patches(manifest, path, picture, params):
    table, record = read_table(path)
    if quarantined(record):
        no_contact_sheet(record, picture)
        return
    with open_slide(Path(manifest)) as reader:
        contact_sheet(reader, table, record, picture, patches=params.patches, seed=params.seed)


def main(snakemake):
    given, params, slide = snakemake.input, snakemake.params, snakemake.wildcards.slide
    tissue, contact = Path(snakemake.output.tissue), list(map(Path, snakemake.output.contact))
    pictures = {tissue: partial(draw_tissue, given, tissue, slide, params.mpp)}
    for path, picture in zip(given.tables, contact, strict=True):
        pictures[picture] = partial(draw_patches, given.manifest, path, picture, params)
    with job(snakemake) as done:
        for picture, draw in pictures.items():
            held = {"rule": "overview", "output": picture, "manifest": given.manifest}
            lost = attempt("overview", partial(in_memory, draw, slide_id=slide, **held), lost=done.lost)
            if lost is not None:
                write_picture(quarantine_card(lost), picture)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
