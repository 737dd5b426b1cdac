"""Rule contact: random kept and excluded patches of one slide and grid, with the reasons."""

from pathlib import Path

from histomake.job import job
from histomake.patch.contact import contact_sheet, no_contact_sheet
from histomake.patch.table import read_table
from histomake.slide.reader import open_slide


def main(snakemake):
    given, params, picture = snakemake.input, snakemake.params, snakemake.output.picture
    with job(snakemake):
        table, metadata = read_table(given.table)
        if metadata["status"] != "ok":
            no_contact_sheet(metadata, picture)
        else:
            with open_slide(Path(given.manifest)) as reader:
                contact_sheet(reader, table, metadata, picture, patches=params.patches, seed=params.seed)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
