"""Check what a run needs on this machine and in this project: one line per check, with a remedy where one is needed.

Start it where snakemake is started. The exit status is 1 if there is a problem; warnings do not count. Slides are
opened as a run opens them, without converting them.

examples:
  histomake doctor
  histomake doctor --configfile config/demo/config.yaml
  histomake doctor --json > doctor.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from histomake.cli import machine_checks
from histomake.cli.findings import Finding, State
from histomake.cli.project_checks import project

MACHINE = (
    machine_checks.python,
    machine_checks.packages,
    machine_checks.library,
    machine_checks.snakemake,
    machine_checks.openslide,
    machine_checks.codecs,
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
    command.add_argument("--json", action="store_true", help="print all findings as one JSON object, at the end")


def run(options: argparse.Namespace) -> int:
    """Print each finding at once, because some checks take seconds; as JSON, all together."""
    found = []
    for finding in findings(options.configfile):
        found.append(finding)
        if not options.json:
            print(finding, flush=True)
    states = [finding.state for finding in found]
    problems, warnings = states.count(State.PROBLEM), states.count(State.WARNING)
    if options.json:
        listed = [dataclasses.asdict(finding) for finding in found]
        print(json.dumps({"problems": problems, "warnings": warnings, "findings": listed}, indent=1))
    else:
        print(f"{problems} problem(s), {warnings} warning(s)")
    return 1 if problems else 0


def findings(configfile: Path) -> Iterator[Finding]:
    """The checks of the machine, then those of the project."""
    for check in MACHINE:
        yield check()
    yield from project(configfile)
