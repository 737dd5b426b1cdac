"""Rule lineage: list every output behind the catalog, the metrics and the cascades with its inputs."""

from pathlib import Path

from histomake.audit.caches import open_cache
from histomake.audit.lineage import walk, write_lineage
from histomake.audit.sidecar import job
from histomake.base.layout import Layout


def main(snakemake):
    cache = open_cache(Layout(Path(snakemake.config["results"])), "lineage")
    with job(snakemake, cache):
        write_lineage(walk(snakemake.input, cache), snakemake.output.lineage)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
