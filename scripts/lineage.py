"""Rule lineage: every output behind the catalog and the metrics, with what it was made from."""

from pathlib import Path

from histomake.audit.lineage import walk, write_lineage
from histomake.audit.sidecar import job
from histomake.base.file_cache import Recall
from histomake.base.layout import Layout


def main(snakemake):
    recall = Recall(Layout(Path(snakemake.input.catalog).parent).memory("lineage"))
    with job(snakemake, recall):
        roots = [snakemake.input.catalog, *snakemake.input.metrics]
        write_lineage(walk(roots, recall), snakemake.output.lineage)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
