"""Rule front_page: the report of the whole run in one file."""

from pathlib import Path

import duckdb
from histomake.config import Config
from histomake.explain.report import front_page
from histomake.files import atomic_file
from histomake.job import job
from histomake.layout import Layout
from histomake.recall import Recall


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    layout = Layout(Path(given.catalog).parent)
    recall = Recall(layout.memory("front_page"), version=params.code)
    with job(snakemake, recall), duckdb.connect(given.catalog, read_only=True) as catalog:
        content = front_page(Config.model_validate(params.cfg), layout, catalog, set(params.pages), recall)
        with atomic_file(snakemake.output.page) as aside:
            aside.write_text(content)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
