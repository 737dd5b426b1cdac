"""Compare every file of a results folder with what its job and the run records state of it, and name what differs.

Outputs are hashed and compared with the sidecars of their jobs, stores file by file with their manifests, slides with
the sha256 in their manifests, and sidecars with the records of the runs, which form a chain. Files that are missing and
files that no job has made are named too. --quick compares sizes instead of digests, which proves
little.

examples:
  histomake verify
  histomake verify S1 S2 --results results/demo
  histomake verify --anchor /audit/anchors/my-cohort
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from histomake.audit.verification import Findings, verify
from histomake.base.layout import Layout
from histomake.cli import add_results


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("slide", nargs="*", help="slides to check (default: the whole folder)")
    command.add_argument("--quick", action="store_true", help="compare the sizes of outputs and hash none")
    add_anchor(command)
    add_results(command)


def add_anchor(command: argparse.ArgumentParser) -> None:
    """Add the option that names the anchor."""
    command.add_argument(
        "--anchor", type=Path, metavar="FOLDER", help="folder with the digests of run records (audit.anchor)"
    )


def run(options: argparse.Namespace) -> int:
    """Check the results."""
    progress = _show_progress if sys.stderr.isatty() else lambda done, total: None
    found = verify(
        Layout(options.results), options.slide, anchor=options.anchor, quick=options.quick, progress=progress
    )
    return verdict(found, held="has its size (nothing was hashed)" if options.quick else "has its digest")


def _show_progress(done: int, total: int) -> None:
    print(f"\r{done:,} of {total:,} outputs", end="\n" if done == total else "", file=sys.stderr, flush=True)


def verdict(found: Findings, *, held: str = "has its digest") -> int:
    """Print problems, remarks and a summary; returns the exit status."""
    for problem in found.problems:
        print(problem, file=sys.stderr)
    for remark in found.remarks:
        print(f"note: {remark}", file=sys.stderr)
    if found.problems or not found.outputs:
        print(f"{found.outputs:,} outputs compared: {len(found.problems):,} problem(s)")
        return 1
    print(f"{found.outputs:,} outputs compared: each {held}")
    return 0
