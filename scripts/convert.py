"""Rule convert: one slide file to an OME-Zarr store and its manifest."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.errors import Reason, SlideError
from histomake.base.files import write_json
from histomake.cohort.quarantine import attempt
from histomake.config import Convert
from histomake.slide.convert import convert


def main(snakemake):
    manifest = Path(snakemake.output.manifest)
    source = Path(snakemake.input.slide)
    slide_id, promised = snakemake.wildcards.slide, snakemake.params.sha256

    def work():
        record = convert(
            source,
            manifest.with_name(f"{slide_id}.zarr"),
            slide_id=slide_id,
            config=Convert.model_validate(snakemake.params.cfg),
            mpp=snakemake.params.mpp,
            threads=snakemake.threads,
        )
        if promised and record["sha256"] != promised:
            raise SlideError(
                Reason.CHECKSUM,
                slide_id=slide_id,
                path=source,
                detail=f"its sha256 is {record['sha256']}, the sheet says {promised}",
                remedy="Copy the slide again, or correct the sheet",
            )
        return record

    with job(snakemake):
        write_json(manifest, attempt("convert", work))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
