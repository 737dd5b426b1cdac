"""Command ``python -m tests.demo FOLDER [--small]``: create the demo cohort and the folder of its encoder."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from tests.demo.cohort import COHORT, DIED, MONTHS, RICH, ROLES, SHARE, SMALL, build_cohort

MADE = Path(__file__).parents[2] / "encoders" / "efficientnet-lite0"
"""The same encoder, which `make env` has written."""


def write_encoder(folder: Path) -> None:
    """Write the folder of EfficientNet-Lite0 with ImageNet weights, unless it exists."""
    if (folder / "model.json").is_file():
        return
    if (MADE / "model.json").is_file():
        aside = folder.with_suffix(".partial")
        shutil.copytree(MADE, aside, dirs_exist_ok=True)
        aside.replace(folder)
        return
    # Imported here, because torch takes seconds.
    from histomake.model.encoder_folder import write_efficientnet_lite0

    write_efficientnet_lite0(folder)


def main() -> None:
    """Write slides, annotations, an encoder's folder and two sheets into FOLDER, with the same bytes every time."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="five slides of about 2,000 pixels, for the tests")
    arguments = parser.parse_args()
    write_encoder(arguments.folder / "encoders" / "efficientnet-lite0")
    slides = SMALL if arguments.small else COHORT
    stamp = arguments.folder / ".recipe.json"
    recipe = json.dumps(
        {
            "folder": str(arguments.folder),
            "slides": [repr(slide) for slide in slides],
            "labels": [RICH, SHARE, MONTHS, DIED],
            "roles": ROLES,
        }
    )
    if stamp.exists() and stamp.read_text() == recipe:
        return
    sheet = build_cohort(arguments.folder, slides, untouched=not arguments.small)
    stamp.write_text(recipe)
    print(f"demo cohort: {sheet}")


if __name__ == "__main__":
    main()
