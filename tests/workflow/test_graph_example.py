"""The example of tasks on graphs, run whole: edges tell arrangements of cells that nodes alone do not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workshop import ROOT, Workshop

pytestmark = pytest.mark.examples


def test_the_graph_example_runs_whole(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    workshop.copy_code()
    example = yaml.safe_load((ROOT / "config/examples/graph.yaml").read_text())
    folder = workshop.folder / "demo" / "arrangement"
    subprocess.run([sys.executable, "-m", "tests.demo.arrangement", str(folder)], cwd=ROOT, check=True)
    workshop.config.write_text(yaml.safe_dump(example))
    workshop.snakemake("--resources", "gpu=1")
    results = workshop.folder / "results" / "graph"
    metrics = json.loads((results / "metrics/arrangement.json").read_text())
    area = metrics["levels"]["slide"]["metrics"]["all"]["auroc"]["value"]
    others = {name: found["slide"]["metrics"]["all"]["auroc"]["value"] for name, found in metrics["baselines"].items()}
    assert area >= 0.95
    assert max(others["without_edges"], others["rewired_edges"]) < area
    without_features = metrics["importance"]["all"]["among_slides"]["slide"]["auroc"]
    assert without_features["permuted"] < 0.75
    assert len(list((results / "views/arrangement").glob("fold*/*/graph.jpg"))) == 24
    assert "The edges add to what is known of the nodes alone" in (results / "report/index.html").read_text()
