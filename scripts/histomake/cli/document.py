"""Renew the generated documentation: config/README.md's tables, config.yaml's JSON schema and docs/records.md."""

from __future__ import annotations

import argparse

from histomake.base.records.documentation import write_page
from histomake.cli.checkout import checkout_file
from histomake.config.docs import write_documents


def configure(command: argparse.ArgumentParser) -> None:
    """There are no options."""


def run(options: argparse.Namespace) -> int:
    """Write the files."""
    config = checkout_file("config/README.md").parent
    write_documents(config)
    write_page(config.parent / "docs")
    return 0
