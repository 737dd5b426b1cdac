"""Owns the command line: `python -m histomake …`, for what is no rule of the workflow."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from histomake.errors import HistomakeError

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def document(_: argparse.Namespace) -> int:
    """Renew the generated parts of config/: the key tables and the JSON schema."""
    from histomake.document import write_documents

    write_documents(REPOSITORY / "config")
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    main = argparse.ArgumentParser(prog="python -m histomake", description=__doc__)
    commands = main.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("document", help=document.__doc__)
    command.set_defaults(run=document)
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
