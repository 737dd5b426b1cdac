"""Group the patches of the cohort by their features, and draw those nearest to the centre of each group.

Writes prototype_<n>.png, the largest group first, and prototypes.tsv with the share of each group.

example:
  histomake prototypes --encoder uni2 --count 12 --folder prototypes --results results/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from histomake.base.layout import Layout
from histomake.cli import add_results


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("--encoder", required=True, help="name of the encoder, as in config.yaml")
    command.add_argument("--count", type=int, default=12, help="number of groups (default: 12)")
    command.add_argument("--patches", type=int, default=18, help="patches drawn of each group (default: 18)")
    command.add_argument("--seed", type=int, default=0, help="seed of the sample and of the grouping (default: 0)")
    command.add_argument("--folder", type=Path, required=True, help="folder to write")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Write the pictures and the table."""
    from histomake.base.files import atomic_file
    from histomake.features.search import FeatureCohort, prototypes
    from histomake.pictures.canvas import write_picture
    from histomake.pictures.patch_sheet import patch_sheet

    layout = Layout(options.results)
    cohort = FeatureCohort(layout, options.encoder)
    found = prototypes(cohort, count=max(1, options.count), patches=max(1, options.patches), seed=options.seed)
    options.folder.mkdir(parents=True, exist_ok=True)
    lines = ["prototype\tshare\tslides"]
    for number, group in enumerate(found, 1):
        places = [(patch.slide, patch.x, patch.y, f"{patch.slide}, {patch.similarity:.3f}") for patch in group.patches]
        title = f"Prototype {number} by {options.encoder}: {group.share:.1%} of the patches, {group.slides} slides"
        picture = patch_sheet(layout, cohort.grid, places, title=title)
        write_picture(picture, options.folder / f"prototype_{number}.png")
        lines.append(f"{number}\t{group.share:.4f}\t{group.slides}")
    with atomic_file(options.folder / "prototypes.tsv") as aside:
        aside.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0
