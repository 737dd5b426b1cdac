"""Rule export_qupath: the predictions of one slide as QuPath tiles."""

import pyarrow.parquet as pq
from histomake.audit.sidecar import job
from histomake.base.files import read_json
from histomake.patch.table import read_table
from histomake.pictures.qupath import write_tiles


def main(snakemake):
    with job(snakemake):
        _, meta = read_table(snakemake.input.table)
        grid = meta["grid"]
        lost = meta["status"] != "ok"
        write_tiles(
            snakemake.output.tiles,
            pq.read_table(snakemake.input.predictions),
            slide_id=snakemake.wildcards.slide,
            classes=read_json(snakemake.input.description)["class_names"],
            span=0.0 if lost else grid["size"] * grid["mpp"] / meta["mpp"],
            width=0 if lost else meta["width"],
            height=0 if lost else meta["height"],
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
