"""Rule convert: convert one slide file to an OME-Zarr store and its manifest."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.records.record import quarantined
from histomake.cohort.quarantine import attempt
from histomake.config import Convert
from histomake.slide.convert import convert, store_digest, write_no_store


def main(snakemake):
    params, config = snakemake.params, Convert.model_validate(snakemake.params.cfg)
    store = store_of(Layout(Path(snakemake.config["results"])).store(snakemake.wildcards.slide))

    def work():
        return convert(
            Path(snakemake.input.slide),
            store,
            slide_id=snakemake.wildcards.slide,
            config=config,
            mpp=params.mpp,
            sha256=params.sha256,
            threads=snakemake.threads,
        )

    with job(snakemake) as digests:
        outcome = attempt("convert", work)
        if quarantined(outcome):
            write_no_store(outcome, store, config)
        else:
            digests[str(store_of(snakemake.output.store))] = store_digest(outcome)
        outcome.write(snakemake.output.manifest)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
