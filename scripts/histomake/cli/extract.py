"""Write kept patches as images, for programs that read folders of pictures. The workflow itself needs none.

FOLDER gets an image {slide}/{x}_{y}.png of each patch, and patches.tsv with its row of the patch table.

examples:
  histomake extract patches --grid x20 --slide S1
  histomake extract patches --grid x20 --most 200 --format jpg --results results/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from histomake.base.errors import HistomakeError
from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.cli import add_results


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("folder", type=Path, help="folder to write; it must not exist, or be empty")
    command.add_argument("--grid", required=True, help="name of the grid, as in config.yaml")
    command.add_argument("--slide", action="append", help="only this slide; may be repeated")
    command.add_argument("--most", type=int, help="at most this many patches of each slide, at random (default: all)")
    command.add_argument("--seed", type=int, default=0, help="seed of the choice (default: 0)")
    command.add_argument("--format", choices=("png", "jpg"), default="png", help="jpg is smaller, with loss")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Write the images and the table, and print a line per slide."""
    from histomake.pictures.patch_files import write_patches

    layout = Layout(options.results)
    known = [path.stem for path in existing(layout.table(options.grid, "*"), under=layout.results)]
    slides = options.slide or known
    missing = ", ".join(sorted({*slides} - {*known})) or (not slides and "any slide")
    if missing:
        raise HistomakeError(f"{layout.results} has no patches on the grid {options.grid!r} of {missing}")
    if options.folder.exists() and any(options.folder.iterdir()):
        raise HistomakeError(f"{options.folder} is not empty; name another folder")
    for slide, count in write_patches(
        layout,
        options.grid,
        slides,
        options.folder,
        most=options.most,
        seed=options.seed,
        suffix=options.format,
    ):
        print(f"{slide}: {count} patches")
    return 0
