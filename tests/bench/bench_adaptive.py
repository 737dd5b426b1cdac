"""Benchmark of adaptive resolution on large slides with small lesions, whose test patients are held out.

A patch cascade is compared with its finest stage alone, and bags of the patches that a coarse classifier chooses with
bags of all patches. Slides, tables and training are made by the workflow; seconds are measured in one process.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from itertools import product
from pathlib import Path

import yaml

from tests.bench.bag_front import BUDGETS, CHEAP, DENSE, ENCODER, Front, bag_tasks, encoders, measure_front
from tests.bench.figures import Figure
from tests.bench.lesions import LesionSlide
from tests.bench.slides import MPP
from tests.demo.__main__ import write_encoder
from tests.workshop import ROOT, Workshop

SIDES = {"train": 6_144, "val": 12_288, "test": 24_576}
"""Edge of the slides of each role in px. Models learn as much from smaller slides, since patches are alike."""

IMAGES = {"train": 12, "val": 4, "test": 6}
"""Images of lesions of each role. Each is the lesion of two patients, one of each grade."""

SHARES = {"train": (0.1, 0.2, 0.3), "val": (0.01, 0.05, 0.1), "test": (0.002, 0.01, 0.1)}
"""Share of the tissue that is lesion, in turn. Every slide is one patient."""

STEPS = 100
"""Steps of training of the fine stage of the cascade. The coarse one is a linear head on a frozen encoder."""

LEAST_AREA = 0.03
"""Share of a coarse patch that is lesion from which on it has the class: half of one of the 16 finest patches in it."""

CASCADE_TESTS = 6
"""Test patients of the cascade, two of each share of lesion; each takes a dense run twice."""

SOONER = {0.01: 8.0, 0.1: 3.0}
"""Smallest accepted ratio of times, by share of lesion."""

MAX_LOSS, MOST_ENCODED, MOST_TIME = 0.01, 0.04, 0.08


def run(work: Path) -> list[Figure]:
    """Measure cascade and bags."""
    slides = lesion_slides()
    workshop = Workshop(work / "adaptive")
    shutil.rmtree(workshop.folder / "results", ignore_errors=True)
    workshop.folder.mkdir(parents=True, exist_ok=True)
    workshop.copy_code()
    write_encoder(workshop.folder / "demo" / "encoders" / "efficientnet-lite0")
    files = {slide.name: slide.write(workshop.folder) for slide in slides}
    tests = [slide for slide in slides if slide.role == "test"]
    few = [slide for slide in slides if slide.role != "test"] + tests[:CASCADE_TESTS]
    write_sheet(workshop.folder / "slides.tsv", few, files)
    figures = measure_cascade(workshop, few)
    write_sheet(workshop.folder / "slides.tsv", slides, files)
    front = measure_bags(workshop, [slide.name for slide in tests])
    (work / "adaptive-front.md").write_text(front.table())
    front.draw(work / "adaptive-front.png")
    return [*figures, *bag_figures(front)]


def measure_cascade(workshop: Workshop, slides: list[LesionSlide]) -> list[Figure]:
    """Train a cascade, search its thresholds and compare it with its finest stage on the slides of the sheet."""
    workshop.config.write_text(yaml.safe_dump(configuration(cascade=True)))
    workshop.snakemake("--", "all_cascades", timeout=3600)
    found = json.loads((workshop.results / "cascades" / "lesion" / "metrics.json").read_text())
    return cascade_figures(found, slides)


def measure_bags(workshop: Workshop, tests: list[str]) -> Front:
    """Train bags of all and of chosen patches, and predict the test slides with them."""
    workshop.config.write_text(yaml.safe_dump(configuration(cascade=False)))
    names = list(BUDGETS)
    wanted = [f"results/metrics/{name}.json" for name in [*names, DENSE]]
    wanted += [f"results/comparisons/{DENSE}/{name}.json" for name in names]
    workshop.snakemake("--", *wanted, timeout=3600)
    return measure_front(workshop, tests)


def lesion_slides() -> list[LesionSlide]:
    """Return the slides of all roles; of the slides of an image one is of high grade, and both have the same share."""
    slides, first = list[LesionSlide](), 0
    for role, count in IMAGES.items():
        for image, high in product(range(count), (False, True)):
            name, share = f"{role}-{image:02d}-{'high' if high else 'low'}", SHARES[role][image % len(SHARES[role])]
            slides.append(LesionSlide(name, role, share, high, first + image, len(slides), SIDES[role]))
        first += count
    return slides


def write_sheet(path: Path, slides: list[LesionSlide], files: dict[str, tuple[Path, Path]]) -> None:
    """Write the sheet of some slides."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(("slide_id", "path", "patient_id", "annotation", "mpp", "split", "grade"))
        for slide in slides:
            row = (slide.name, *files[slide.name], slide.name, MPP, slide.role, "high" if slide.high else "low")
            writer.writerow((row[0], row[1], row[3], row[2], *row[4:]))


