"""The command line ``histomake COMMAND``: everything that is not a rule of the workflow.

Each command is a module of this package with two functions, ``configure(parser)`` and ``run(options) -> int``. Only the
module of the command that is called is imported, so that ``histomake --help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from histomake.base.errors import HistomakeError
from histomake.version import __version__

COMMANDS = {
    "init": "lay out the folder of a new project",
    "doctor": "check what a run needs on this machine",
    "view": "serve the slide viewer on this machine",
    "shell": "query the catalog with SQL",
    "trace": "follow a prediction back to the bytes of its slide",
    "encoder": "write the folder of an encoder",
    "similar": "list the patches most similar to one",
    "prototypes": "group the patches of a cohort by their features",
    "drawn": "draw patches that a training has drawn",
    "extract": "write patches as images, for other programs",
    "import-features": "check features of TRIDENT, CLAM or STAMP against the slides",
    "export-features": "export features as HDF5 or AnnData",
    "export-graph": "export graphs for PyTorch Geometric and QuPath",
    "verify": "hash slides, stores and run records again and compare",
    "export-crate": "export the last run's provenance as an RO-Crate",
    "export-ome-zarr": "export a slide with its masks as one OME-Zarr image for viewers",
    "document": "for developers: renew the generated documentation",
}
"""Summary of every command, in the order of the help."""

EXAMPLES = """\
examples:
  histomake init my-cohort
  histomake doctor --configfile config/config.yaml
  histomake view results
  histomake trace tumour S1 4711 --verify

The workflow itself is run with snakemake; `histomake COMMAND --help` explains a command.
"""


def parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; only that of the ``chosen`` one has its options."""
    main_parser = argparse.ArgumentParser(
        prog="histomake",
        description="Whole-slide images to models, predictions, explanations and an audit trail.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main_parser.add_argument("--version", action="version", version=f"histomake {__version__}")
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:
            module = importlib.import_module(f"histomake.cli.{name.replace('-', '_')}")
            command.description = module.__doc__
            module.configure(command)
            command.set_defaults(run=module.run)
    return main_parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command. The exit status is 0 if all is well, 1 for a problem found, 2 for a wrong command line."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parser(next((word for word in given if word in COMMANDS), None)).parse_args(given)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except HistomakeError as error:
        print(f"histomake: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe, such as head, has exited. Python flushes stdout at exit and would raise the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def add_results(command: argparse.ArgumentParser) -> None:
    """The option that names the results folder, the same for every command that reads one."""
    command.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="results folder of a run (default: results)",
    )
