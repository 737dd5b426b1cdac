"""Check what a run needs on this machine and in this project: one line per check, with a remedy where one is needed.

Start it where snakemake is started. The exit status is 1 if there is a problem; warnings do not count.

examples:
  histomake doctor
  histomake doctor --configfile config/demo/config.yaml
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from histomake.cli import machine_checks
from histomake.cli.findings import Finding, State
from histomake.cli.project_checks import project

MACHINE = (
    machine_checks.python,
    machine_checks.packages,
    machine_checks.library,
    machine_checks.openslide,
    machine_checks.gpu,
    machine_checks.temporary_folder,
    machine_checks.slurm_profile,
    machine_checks.viewer_assets,
)


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument(
        "--configfile",
        type=Path,
        default=Path("config/config.yaml"),
        metavar="FILE",
        help="configuration of the project (default: config/config.yaml)",
    )


def run(options: argparse.Namespace) -> int:
    """Print each finding at once, because some checks take seconds."""
    states = []
    for finding in findings(options.configfile):
        print(finding, flush=True)
        states.append(finding.state)
    print(f"{states.count(State.PROBLEM)} problem(s), {states.count(State.WARNING)} warning(s)")
    return 1 if State.PROBLEM in states else 0


def findings(configfile: Path) -> Iterator[Finding]:
    """The checks of the machine, then those of the project."""
    for check in MACHINE:
        yield check()
    yield from project(configfile)
