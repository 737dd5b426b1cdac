"""Benchmark of the whole chain, from the sheet to the report: slides per hour, by stage, and a day of 500 slides.

Slides of several sizes are predicted with a model that exists: ResNet-18 of random weights, since only time counts.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb
import yaml
from histomake.base.records.sidecar import Sidecar

from tests import sample_records
from tests.bench.figures import Figure
from tests.bench.slides import big_slide
from tests.workshop import Workshop

SIDES = (4096, 8192, 16384, 24576)
COPIES = 6
"""Slides of each size. Each has a few bytes of its own behind its pixels, so that no two are the same file."""
CORES = 2
GRID = {"mpp": 2.0, "size": 256}
MODEL = {"name": "resnet18"}
CLASSES = ["one", "other"]

STAGES: Mapping[str, tuple[str, ...]] = {
    "convert": ("convert",),
    "annotate": ("annotate",),
    "tissue and artefacts": ("presegment", "quality"),
    "patch tables": ("tabulate_patches",),
    "prediction": ("predict_slide",),
    "pictures": ("overview", "views", "views_with_confidence", "region", "export_qupath"),
    "pages of slides": ("slide_page",),
}
"""Rules with a job per slide; all others are aggregates."""

LEFT_OUT = {"models", "slides"}
"""Folders of results whose size is not counted."""
WANTED = 500
NODE_CORES = 16
GPU_PATCHES = 13_500.0
"""Patches a second that 15 loaders decode for ResNet-18 on one H200 (docs/benchmarks.md), which waits for them."""
GPU_START = 10.0
"""Seconds in which a job on a GPU imports its libraries and loads its model; assumed, not measured."""


class Spent(NamedTuple):
    """What one run took: seconds, and core seconds, which are wall time times threads, by stage and of aggregates."""

    wall: float
    planning: float
    stages: Mapping[str, float]
    jobs: Mapping[str, int]
    aggregates: float
    patches: int
    megabytes: float

    @property
    def busy(self) -> float:
        """Core seconds of all jobs."""
        return sum(self.stages.values()) + self.aggregates


def run(work: Path) -> list[Figure]:
    """Run the chain once on new slides, and extrapolate it to a day's slides on two cores, and on 16 with a GPU."""
    spent = measure(build(work))
    slides = len(SIDES) * COPIES
    hourly = slides / spent.wall * 3600
    share = spent.busy / CORES / spent.wall
    note = f"{slides} slides in {spent.wall:.0f} s, {spent.patches:,} kept patches, planning {spent.planning:.1f} s"
    figures = [
        figure("chain: slides an hour and core", hourly / CORES, "", note),
        figure("chain: share of the cores that jobs have", share, "", "the rest: planning, scheduling, end"),
        figure("chain: results without stores and model", spent.megabytes, "MB", "tables, pictures, pages"),
    ]
    for stage, seconds in spent.stages.items():
        note = f"{spent.jobs[stage]} jobs, {seconds / spent.busy:.0%} of all jobs"
        figures.append(figure(f"chain: {stage}, core seconds a slide", seconds / slides, "s", note))
    note = f"{spent.aggregates / spent.busy:.0%} of all jobs"
    figures.append(figure("chain: aggregates, core seconds", spent.aggregates, "s", note))
    return [*figures, *day(spent, slides)]


def day(spent: Spent, slides: int) -> list[Figure]:
    """Hours for a day's slides: on the cores that were measured, and by Amdahl on one node with a GPU.

    Jobs of slides are divided by the cores. Prediction waits for the one GPU and runs beside the others, so that the
    longer of both counts. Serial is the wall time that jobs of slides do not explain: planning, scheduling, aggregates.
    It is mostly a start that does not grow (the group scale measures aggregates of 10,000 slides). The note says what
    would be if all of it grew with the number of slides, which is the worst case.
    """
    factor, of_slides = WANTED / slides, sum(spent.stages.values())
    serial = max(spent.wall - of_slides / CORES, 0.0)
    cores = factor * (of_slides - spent.stages["prediction"]) / NODE_CORES
    gpu = factor * (spent.patches / GPU_PATCHES + GPU_START * slides)
    figures = []
    for place, parallel, note in (
        (f"{CORES} cores", factor * of_slides / CORES, ""),
        (f"{NODE_CORES} cores and a GPU, by Amdahl", max(cores, gpu), f"cores {cores:.0f} s, GPU {gpu:.0f} s, "),
    ):
        worst = (parallel + factor * serial) / 3600
        note += f"serial {serial:.0f} s; {worst:.1f} h if that grew with the slides"
        figures.append(figure(f"chain: {WANTED} slides on {place}", (parallel + serial) / 3600, "h", note))
    return figures


