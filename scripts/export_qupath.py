"""Rule export_qupath: export the predictions of one slide as QuPath tiles."""

import pyarrow.parquet as pq
from histomake.audit.sidecar import job
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import quarantined
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.pictures.qupath import write_tiles


def main(snakemake):
    with job(snakemake):
        _, record = read_table(snakemake.input.table)
        write_tiles(
            snakemake.output.tiles,
            pq.read_table(snakemake.input.predictions),
            slide_id=snakemake.wildcards.slide,
            classes=ModelCard.read(snakemake.input.description).class_names,
            slide_grid=None if quarantined(record) else SlideGrid.of_table(record),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
