"""Rule front_page: the report of the whole run in one file."""

from pathlib import Path

from histomake.config import Config
from histomake.explain.report import front_page
from histomake.files import atomic_file
from histomake.job import job
from histomake.layout import Layout


def main(snakemake):
    out, params = Path(snakemake.output.page), snakemake.params
    with job(snakemake):
        content = front_page(
            Config.model_validate(params.cfg), Layout(out.parents[1]), params.sheet, pages=set(params.pages)
        )
        with atomic_file(out) as aside:
            aside.write_text(content)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
