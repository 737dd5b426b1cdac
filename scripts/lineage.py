"""Rule lineage: every output behind the catalog and the metrics, with what it was made from."""

from histomake.job import job
from histomake.lineage import walk, write_lineage


def main(snakemake):
    with job(snakemake):
        write_lineage(walk([snakemake.input.catalog, *snakemake.input.metrics]), snakemake.output.lineage)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
