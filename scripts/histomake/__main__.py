"""Owns the command line: `python -m histomake …`, for what is no rule of the workflow."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def document(_: argparse.Namespace) -> int:
    """Renew the generated parts of config/: the key tables and the JSON schema."""
    from histomake.config.docs import write_documents

    write_documents(REPOSITORY / "config")
    return 0


def trace(options: argparse.Namespace) -> int:
    """Print the chain from one patch's prediction to its slide's bytes; with --verify, check every link."""
    from histomake.audit.lineage import altered, describe, of_other_slides, prediction_row, walk

    path, row = prediction_row(Layout(options.results), options.task, options.slide, options.patch_id)
    # A model's chain holds every slide it was fitted on: thousands of files, told of nowhere and checked on request.
    others = of_other_slides(options.results, options.slide)
    chain = list(walk([path], follow=lambda source: options.verify or not others(source)))
    print(describe(path, row, chain, slide=options.slide))
    if not options.verify:
        return 0
    return _judge(altered(chain) + _altered_store(options.results, options.slide), what=f"{len(chain)} steps")


def verify(options: argparse.Namespace) -> int:
    """Hash stores against their manifests, slides against their stores, and the run records against each other."""
    from histomake.audit.runs import broken_links

    layout = Layout(options.results)
    slides = options.slide or sorted(p.stem for p in layout.manifest("x").parent.glob("*.json") if _is_manifest(p))
    problems = [problem for slide in slides for problem in _altered_store(options.results, slide)]
    return _judge(problems + broken_links(layout), what=f"{len(slides)} slides")


def crate(options: argparse.Namespace) -> int:
    """Export the last run's provenance as an RO-Crate folder."""
    from histomake.audit.ro_crate import write_crate

    print(write_crate(Layout(options.results), REPOSITORY / "Snakefile", options.folder))
    return 0


def _is_manifest(path: Path) -> bool:
    return not path.name.endswith(".meta.json")


def _altered_store(results: Path, slide: str) -> list[str]:
    from histomake.base.files import read_json
    from histomake.slide.verify import verify_slide

    manifest = Layout(results).manifest(slide)
    if not manifest.is_file():
        return [f"{manifest}: missing"]
    source = next(iter(read_json(f"{manifest}.meta.json")["inputs"]), None)
    return verify_slide(manifest, source=Path(source) if source else None)


def _judge(problems: list[str], *, what: str) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{what}: {len(problems)} problem(s)" if problems else f"{what}: every digest holds")
    return 1 if problems else 0


COMMANDS = (crate, document, trace, verify)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    main = argparse.ArgumentParser(prog="python -m histomake", description=__doc__)
    commands = main.add_subparsers(required=True, metavar="command")
    added = {
        function.__name__: commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        for function in COMMANDS
    }
    for name in ("crate", "trace", "verify"):
        added[name].add_argument(
            "--results", type=Path, default=Path("results"), help="results folder (default: results)"
        )
    added["trace"].add_argument("task")
    added["trace"].add_argument("slide")
    added["trace"].add_argument("patch_id", type=int)
    added["trace"].add_argument("--verify", action="store_true", help="hash every file of the chain again")
    added["verify"].add_argument("slide", nargs="*", help="slides to check (default: all)")
    added["crate"].add_argument("folder", type=Path, help="where to write it")
    for function in COMMANDS:
        added[function.__name__].set_defaults(run=function)
    return main


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status says whether all was well."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except HistomakeError as error:
        print(f"histomake: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
