"""Rule quality: pen, blur and folds inside the tissue of one slide."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import read_json
from histomake.cohort.quarantine import attempt, quarantined
from histomake.config import Quality
from histomake.slide.reader import open_slide
from histomake.tissue.artefacts import assess, save_no_quality
from histomake.tissue.mask import TissueMask


def main(snakemake):
    manifest, tissue = read_json(snakemake.input.manifest), read_json(snakemake.input.tissue)
    image, record = Path(snakemake.output.map), Path(snakemake.output.record)

    def work():
        mask = TissueMask.load(Path(snakemake.input.mask), Path(snakemake.input.tissue))
        with open_slide(Path(snakemake.input.manifest)) as reader:
            artefacts = assess(reader, mask, Quality.model_validate(snakemake.params.cfg))
        artefacts.save(image, record)
        return artefacts.record

    with job(snakemake):
        outcome = quarantined(manifest, tissue) or attempt("quality", work)
        if quarantined(outcome):
            save_no_quality(outcome, image, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
