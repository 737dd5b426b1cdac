"""Lay out the folder of a new project: a configuration, a sheet, and a Snakefile that uses this checkout.

The folder of an encoder with ImageNet weights is written too, from an installed package, so that training and features
start from real weights.

The sheet lists the slides in the folder, or in the one given with --slides, each with the annotation that has its name
(S1.svs with S1.xml or S1_mask.png). Whose slides they are is not guessed: enter the patient_id, or give a pattern that
finds it in the names of the slides. Nothing that exists is overwritten: if one of the files is there, none is written.

examples:
  histomake init my-cohort
  histomake init my-cohort --slides /data/slides --patient "^TCGA-..-...."
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from importlib.resources import files
from pathlib import Path

from histomake.base.errors import HistomakeError
from histomake.cli.checkout import CHECKOUT, checkout_file
from histomake.cli.slide_folder import FoundSlides, find_slides

SHEET = "config/slides.tsv"

ENCODER = "encoders/efficientnet-lite0"
"""Folder of the encoder with ImageNet weights, which the template of the configuration names."""

FILES = {
    "Snakefile": "Snakefile",
    "config/config.yaml": "config.yaml",
    SHEET: "slides.tsv",
    ".gitignore": "gitignore",
}
"""Files of a project, and the templates they are made from."""

PROFILE = "profiles/default/profile.v9+.yaml"
"""Settings that every run needs; Snakemake does not take them over from the workflow that a module uses."""

NEXT = """\
{folder}: laid out, with {slides} slides in the sheet. Next:
  1. {sheet} {folder}/config/slides.tsv
  2. name annotation classes and tasks in {folder}/config/config.yaml
  3. cd {folder} && histomake doctor && snakemake --cores all
     (snakemake --cores all preprocess makes stores, tissue masks and patch tables, and needs no task)"""


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("folder", type=Path, help="folder of the project; it may exist and hold the slides")
    command.add_argument("--slides", type=Path, metavar="FOLDER", help="folder of the slides, if it is another one")
    command.add_argument(
        "--patient",
        type=_pattern,
        metavar="PATTERN",
        help="regular expression that finds the patient in a slide's name",
    )


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None


def run(options: argparse.Namespace) -> int:
    """Write the files, then print the next steps and what could not be derived from the names of the files."""
    slides = options.slides or options.folder
    if options.slides and not slides.is_dir():
        raise HistomakeError(f"{slides} is not a folder; give that of the slides")
    found = find_slides(slides, project=options.folder, patient=options.patient)
    lay_out(options.folder, found)
    write_encoder(options.folder / ENCODER)
    for question in found.open_questions:
        print(f"left open: {question}")
    without = sum(not row["patient_id"] for row in found.rows)
    todo = f"enter the patient_id of {without} slides in" if without else "check the slides in"
    sheet = todo if found.rows else "list your slides in"
    print(NEXT.format(folder=options.folder, slides=len(found.rows), sheet=sheet))
    return 0


def lay_out(folder: Path, slides: FoundSlides | None = None) -> None:
    """Write the files of a project. Raises HistomakeError if one of them exists, and then writes none."""
    templates = files("histomake.cli") / "project"
    contents = {
        name: (templates / template).read_text().replace("@CHECKOUT@", str(CHECKOUT))
        for name, template in FILES.items()
    }
    contents[SHEET] = _with_rows(contents[SHEET], slides or FoundSlides())
    contents[PROFILE] = checkout_file(PROFILE).read_text()
    present = [name for name in contents if (folder / name).exists()]
    if present:
        raise HistomakeError(f"{folder} already has {', '.join(present)}: choose another folder, or remove them first")
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def write_encoder(folder: Path) -> None:
    """Write the folder of an encoder, unless it is there; say so if this machine does not have its weights."""
    if folder.exists():
        return
    # Imported here, because torch takes seconds.
    from histomake.model.encoder_folder import write_efficientnet_lite0

    try:
        write_efficientnet_lite0(folder)
    except HistomakeError as error:
        print(f"left open: no encoder with real weights: {error}. Without one, training starts from random weights")


def _with_rows(sheet: str, slides: FoundSlides) -> str:
    """The empty sheet with a row for every slide."""
    text = io.StringIO(sheet)
    text.seek(0, io.SEEK_END)
    writer = csv.DictWriter(text, sheet.split(), delimiter="\t", lineterminator="\n")
    writer.writerows(slides.rows)
    return text.getvalue()
