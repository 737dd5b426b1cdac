"""The example of a cascade of patch classifiers, run whole: searched, deployed, measured and shown."""

from __future__ import annotations

import json

import duckdb
import pyarrow.parquet as pq
import pytest
import yaml

from tests.workshop import ROOT, Workshop

pytestmark = pytest.mark.examples


def example() -> dict:
    """The tasks, grids and cascades of the example, with few steps and a single split."""
    content = yaml.safe_load((ROOT / "config/examples/patch_cascade.yaml").read_text())
    first, *_ = content["tasks"].values()
    first["split"] = {"test": 0.3, "val": 0.2}
    for task in content["tasks"].values():
        task["train"] |= {"steps": 8, "batch": 8, "validate_every": 4, "validate_patches": 32}
    return {key: content[key] for key in ("grids", "tasks", "cascades")}


def test_the_example_of_a_patch_cascade_runs_whole(workshop: Workshop) -> None:
    content = example()
    workshop.write_config(demo_task=False, **content)
    workshop.snakemake("--resources", "gpu=1")
    folder = workshop.results / "cascades" / "nuclei"
    chosen = json.loads((folder / "fold0.thresholds.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert chosen["stages"] == content["cascades"]["nuclei"]["stages"]
    assert chosen["slides"]
    assert metrics["simulated_identical"]
    assert all(slide["seconds_cascade"] > 0 for slide in metrics["slides"])
    assert {(folder / name).is_file() for name in ("front.png", "slides.csv", "fold0.pareto.png")} == {True}
    predicted = sorted(folder.glob("fold0/*.parquet"))
    assert predicted
    for path in predicted:
        assert path.with_suffix(".png").is_file()
        page = (workshop.results / "report/slides" / f"{path.stem}.html").read_text()
        assert "Cascade nuclei, fold 0" in page
    rows = sum(pq.read_metadata(path).num_rows for path in predicted)
    with duckdb.connect(workshop.results / "catalog.duckdb", read_only=True) as base:
        assert base.execute("SELECT count(*) FROM cascade_nuclei").fetchone() == (rows,)
    assert "Simulated and deployed decisions are identical" in (workshop.results / "report/index.html").read_text()


def test_a_cascade_of_different_patients_is_refused_before_any_job(workshop: Workshop) -> None:
    content = example()
    *_, last = content["tasks"].values()
    last["split"] = {"test": 0.5, "val": 0.3}  # more patients to test than the first stage has
    workshop.write_config(**content)
    done = workshop.snakemake("--dry-run", check=False)
    assert done.returncode
    # Snakemake prints the errors of a dry run to stdout.
    assert "cascade nuclei" in done.stdout
    assert "different roles in the tasks of its stages" in done.stdout
