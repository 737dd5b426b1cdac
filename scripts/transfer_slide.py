"""Rule transfer_slide: one slide in the stain of the other side of a transfer, as a virtual slide."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import store_of, write_empty_store
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.cohort.quarantine import attempt
from histomake.config import Convert
from histomake.generate.apply import transfer_slide
from histomake.pictures.canvas import quarantine_card, write_picture
from histomake.pictures.virtual_view import virtual_view
from histomake.tissue.mask import TissueMask


def main(snakemake):
    given, out, params = snakemake.input, snakemake.output, snakemake.params
    store = store_of(out.store)

    def work():
        return transfer_slide(
            Path(given.manifest),
            TissueMask.load(given.mask, given.tissue),
            Path(given.weights).parent,
            name=snakemake.wildcards.transfer,
            side=params.side,
            store=store,
            config=Convert.model_validate(params.cfg),
            threads=snakemake.threads,
        )

    with job(snakemake) as done:
        outcome = quarantined(Manifest.read(given.manifest), TissueRecord.read(given.tissue))
        outcome = outcome or attempt("transfer", work, lost=done.lost)
        if quarantined(outcome):
            write_empty_store(store, outcome.dump())
        outcome.write(out.manifest)
        lost = quarantined(outcome)
        picture = quarantine_card(lost) if lost else virtual_view(given.manifest, out.manifest, outcome.virtual)
        write_picture(picture, Path(out.view))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
