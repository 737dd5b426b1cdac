"""Rule catalog: build the cohort's DuckDB database from all per-slide files."""

from pathlib import Path

from histomake.audit.caches import discard_unrecorded, open_cache
from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.catalog.build import build_catalog


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    layout, slides = Layout(Path(snakemake.config["results"])), [slide for slide, *_ in params.sheet]
    cache, previous = open_cache(layout, "catalog"), layout.file_cache("catalog").with_suffix(".duckdb")
    discard_unrecorded(layout, previous)
    measured = [*given.metrics, *given.transfers, *given.generators]
    with job(snakemake, cache, compare=[*given.splits, *given.damage, *measured]) as done:
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
            cores=params.cores,
            cells=params.cells,
            graphs=params.graphs,
            transfers=given.transfers,
            generators=given.generators,
            cascades=params.cascades,
            sheet=params.sheet,
            cache=cache,
            previous=previous,
            code=params.code,
            memory_mb=snakemake.resources.mem_mb // 2,
            threads=snakemake.threads,
        )
        done.caches.append(previous)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
