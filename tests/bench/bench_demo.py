"""Benchmark of the demo's models on held-out patients. Nothing is timed, so it can run beside other work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml
from histomake.base.records.metrics import MetricsRecord

from tests.bench.figures import Figure
from tests.workshop import ROOT, Workshop

FIGURES = (("tissue_kind", "patch", "auroc", 0.97), ("tissue_map", "pixel", "dice", 0.85))


def run(work: Path) -> list[Figure]:
    """Return patch AUC of the demo's classifier and Dice of the segmentation example, from one run on the cohort."""
    workshop = Workshop(work / "demo")
    workshop.folder.mkdir(exist_ok=True)
    workshop.copy_code()
    command = [sys.executable, "-m", "tests.demo", "demo"]
    subprocess.run(command, cwd=workshop.folder, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, check=True)
    workshop.config.write_text(yaml.safe_dump(both(), sort_keys=False))
    workshop.snakemake(*(f"results/metrics/{task}.json" for task, *_ in FIGURES), timeout=3600)
    return [
        _figure(workshop.results / "metrics" / f"{task}.json", level, metric, bar)
        for task, level, metric, bar in FIGURES
    ]


def both() -> dict:
    """Return the demo's configuration with the task of the segmentation example added, both unchanged."""
    demo, example = (
        yaml.safe_load((ROOT / "config" / path).read_text())
        for path in ("demo/config.yaml", "examples/segmentation.yaml")
    )
    demo["grids"] |= {f"example_{name}": grid for name, grid in example["grids"].items()}
    for name, task in example["tasks"].items():
        demo["tasks"][name] = task | {"grid": f"example_{task['grid']}"}
    return demo | {"results": "results"}


def _figure(metrics: Path, level: str, metric: str, bar: float) -> Figure:
    record = MetricsRecord.read(metrics).levels[level]
    found = record.metrics["all"][metric]
    note = f"{record.patients} patients; 95 % interval {found.low:.3f} to {found.high:.3f}, by patient"
    return Figure(f"demo, held-out patients, {level} {metric}", found.value, f">= {bar}", found.value >= bar, "", note)
