"""Rule lineage: every output behind the catalog, the metrics and the cascades, with what it was made from."""

from pathlib import Path

from histomake.audit.lineage import walk, write_lineage
from histomake.audit.sidecar import job
from histomake.base.file_cache import Recall
from histomake.base.layout import Layout


def main(snakemake):
    recall = Recall(Layout(Path(snakemake.input.catalog).parent).memory("lineage"))
    with job(snakemake, recall):
        write_lineage(walk(snakemake.input, recall), snakemake.output.lineage)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
