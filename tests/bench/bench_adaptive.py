"""Benchmark of a patch cascade: small lesions on large slides, against the finest stage alone on held-out patients."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import yaml

from tests.bench.figures import Figure
from tests.bench.lesions import LesionSlide
from tests.bench.slides import MPP
from tests.demo.__main__ import write_encoder
from tests.workshop import ROOT, Workshop

SIDE = 24_576
SHARES = {"train": (0.05, 0.1), "val": (0.01, 0.1), "test": (0.002, 0.01, 0.1)}
"""Share of the tissue that is lesion, for each slide of a role. Every slide is one patient."""

SOONER = {0.01: 8.0, 0.1: 3.0}
"""Smallest accepted ratio of times, by share of lesion."""

MAX_LOSS = 0.01


def run(work: Path) -> list[Figure]:
    """Train both stages, search thresholds, and compare the cascade with its finest stage alone."""
    slides = lesion_slides(SIDE)
    workshop = Workshop(work / "adaptive")
    shutil.rmtree(workshop.folder / "results", ignore_errors=True)
    workshop.folder.mkdir(parents=True, exist_ok=True)
    workshop.copy_code()
    write_encoder(workshop.folder / "demo" / "encoders" / "efficientnet-lite0")
    write_sheet(workshop.folder, slides)
    workshop.config.write_text(yaml.safe_dump(configuration()))
    workshop.snakemake("--", "all_cascades", timeout=3600)
    found = json.loads((workshop.results / "cascades" / "lesion" / "metrics.json").read_text())
    return figures(found, slides)


def lesion_slides(side: int) -> list[LesionSlide]:
    """Return the slides of all roles."""
    planned = [(role, share) for role, shares in SHARES.items() for share in shares]
    return [LesionSlide(f"{role}-{share}", role, share, side, n) for n, (role, share) in enumerate(planned)]


def write_sheet(folder: Path, slides: list[LesionSlide]) -> None:
    """Write the slides that are not there yet, and their sheet."""
    with (folder / "slides.tsv").open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(("slide_id", "path", "patient_id", "annotation", "mpp", "split"))
        for slide in slides:
            path, annotation = slide.write(folder)
            writer.writerow((slide.name, path, slide.name, annotation, MPP, slide.role))


def configuration() -> dict:
    """Return that of the example of patch cascades, with lesions in place of nuclei."""
    config = yaml.safe_load((ROOT / "config" / "examples" / "patch_cascade.yaml").read_text())
    low, high = config["tasks"].values()
    for task in (low, high):
        task["target"]["classes"] = ["lesion"]
        task["predict"] = {"roles": ["val", "test"]}
        del task["split"]
    cascade = config["cascades"]["nuclei"] | {"class_name": "lesion", "stages": ["low", "high"]}
    return config | {
        "sheet": "slides.tsv",
        "results": "results",
        "annotations": {"classes": {"lesion": "lesion"}},
        "tasks": {"low": low, "high": high},
        "cascades": {"lesion": cascade},
    }


def figures(found: dict, slides: list[LesionSlide]) -> list[Figure]:
    """Return the figures of the metrics of the cascade."""
    shares = {slide.name: slide.share for slide in slides}
    rows = []
    for slide in sorted(found["slides"], key=lambda one: shares[one["slide_id"]]):
        share, sooner = shares[slide["slide_id"]], slide["seconds_dense"] / slide["seconds_cascade"]
        bar = SOONER.get(share, 1.0)
        stages = ", ".join(
            f"{s['task']} {s['computed']:,} of {s['patches']:,}, {s['seconds']:.1f} s" for s in slide["stages"]
        )
        note = f"{slide['seconds_dense']:.1f} s and {slide['seconds_cascade']:.1f} s; {stages}"
        rows.append(Figure(f"cascade: sooner at {share:.1%} lesion", sooner, f">= {bar:g}", sooner >= bar, "x", note))
    lost = found["metrics"]["auroc"]["lost"]
    note = f"95 % interval {lost['low']:.4f} to {lost['high']:.4f}, {found['patients']} patients"
    identical = found["simulated_identical"]
    return [
        *rows,
        Figure("cascade: AUROC lost", lost["value"], f"<= {MAX_LOSS}", lost["value"] <= MAX_LOSS, "", note),
        Figure("cascade: simulated = deployed", float(identical), "= 1", identical),
    ]
