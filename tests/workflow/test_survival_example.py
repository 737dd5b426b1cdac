"""The example configuration of survival, shortened, with as many patients as it needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
import yaml

from tests.demo.cohort import SMALL, build_cohort
from tests.workshop import ROOT, Workshop

pytestmark = pytest.mark.examples

ROLES = ("val", "val", "val", "train", "test", "train", "test", "train", "test", "train")
"""Of each slide in the test of survival, so that in every role the risks of some patients can be compared."""


def test_the_survival_example_runs_whole(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    workshop.copy_code()
    workshop.build_cohort()
    # Four patients are too few for survival in three roles.
    slides = [replace(SMALL[0], slide_id=f"S{number}", patient=20 + number, width=1536) for number in range(len(ROLES))]
    build_cohort(workshop.folder / "demo", slides, untouched=False)
    header, *rows = workshop.rows()
    workshop.write_rows([f"{header}\tsplit", *(f"{row}\t{role}" for row, role in zip(rows, ROLES, strict=True))])
    example = yaml.safe_load((ROOT / "config/examples/survival.yaml").read_text()) | {"results": "results"}
    example["tasks"]["death"]["train"] |= {"steps": 20, "validate_every": 10}
    workshop.config.write_text(yaml.safe_dump(example))
    workshop.snakemake("--resources", "gpu=1")
    record = json.loads((workshop.results / "metrics/death.json").read_text())
    assert record["kind"] == "survival"
    assert set(record["levels"]) == {"patient"}
    measured = record["levels"]["patient"]
    assert measured["metrics"]["all"]["c_index"]["value"] is not None
    assert sum(measured["risk_groups"][group]["count"] for group in ("low", "high")) == ROLES.count("test")
    assert measured["at_horizon"]["time"] > 0
    for name in ("kaplan_meier", "survival_calibration"):
        assert (workshop.results / f"metrics/death/{name}.png").is_file()
    text = (workshop.results / "report/index.html").read_text()
    assert "C-index" in text
    assert "Risk groups" in text
    with duckdb.connect(workshop.results / "catalog.duckdb", read_only=True) as base:
        rows = base.execute("SELECT slide_id, target_time, target_event, score_risk FROM bags_death").fetchall()
    assert len(rows) == ROLES.count("test")
    assert all(event in (0, 1) and time > 0 for _, time, event, _ in rows)
    scores = (workshop.results / "scores/death.tsv").read_text().splitlines()
    assert "score_risk" in scores[0]
