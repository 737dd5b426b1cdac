"""Export the last run as an RO-Crate, the exchange format for provenance: its record, metrics, models and lineage.

Slides and stores are named by their sha256 and stay where they are.

example:
  histomake export-crate run-crate --results results/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from histomake.audit.ro_crate import write_crate
from histomake.base.layout import Layout
from histomake.cli import add_results
from histomake.cli.checkout import checkout_file


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("folder", type=Path, help="folder to write the crate into")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Write the crate and print its folder."""
    print(write_crate(Layout(options.results), checkout_file("Snakefile"), options.folder))
    return 0