def configuration(*, cascade: bool) -> dict:
    """Return that of the example of patch cascades, with lesions in place of nuclei, or that of the bags."""
    config = yaml.safe_load((ROOT / "config" / "examples" / "patch_cascade.yaml").read_text())
    _, high = config["tasks"].values()
    high["target"]["classes"] = ["lesion"]
    high["train"]["steps"] = STEPS
    del high["split"]
    low = {
        "kind": "multi_label",
        "grid": "low",
        "features": CHEAP,
        "target": high["target"] | {"min_area": LEAST_AREA},
        "train": {"select": "auroc"},
    }
    if cascade:
        low["predict"] = high["predict"] = {"roles": ["val", "test"]}
    stages = {"class_name": "lesion", "stages": ["low", "high"]}
    config |= {
        "sheet": "slides.tsv",
        "results": "results",
        "annotations": {"classes": {"lesion": "lesion"}},
        # Enlarged nuclei would be taken for blur, and lesions of high grade excluded.
        "quality": {"max_share": 1.0},
        "grids": {"low": {"mpp": 8.0, "size": 64, "min_tissue": 0.02}, "high": {"mpp": 1.0, "size": 128}},
        "encoders": {CHEAP: {"grid": "low", "name": ENCODER, "size": 64}},
    }
    if cascade:
        cascades = {"lesion": config["cascades"]["nuclei"] | stages}
        return config | {"tasks": {"low": low, "high": high}, "cascades": cascades}
    del config["cascades"]
    compare = [[DENSE, name] for name in BUDGETS]
    encoders_of = config["encoders"] | encoders()
    return config | {"tasks": {"low": low, **bag_tasks()}, "encoders": encoders_of, "compare": compare}


def cascade_figures(found: dict, slides: list[LesionSlide]) -> list[Figure]:
    """Return the figures of the metrics of the cascade."""
    shares = {slide.name: slide.share for slide in slides}
    groups: dict[float, list[dict]] = defaultdict(list)
    for slide in found["slides"]:
        groups[shares[slide["slide_id"]]].append(slide)
    rows = []
    for share, group in sorted(groups.items()):
        dense, cascade = (sum(slide[f"seconds_{way}"] for slide in group) for way in ("dense", "cascade"))
        bar, sooner = SOONER.get(share, 1.0), dense / cascade
        stages = ", ".join(
            f"stage {n}: {sum(s['stages'][n]['computed'] for s in group):,} of "
            f"{sum(s['stages'][n]['patches'] for s in group):,}, {sum(s['stages'][n]['seconds'] for s in group):.2f} s"
            for n in range(len(group[0]["stages"]))
        )
        note = f"{len(group)} slides, {dense:.1f} s and {cascade:.2f} s; {stages}"
        rows.append(Figure(f"cascade: sooner at {share:.1%} lesion", sooner, f">= {bar:g}", sooner >= bar, "x", note))
    lost = found["metrics"]["auroc"]["lost"]
    note = f"95 % interval {lost['low']:.4f} to {lost['high']:.4f}, {found['patients']} patients"
    note += f"; pays below {found['break_even']:.0%} of the finest patches"
    identical = found["simulated_identical"]
    return [
        *rows,
        Figure("cascade: AUROC lost", lost["value"], f"<= {MAX_LOSS}", lost["value"] <= MAX_LOSS, "", note),
        Figure("cascade: simulated = deployed", float(identical), "= 1", identical),
    ]


def bag_figures(front: Front) -> list[Figure]:
    """Return the figures of each budget of bags."""
    rows = []
    for point in front.points[:-1]:
        lost, name = point.lost, f"bag, budget {BUDGETS[point.task]:.0%}"
        interval = f"{lost.area:.3f} of {front.dense.area:.3f}, 95 % interval {lost.low:.3f} to {lost.high:.3f}"
        stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in point.stages.items())
        time = point.seconds / front.dense.seconds
        rows += [
            Figure(f"{name}: encoded", point.encoded, f"<= {MOST_ENCODED}", point.encoded <= MOST_ENCODED),
            Figure(f"{name}: time of dense", time, f"<= {MOST_TIME}", time <= MOST_TIME, "", stages),
            Figure(f"{name}: AUROC lost", lost.value, f"<= {MAX_LOSS}", lost.value <= MAX_LOSS, "", interval),
        ]
    return rows
