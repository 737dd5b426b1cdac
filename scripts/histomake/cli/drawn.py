"""Draw patches that a training has drawn, at some of its batches. The task needs train.audit: true.

examples:
  histomake drawn tumour drawn.png
  histomake drawn tumour drawn.png --fold 2 --batch 0 --batch 500 --batch 9999 --patches 12 --results results/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from histomake.base.layout import Layout
from histomake.cli import add_results


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("task", help="name of the task, as in config.yaml")
    command.add_argument("picture", type=Path, help="PNG to write")
    command.add_argument("--fold", type=int, default=0, help="fold of the model (default: 0)")
    command.add_argument(
        "--batch", type=int, action="append", help="number of a batch, from 0; may be repeated (default: first to last)"
    )
    command.add_argument("--patches", type=int, default=12, help="patches of each batch (default: 12)")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Write the picture."""
    from histomake.pictures.canvas import write_picture
    from histomake.pictures.drawn_sheet import drawn_sheet

    layout, patches = Layout(options.results), max(1, options.patches)
    write_picture(
        drawn_sheet(layout, options.task, options.fold, batches=options.batch, patches=patches), options.picture
    )
    print(options.picture)
    return 0
