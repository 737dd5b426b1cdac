"""Rule export_qupath: export the predictions of one slide as QuPath tiles."""

import pyarrow.parquet as pq
from histomake.audit.sidecar import job
from histomake.base.files import read_json
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.pictures.qupath import write_tiles


def main(snakemake):
    with job(snakemake):
        _, meta = read_table(snakemake.input.table)
        write_tiles(
            snakemake.output.tiles,
            pq.read_table(snakemake.input.predictions),
            slide_id=snakemake.wildcards.slide,
            classes=read_json(snakemake.input.description)["class_names"],
            slide_grid=SlideGrid.of_table(meta) if meta["status"] == "ok" else None,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
