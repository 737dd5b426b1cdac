"""Hash again what was recorded, and name every file that differs.

Slide stores are compared with their manifests, slides with the sha256 in their manifests, all other outputs with the
digests in the sidecars of their jobs, and the records of the runs, which form a chain, with one another.

examples:
  histomake verify
  histomake verify S1 S2 --results results/demo
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from histomake.audit.lineage import altered, sidecars
from histomake.audit.runs import broken_links
from histomake.audit.sidecar import SIDECAR
from histomake.base.layout import Layout
from histomake.base.records.sidecar import Sidecar
from histomake.cli import add_results
from histomake.slide.verify import verify_slide


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("slide", nargs="*", help="slides to check (default: all that were converted)")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Check the slides, what was made of them, and the run records."""
    layout = Layout(options.results)
    manifests = layout.manifest("any").parent.glob("*.json")
    slides = options.slide or sorted(path.stem for path in manifests if not path.name.endswith(SIDECAR))
    problems = [problem for slide in slides for problem in altered_store(options.results, slide)]
    stated = (s for s in sidecars(layout) if not options.slide or s.wildcards.get("slide") in options.slide)
    return verdict(problems + altered(stated) + broken_links(layout), what=f"{len(slides)} slides")


def altered_store(results: Path, slide: str) -> list[str]:
    """What differs between a slide's store, its manifest and, where it still exists, its source file."""
    manifest = Layout(results).manifest(slide)
    if not manifest.is_file():
        return [f"{manifest}: missing"]
    source = next(iter(Sidecar.read(f"{manifest}{SIDECAR}").inputs), None)
    return verify_slide(manifest, source=Path(source) if source else None)


def verdict(problems: list[str], *, what: str) -> int:
    """Print the problems and their number; returns the exit status."""
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{what}: {len(problems)} problem(s)" if problems else f"{what}: every digest holds")
    return 1 if problems else 0
