"""Rule catalog: the cohort's database over all per-slide files."""

from pathlib import Path

from histomake.catalog import build_catalog
from histomake.job import job
from histomake.layout import Layout
from histomake.recall import Recall


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    memory = Layout(Path(snakemake.output.catalog).parent).memory("catalog")
    recall = Recall(memory)
    with job(snakemake, recall):
        build_catalog(
            snakemake.output.catalog,
            manifests=given.manifests,
            tissue=given.tissue,
            quality=given.quality,
            annotations=given.annotations,
            tables={grid: [p for p in given.tables if f"/patches/{grid}/" in p] for grid in params.grids},
            splits=dict(zip(params.tasks, given.splits, strict=True)),
            predictions={task: [p for p in given.predictions if f"/predictions/{task}/" in p] for task in params.tasks},
            sheet=params.sheet,
            recall=recall,
            previous=memory.with_suffix(".duckdb"),
            code=params.code,
            memory_mb=snakemake.resources.mem_mb // 2,
            threads=snakemake.threads,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
