"""Rule front_page: the report of the whole run in one file."""

from pathlib import Path

import duckdb
from histomake.audit.caches import open_cache
from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.config import Config
from histomake.report.front_page import front_page


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    layout = Layout(Path(snakemake.config["results"]))
    cache = open_cache(layout, "front_page", version=params.code)
    with job(snakemake, cache, compare=given), duckdb.connect(given.catalog, read_only=True) as catalog:
        content = front_page(Config.model_validate(params.cfg), layout, catalog, set(params.pages), cache)
        with atomic_file(snakemake.output.page) as aside:
            aside.write_text(content)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
