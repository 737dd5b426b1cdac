"""Rule cells: table, label image and outlines of the cells of one slide."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import store_of
from histomake.cells.job import CellFiles, make_cells
from histomake.config import Cells


def main(snakemake):
    given, output = snakemake.input, snakemake.output
    with job(snakemake) as done:
        make_cells(
            Path(given.manifest),
            Path([*given.made, *given.drawn][0]),
            Cells.model_validate(snakemake.params.cfg),
            CellFiles(Path(output.table), store_of(output.labels), output.get("outlines") and Path(output.outlines)),
            lost=done.lost,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
