"""A made-up cohort for plans: a sheet, slides and annotations of a few bytes, and settings of every kind of task."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import yaml

from tests.workflow.conftest import (
    BAGS,
    CASCADE,
    GENERATOR,
    GRAPHS,
    MODEL,
    PIXEL_BAGS,
    POINTS,
    STAGES,
    TARGET,
    TRAIN,
    TRANSFER,
)
from tests.workshop import Workshop

PATCHES = {"kind": "classification", "grid": "x5", "target": TARGET, "model": MODEL, "train": TRAIN}
PIXELS = {"source": "mask", "classes": ["skin", "nuclei"], "unlabelled": "background"}
WHOLE_PATIENTS = BAGS | {
    "level": "patient",
    "target": {"source": "sheet", "column": "outcome"},
    "predict": {"roles": ["val", "test", "predict"]},
}
SMALL = {"grid": "x10", "name": "resnet10t", "weights": False, "size": 64}
ENCODERS = {
    "small": SMALL,
    "learned": {"grid": "x10", "name": "task:fine"},
    "chosen": SMALL | {"choose": {"task": "coarse", "class_name": "nuclei", "budget": 0.5}},
}
TASKS: dict[str, dict[str, Any]] = {
    "coarse": PATCHES,
    "fine": PATCHES | {"grid": "x10", "split": {"like": "coarse"}},
    "probe": {"grid": "x10", "features": "small", "target": TARGET} | POINTS,
    "bags": BAGS,
    "pixel_bags": PIXEL_BAGS,
    "patients": WHOLE_PATIENTS,
    "on_chosen": BAGS | {"features": "chosen", "split": {"like": "coarse"}},
    "graph": GRAPHS,
    "map": PATCHES | {"kind": "segmentation", "target": PIXELS, "model": {"name": "fast_scnn"}},
    "reused": PATCHES | {"grid": "x10", "trained": "model", "split": {"folds": 1}},
    "reused_coarse": PATCHES | {"trained": "coarse_model", "split": {"folds": 1}},
    "pretrained": PATCHES | {"grid": "x10", "model": MODEL | {"pretrained": "results/models/coarse/fold0"}},
    "virtual": PATCHES | {"predict": {"transfer": "north_south", "allow_virtual": True}},
}
GRAPHS_BY_NAME = {
    "patches": {"nodes": "patch", "encoder": "small", "features": ["encoder", "position"]},
    "nuclei": {"nodes": "cell", "cells": "drawn", "edges": "delaunay", "features": ["shape", "class"]},
    "regions": {"nodes": "region", "task": "map", "edges": "adjacency", "features": ["class", "shape"]},
}
CELLS = {
    "nuclei": {"source": "radhical:nuclei"},
    "drawn": {"source": "annotation", "classes": ["nuclei"], "outlines": False},
    "mapped": {"source": "task:map", "classes": ["nuclei"], "outlines": False},
}
CASCADES = {
    "both": {"class_name": "nuclei", "stages": ["coarse", "fine"], "thresholds": STAGES},
    "searched": {"class_name": "nuclei", "stages": ["coarse", "fine"]},
    "of_copies": {"class_name": "nuclei", "stages": ["reused_coarse", "reused"], "thresholds": STAGES},
}


def _cohort(tasks: str, **sections: Any) -> dict[str, Any]:
    """A configuration with some of the tasks above."""
    return {"tasks": {name: TASKS[name] for name in tasks.split()}, **sections}


CASCADES_OF_TASKS = {name: CASCADES[name] for name in ("both", "searched")}
VARIANTS: dict[str, dict[str, Any]] = {
    "patches": _cohort("coarse", explain={"qupath": True, "regions": [["S1", 0, 0, 100, 100]]}),
    "folds": {"tasks": {"coarse": PATCHES | {"split": {"folds": 2}}}},
    "cascades": _cohort("coarse fine", cascades=CASCADES_OF_TASKS),
    "copies": _cohort("reused reused_coarse", cascades={"of_copies": CASCADES["of_copies"]}),
    "pretrained": _cohort("coarse pretrained", compare=[["coarse", "pretrained"]]),
    "radhical": _cohort("", radhical={"nuclei": CASCADE}, cells={n: CELLS[n] for n in ("nuclei", "drawn")}),
    "bags": _cohort("bags probe", encoders={"small": SMALL}, maps=["small"]),
    "patients": _cohort("patients pixel_bags", encoders={"small": SMALL}),
    "chosen": _cohort("coarse fine on_chosen", encoders=ENCODERS),
    "graphs": _cohort("map graph", encoders={"small": SMALL}, graphs=GRAPHS_BY_NAME, cells={"drawn": CELLS["drawn"]}),
    "transfers": _cohort(
        "virtual",
        stain_transfers={"north_south": TRANSFER},
        generators={"tissue": GENERATOR},
        encoders={"small": SMALL},
    ),
    "everything": _cohort(
        "coarse fine probe bags patients on_chosen graph map",
        encoders=ENCODERS,
        maps=["small"],
        graphs=GRAPHS_BY_NAME,
        cells=CELLS,
        radhical={"nuclei": CASCADE},
        cascades=CASCADES_OF_TASKS,
        stain_transfers={"north_south": TRANSFER},
        generators={"tissue": GENERATOR},
        compare=[["fine", "coarse"]],
        convert={"store": "zip"},
    ),
}
"""Configurations by name. Each has some kinds of tasks and what they need."""

COLUMNS = ("slide_id", "path", "patient_id", "site", "annotation", "split", "nuclei_share", "outcome", "nuclei_rich")
SPLITS = ("train", "train", "val", "val", "test", "test", "predict", "predict")


class Cohort:
    """A made-up cohort: its folder, the rows of its sheet, and the settings of its configuration.

    ``splits``: whether the sheet says who is trained on, tested and predicted.
    """

    def __init__(self, folder: Path, variant: str, *, splits: bool = True) -> None:
        self.workshop, self.folder, self.splits = Workshop(folder), folder, splits
        self.rows: list[dict[str, str]] = []
        self.added = 0
        self.settings = self._settings(VARIANTS[variant])

    def _settings(self, variant: dict[str, Any]) -> dict[str, Any]:
        variant = copy.deepcopy(variant)
        self.workshop.write_config(demo_task=False)
        found = yaml.safe_load(self.workshop.config.read_text())
        maps, explain = variant.pop("maps", []), variant.pop("explain", {})
        found |= variant
        found["explain"] = found["explain"] | {"regions": [], "maps": maps} | explain
        return found

    def create(self) -> None:
        """Write code, slides, sheet, configuration and models from elsewhere."""
        from histomake.base.records.model_card import ModelGrid

        from tests import sample_records

        self.workshop.copy_code()
        for name in ("slides", "annotations"):
            (self.folder / name).mkdir()
        for number, split in enumerate(SPLITS):
            self.add(patient=f"p{number}", split=split if self.splits else "")
        self.add(patient="p7", split="predict" if self.splits else "")
        self.add(patient="p6", split="predict" if self.splits else "")
        for name, grid, mpp in (("model", "x10", 1.0), ("coarse_model", "x5", 2.0)):
            card = sample_records.model_card(grid=ModelGrid(name=grid, size=128, mpp=mpp))
            (self.folder / name).mkdir()
            (self.folder / name / "model.safetensors").write_text("weights")
            (self.folder / name / "model.json").write_text(json.dumps(card.dump()))
        self.write()

    def add(self, *, patient: str, split: str, site: str | None = None) -> str:
        """A new slide in the sheet."""
        name = f"S{self.added}"
        site = site or ("north", "south")[self.added % 2]
        self.added += 1
        (self.folder / f"slides/{name}.svs").write_text(f"slide {name} {random.random()}")
        (self.folder / f"annotations/{name}.png").write_text(f"mask {name}")
        share = str(self.added * 37 % 100 / 100)
        values = (name, f"slides/{name}.svs", patient, site, f"annotations/{name}.png", split, share, "1.5", "no")
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))
        return name

    def read_rows(self) -> None:
        """Take the rows of a sheet that exists."""
        header, *lines = (self.folder / "slides.tsv").read_text().splitlines()
        self.rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
        self.added = len(self.rows)

    def write(self) -> None:
        """Write the sheet and the configuration."""
        self.workshop.config.write_text(yaml.safe_dump(self.settings | {"sheet": "slides.tsv"}, sort_keys=False))
        lines = ["\t".join(COLUMNS), *("\t".join(row[c] for c in COLUMNS) for row in self.rows)]
        (self.folder / "slides.tsv").write_text("\n".join(lines) + "\n")
