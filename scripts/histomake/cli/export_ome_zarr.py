"""Export a slide with its masks as one OME-Zarr image that viewers open: the masks are in its labels group.

The image levels are linked to the store of the slide where the file system allows it. With `convert.codec: zstd` every
reader of OME-Zarr opens them; copied JPEG tiles need Python with imagecodecs-zarr.

example:
  histomake export-ome-zarr S1 S1.ome.zarr --results results/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from histomake.base.layout import Layout
from histomake.cli import add_results
from histomake.viewer.export import export_slide


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("slide", help="slide of the sheet")
    command.add_argument("folder", type=Path, help="folder to write, which must not exist")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Write the image and print its folder and label images."""
    names = export_slide(Layout(options.results), options.slide, options.folder)
    print(f"{options.folder}: labels {', '.join(names) or 'none'}")
    return 0
