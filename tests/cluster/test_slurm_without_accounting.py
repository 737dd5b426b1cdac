"""Test of the workflow on a Slurm without an accounting database, which is common on small clusters."""

from __future__ import annotations

import json

ACCOUNTING = False


def test_a_run_completes_without_an_accounting_database(site):
    site.workshop.snakemake(*site.arguments("results/slides/P01-A.json", "results/tissue/P01-A.json"))
    assert json.loads((site.workshop.results / "tissue" / "P01-A.json").read_text())["status"] == "ok"
