"""Rule outliers: a page with pictures of the slides, those first that look least like the others."""

from pathlib import Path

import duckdb
from histomake.audit.caches import open_cache
from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.config import Grid
from histomake.report.outliers_page import outliers_page


def main(snakemake):
    params, layout = snakemake.params, Layout(Path(snakemake.config["results"]))
    cache = open_cache(layout, "outliers", version=params.code)
    with (
        job(snakemake, cache, compare=snakemake.input),
        duckdb.connect(snakemake.input.catalog, read_only=True) as catalog,
    ):
        grid = (params.name, Grid.model_validate(params.grid))
        content = outliers_page(catalog, layout, grid=grid, pages=set(params.pages), cache=cache)
        with atomic_file(snakemake.output.page) as aside:
            aside.write_text(content)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