def figure(name: str, value: float, unit: str, note: str) -> Figure:
    """A figure without a bound."""
    return Figure(name, value, "", True, unit, note)


def build(work: Path) -> Workshop:
    """A workshop with a sheet of new slides, a model and no results."""
    folder = work / "chain"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "demo" / "slides").mkdir(parents=True)
    workshop = Workshop(folder)
    workshop.copy_code()
    rows = ["slide_id\tpath\tpatient_id\tsplit"]
    for side in SIDES:
        source = big_slide(work, side)
        for copy in range(COPIES):
            name = f"S{side}-{copy}"
            target = folder / "demo" / "slides" / f"{name}.svs"
            shutil.copyfile(source, target)
            with target.open("ab") as stream:
                stream.write(name.encode())
            rows.append(f"{name}\tdemo/slides/{target.name}\t{name}\tpredict")
    workshop.write_rows(rows)
    write_model(folder / "model")
    task = {"kind": "classification", "grid": "x5", "target": {"classes": CLASSES}, "model": MODEL, "trained": "model"}
    content = {
        "sheet": "demo/slides.tsv",
        "results": "results",
        "annotations": {"classes": {name: name for name in CLASSES}},
        "grids": {"x5": GRID},
        "tasks": {"kind": task},
    }
    workshop.config.write_text(yaml.safe_dump(content, sort_keys=False))
    return workshop


def write_model(folder: Path) -> None:
    """Write a ResNet-18 of random weights as a model that exists."""
    import torch
    from histomake.base.files import sha256_file
    from histomake.base.kinds import Kind
    from histomake.base.records.model_card import ModelGrid
    from histomake.base.tensors import write_tensors
    from histomake.config import Model
    from histomake.model.build import build_model

    folder.mkdir()
    torch.manual_seed(0)
    network = build_model(Model(**MODEL), kind=Kind.CLASSIFICATION, outputs=len(CLASSES), size=GRID["size"])
    write_tensors(folder / "model.safetensors", network.state_dict())
    sample_records.model_card(
        class_names=CLASSES,
        architecture=Model(**MODEL).dump(),
        target={"classes": CLASSES},
        grid=ModelGrid(name="x5", size=GRID["size"], mpp=GRID["mpp"]),
        weights_sha256=sha256_file(folder / "model.safetensors"),
    ).write(folder / "model.json")


def measure(workshop: Workshop) -> Spent:
    """Run the workflow to the end and read what its jobs took."""
    planning = watched(workshop, "--dry-run", "--quiet")
    wall = watched(workshop)
    threads = {}
    for path in workshop.results.rglob("*.meta.json"):
        sidecar = Sidecar.read(path)
        threads[sidecar.rule] = sidecar.threads
    of_rule = {rule: stage for stage, rules in STAGES.items() for rule in rules}
    stages, jobs = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0)
    aggregates, folder = 0.0, workshop.results / "benchmarks"
    for path in folder.rglob("*.tsv"):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        # Rules derived from another one keep its benchmarks, and begin with its name.
        seconds = read_benchmark(path) * max(n for name, n in threads.items() if name.startswith(rule))
        if stage := of_rule.get(rule):
            stages[stage] += seconds
            jobs[stage] += 1
        else:
            aggregates += seconds
    with duckdb.connect(workshop.results / "catalog.duckdb", read_only=True) as catalog:
        (patches,) = catalog.execute("SELECT count(*) FROM patches_x5_kept").fetchone()
    size = sum(p.stat().st_size for p in workshop.results.rglob("*") if p.is_file() and not LEFT_OUT & {*p.parts})
    return Spent(wall, planning, stages, jobs, aggregates, patches, size / 1e6)


def watched(workshop: Workshop, *arguments: str) -> float:
    """Seconds of a Snakemake command."""
    os.sync()
    start = time.perf_counter()
    command = workshop.command("--cores", str(CORES), *arguments)
    done = subprocess.run(command, cwd=workshop.folder, env=workshop.environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - start


def read_benchmark(path: Path) -> float:
    """Wall seconds of the jobs of a benchmark file."""
    with path.open() as stream:
        return sum(float(row["s"]) for row in csv.DictReader(stream, delimiter="\t"))
