"""Rule lineage: every output behind the catalog and the metrics, with what it was made from."""

from pathlib import Path

from histomake.job import job
from histomake.layout import Layout
from histomake.lineage import walk, write_lineage
from histomake.recall import Recall


def main(snakemake):
    recall = Recall(Layout(Path(snakemake.input.catalog).parent).memory("lineage"))
    with job(snakemake, recall):
        roots = [snakemake.input.catalog, *snakemake.input.metrics]
        write_lineage(walk(roots, recall), snakemake.output.lineage)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
