"""Rule catalog: build the cohort's DuckDB database from all per-slide files."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.file_cache import FileCache
from histomake.base.layout import Layout
from histomake.catalog.build import build_catalog


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    layout, slides = Layout(Path(snakemake.config["results"])), [slide for slide, *_ in params.sheet]
    cache = FileCache(layout.file_cache("catalog"))
    with job(snakemake, cache):
        build_catalog(
            snakemake.output.catalog,
            manifests=map(layout.manifest, slides),
            tissue=map(layout.tissue, slides),
            quality=map(layout.quality, slides),
            annotations=map(layout.annotation, slides),
            tables={grid: [layout.table(grid, slide) for slide in slides] for grid in params.grids},
            splits=dict(zip(params.predictions, given.splits, strict=True)),
            predictions=params.predictions,
            damage={task: layout.damage(task) for task in params.predictions},
            metrics={task: layout.metrics(task) for task in params.measured},
            cells=params.cells,
            graphs=params.graphs,
            sheet=params.sheet,
            cache=cache,
            previous=layout.file_cache("catalog").with_suffix(".duckdb"),
            code=params.code,
            memory_mb=snakemake.resources.mem_mb // 2,
            threads=snakemake.threads,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
