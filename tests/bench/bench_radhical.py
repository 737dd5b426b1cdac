"""Benchmark of the cascade: a complete run of the nuclei example, and all bounds on its test images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.bench.figures import Figure
from tests.demo import nuclei

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "config" / "examples" / "nuclei.yaml"
ALL_IMAGES = ROOT.parent / "shared" / "data" / "nuclei_dsb2018"


def run(work: Path) -> list[Figure]:
    """Train, search and compare from scratch; with all 107 images if they are beside the checkout."""
    found = _example(work / "radhical", nuclei.DATA)
    figures = [_figure(bar) for bar in found["bars"]]
    if ALL_IMAGES.is_dir():
        more = _example(work / "radhical_all", ALL_IMAGES)
        figures += [_figure(bar, note=f"all {len(list(ALL_IMAGES.glob('*.png')))} images") for bar in more["bars"]]
    return figures


def _example(folder: Path, images: Path) -> dict:
    """Run the example on the images of a folder; return its measurements."""
    name = run_example(folder, images, "--forcerun", "radhical_compare", "--", "radhical")
    return json.loads((folder / "results" / "radhical" / name / "metrics.json").read_text())


def trained_example(folder: Path) -> None:
    """Train and search the example in a folder, unless that is done."""
    run_example(folder, nuclei.DATA, "--", str(folder / "results" / "radhical" / "nuclei" / "thresholds.json"))


def run_example(folder: Path, images: Path, *wanted: str) -> str:
    """Run the example on the images of a folder with the last arguments ``wanted``; return the cascade's name."""
    config = yaml.safe_load(EXAMPLE.read_text())
    config |= {"sheet": str(nuclei.build(folder / "slides", images)), "results": str(folder / "results")}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    cores = str(os.cpu_count())
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--cores", cores, "--directory", ROOT]
    command += ["--configfile", folder / "config.yaml", "--quiet", "all", *wanted]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (name,) = config["radhical"]
    return name


def _figure(bar: dict, *, note: str = "") -> Figure:
    return Figure(bar["figure"], bar["value"], bar["bar"], bar["ok"], note=note)
