"""Print where a patch's prediction came from: every step from the prediction back to the sha256 of the slide.

examples:
  histomake trace tumour S1 4711
  histomake trace tumour S1 4711 --verify --results results/demo
"""

from __future__ import annotations

import argparse

from histomake.audit.lineage import describe, of_other_slides, prediction_row, walk
from histomake.audit.verification import verify_chain
from histomake.base.layout import Layout
from histomake.cli import add_results
from histomake.cli.verify import add_anchor, verdict


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("task", help="name of the task, as in config.yaml")
    command.add_argument("slide", help="slide_id, as in the sheet")
    command.add_argument("patch_id", type=int, help="patch_id, as in the patch table and the catalog")
    command.add_argument("--verify", action="store_true", help="hash every file of the chain again and compare")
    add_anchor(command)
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Print the chain; with ``--verify``, check every link."""
    layout = Layout(options.results)
    path, row = prediction_row(layout, options.task, options.slide, options.patch_id)
    # The chain of a model holds every slide it was trained on: thousands of files, hashed on request, never printed.
    others = of_other_slides(layout, options.slide)
    chain = list(walk([path], follow=lambda source: options.verify or not others(source)))
    print(describe(path, row, chain, slide=options.slide))
    if not options.verify:
        return 0
    return verdict(verify_chain(layout, options.slide, chain, anchor=options.anchor))
