"""Renew the generated documentation: the tables of config/README.md and the JSON schema of config.yaml."""

from __future__ import annotations

import argparse

from histomake.cli.checkout import checkout_file
from histomake.config.docs import write_documents


def configure(command: argparse.ArgumentParser) -> None:
    """There are no options."""


def run(options: argparse.Namespace) -> int:
    """Write the files."""
    write_documents(checkout_file("config/README.md").parent)
    return 0
