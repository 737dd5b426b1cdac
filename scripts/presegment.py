"""Rule presegment: the tissue mask of one slide."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import quarantined
from histomake.cohort.quarantine import attempt, in_memory
from histomake.config import Tissue
from histomake.slide.reader import open_slide
from histomake.tissue.mask import presegment, save_no_tissue


def main(snakemake):
    mask, record = Path(snakemake.output.mask), Path(snakemake.output.record)

    def work():
        with open_slide(Path(snakemake.input.manifest)) as reader:
            tissue = presegment(reader, Tissue.model_validate(snakemake.params.cfg), slide_id=manifest.slide_id)
        tissue.save(mask, record)
        return tissue.record

    held = {"rule": "presegment", "output": record, "manifest": snakemake.input.manifest}
    with job(snakemake):
        manifest = Manifest.read(snakemake.input.manifest)
        outcome = quarantined(manifest) or attempt(
            "presegment", lambda: in_memory(work, slide_id=manifest.slide_id, **held)
        )
        if quarantined(outcome):
            save_no_tissue(outcome, mask, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
