"""Check features that TRIDENT, CLAM or STAMP extracted against the slides of a run, and say how to use them.

FOLDER has one HDF5 file per slide, named as the slide in the sheet. Each is compared with the slide and the patches of
the grid: the size of the patches, coordinates off the slide or of another level, kept patches without a vector, values
that are not finite. Features that fit are used by a run with the lines that are printed; the job of each slide checks
its file again and records its bytes.

example:
  histomake import-features trident/features_uni_v2 --grid x20 --results results/demo
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from histomake.base.errors import HistomakeError
from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.cli import add_results


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("folder", type=Path, help="folder with a file S1.h5 for every slide S1")
    command.add_argument("--grid", required=True, help="name of the grid whose patches were encoded")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Print a line per slide; the exit status is 1 if a file does not fit."""
    from histomake.config import Encoder
    from histomake.features.imported import import_slide
    from histomake.learn.data.patch_index import SlideEntry

    layout = Layout(options.results)
    tables = list(existing(layout.table(options.grid, "*"), under=layout.results))
    if not tables:
        raise HistomakeError(
            f"{layout.results} has no patches of grid {options.grid}; run `snakemake preprocess` first"
        )
    encoder = Encoder(grid=options.grid, name=f"h5:{options.folder}")
    refused = 0
    with tempfile.TemporaryDirectory() as scratch:
        for table in tables:
            slide = table.stem
            entry = SlideEntry.at(layout, options.grid, slide, "", {})
            try:
                import_slide(encoder, entry, Path(scratch) / "f.arrow", name="imported", code="", made_of="")
            except HistomakeError as error:
                refused += 1
                print(f"{slide}\trefused\t{error}")
            else:
                print(f"{slide}\tfits")
    print(f"{len(tables) - refused} of {len(tables)} slides fit. In the configuration:")
    print(f'encoders:\n  imported: {{grid: {options.grid}, name: "h5:{options.folder}"}}')
    return 1 if refused else 0
