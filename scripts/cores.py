"""Rule cores: the cores of one tissue microarray, as a table and a picture."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined, quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.cohort.quarantine import attempt, in_memory
from histomake.config import Microarray
from histomake.pictures.canvas import quarantine_card, write_picture
from histomake.pictures.cores_view import cores_view
from histomake.slide.reader import open_slide
from histomake.tissue.core_table import empty_core_table, read_cores, tabulate_cores, write_cores
from histomake.tissue.mask import TissueMask


def main(snakemake):
    given, made, params = snakemake.input, snakemake.output, snakemake.params

    def work():
        tissue = TissueMask.load(Path(given.mask), Path(given.tissue))
        config = Microarray.model_validate(params.cfg)
        write_cores(tabulate_cores(manifest, tissue, config, path=given.mask), made.table)
        with open_slide(given.manifest) as reader:
            return cores_view(reader, *read_cores(made.table), mpp=params.mpp)

    held = {"rule": "cores", "output": made.table, "manifest": given.manifest}
    with job(snakemake) as done:
        manifest = Manifest.read(given.manifest)
        found = quarantined(manifest, TissueRecord.read(given.tissue)) or attempt(
            "cores", lambda: in_memory(work, slide_id=manifest.slide_id, **held), lost=done.lost
        )
        if isinstance(found, Quarantined):
            write_cores(empty_core_table(found), made.table)
            found = quarantine_card(found)
        write_picture(found, Path(made.picture))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
