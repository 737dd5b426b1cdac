"""The workflow on a Slurm without an accounting database, as many small clusters are."""

from __future__ import annotations

import json

ACCOUNTING = False


def test_a_run_ends_where_there_is_no_accounting_database(site):
    site.workshop.snakemake(*site.arguments("results/slides/P01-A.json", "results/tissue/P01-A.json"))
    assert json.loads((site.workshop.results / "tissue" / "P01-A.json").read_text())["status"] == "ok"
