"""Lay out the folder of a new project: a configuration, an empty sheet, and a Snakefile that uses this checkout.

Nothing that exists is overwritten: if one of the files is there, none is written.

example:
  histomake init my-cohort
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from histomake.base.errors import HistomakeError
from histomake.cli.checkout import CHECKOUT, checkout_file

FILES = {
    "Snakefile": "Snakefile",
    "config/config.yaml": "config.yaml",
    "config/slides.tsv": "slides.tsv",
    ".gitignore": "gitignore",
}
"""Files of a project, and the templates they are made from."""

PROFILE = "profiles/default/profile.v9+.yaml"
"""Settings that every run needs; Snakemake does not take them over from the workflow that a module uses."""

NEXT = """\
{folder}: laid out. Next:
  1. list your slides in {folder}/config/slides.tsv
  2. name annotation classes and tasks in {folder}/config/config.yaml
  3. cd {folder} && histomake doctor && snakemake --cores all"""


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("folder", type=Path, help="folder to create; it may exist")


def run(options: argparse.Namespace) -> int:
    """Write the files and print the next steps."""
    lay_out(options.folder)
    print(NEXT.format(folder=options.folder))
    return 0


def lay_out(folder: Path) -> None:
    """Write the files of a project. Raises HistomakeError if one of them exists, and then writes none."""
    templates = files("histomake.cli") / "project"
    contents = {
        name: (templates / template).read_text().replace("@CHECKOUT@", str(CHECKOUT))
        for name, template in FILES.items()
    }
    contents[PROFILE] = checkout_file(PROFILE).read_text()
    present = [name for name in contents if (folder / name).exists()]
    if present:
        raise HistomakeError(f"{folder} already has {', '.join(present)}: choose another folder, or remove them first")
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
