"""Rule quality: pen marks, blur and folds in the tissue of one slide."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.cohort.quarantine import attempt, in_memory
from histomake.config import Quality
from histomake.slide.reader import open_slide
from histomake.tissue.artefacts import assess, save_no_quality
from histomake.tissue.mask import TissueMask


def main(snakemake):
    image, record = Path(snakemake.output.map), Path(snakemake.output.record)

    def work():
        mask = TissueMask.load(Path(snakemake.input.mask), Path(snakemake.input.tissue))
        with open_slide(Path(snakemake.input.manifest)) as reader:
            artefacts = assess(reader, mask, Quality.model_validate(snakemake.params.cfg))
        artefacts.save(image, record)
        return artefacts.record

    held = {"rule": "quality", "output": record, "manifest": snakemake.input.manifest}
    with job(snakemake):
        stages = Manifest.read(snakemake.input.manifest), TissueRecord.read(snakemake.input.tissue)
        outcome = quarantined(*stages) or attempt(
            "quality", lambda: in_memory(work, slide_id=snakemake.wildcards.slide, **held)
        )
        if quarantined(outcome):
            save_no_quality(outcome, image, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
