"""List the patches of the cohort that are most similar to one, by the features of an encoder.

examples:
  histomake similar S1 4711 --encoder uni2
  histomake similar S1 4711 --encoder uni2 --elsewhere --count 24 --picture similar.png --results results/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from histomake.base.layout import Layout
from histomake.cli import add_results


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("slide", help="slide_id, as in the sheet")
    command.add_argument("patch_id", type=int, help="patch_id, as in the patch table and the catalog")
    command.add_argument("--encoder", required=True, help="name of the encoder, as in config.yaml")
    command.add_argument("--count", type=int, default=12, help="number of patches (default: 12)")
    command.add_argument("--elsewhere", action="store_true", help="patches of other slides only")
    command.add_argument("--picture", type=Path, metavar="FILE", help="also draw the patches, as PNG")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Print a line per patch, tab-separated; with ``--picture``, draw them."""
    # Imported here, so that `histomake --help` answers at once.
    from histomake.features.search import FeatureCohort, similar

    layout = Layout(options.results)
    cohort = FeatureCohort(layout, options.encoder)
    found = similar(cohort, options.slide, options.patch_id, count=max(1, options.count), elsewhere=options.elsewhere)
    print("slide_id\tpatch_id\tx\ty\tcosine")
    for patch in found:
        print(f"{patch.slide}\t{patch.patch_id}\t{patch.x}\t{patch.y}\t{patch.similarity:.4f}")
    if options.picture:
        from histomake.pictures.canvas import write_picture
        from histomake.pictures.patch_sheet import patch_sheet

        asked = cohort.place(options.slide, options.patch_id)
        places = [(options.slide, asked.x, asked.y, "searched for")]
        places += [(patch.slide, patch.x, patch.y, f"{patch.slide}, {patch.similarity:.3f}") for patch in found]
        title = f"Similar to patch {options.patch_id} of {options.slide}, by {options.encoder}"
        write_picture(patch_sheet(layout, cohort.grid, places, title=title), options.picture)
    return 0
