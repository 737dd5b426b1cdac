"""The finished workshop: the whole workflow, run once to its end for all workflow tests."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from functools import partial

import pytest
import yaml

from tests.workshop import Workshop

MODEL = {"name": "resnet10t"}
TRAIN = {"steps": 2, "batch": 4, "validate_every": 2, "validate_patches": 8, "workers": 0}
TARGET = {"source": "annotation", "classes": ["skin", "nuclei"]}
BAGS = {
    **{"kind": "regression", "level": "slide", "grid": "x10", "features": "small"},
    "target": {"source": "sheet", "column": "nuclei_share"},
    "bag": {"size": 8},
    "pooling": {"name": "additive", "embed": 8, "hidden": [8]},
    "train": {"steps": 2, "batch": 2, "validate_every": 2, "workers": 0},
}
PIXEL_BAGS = {key: value for key, value in BAGS.items() if key != "features"} | {"model": MODEL, "bag": {"size": 4}}
GRAPHS = {key: value for key, value in BAGS.items() if key not in ("features", "bag", "pooling")} | {
    **{"graph": "patches", "gnn": {"layers": 3, "hidden": 8}},
    "train": {"steps": 2, "batch": 2, "validate_every": 2},
}
POINTS = {
    "predict": {"roles": ["val", "test", "predict"]},
    "evaluate": {"operating_points": {"sensitivity": 0.9}, "prevalences": [0.1], "subgroups": ["site"]},
}
STAGES = {"lower": [0.5], "upper": [1.0]}
SPLITS = {"P01-A": "train", "P02-A": "test", "P03.B": "val", "P04-A": "test", "P04-B": "predict"}
CASCADE = {
    "mpp": 4.0,
    "scales": [1.0, 0.25],
    "objects": ["nuclei"],
    "network": {"name": "unet", "encoder": "tu-resnet10t"},
    "train": {"steps": 2, "batch": 2, "lattice": 2, "per_class": 20, "background": 20},
    "search": {"candidates": 2, "joint": 1},
    "baselines": {"naive_pixels": 2, "repeats": 1},
}
TRANSFER = {
    "from": {"column": "site", "value": "north"},
    "to": {"column": "site", "value": "south"},
    "grid": "x5",
    "generator": {"blocks": 1, "filters": 4},
    "discriminator": {"layers": 1, "filters": 4},
    "train": {"steps": 2, "record_every": 2, "workers": 0},
}
GENERATOR = {
    "field_um": 128,
    "sizes": [4, 8],
    "latent": 8,
    "images": 8,
    "fade": 8,
    "network": {"features": 1024, "most": 8},
    "train": {"batch": 4, "record_every": 1, "workers": 0},
    "measure": {"encoder": "small", "samples": 32},
}
TARGETS = (
    *("radhical", "predict", "all_cascades", "all_cells", "all_graphs", "all_transfers", "all_generators"),
    "results/generators/tissue/samples/3_seed5",
    *("results/metrics/map.json", "results/metrics/probe.json"),
    "results/comparisons/fine/coarse.json",
    *("results/metrics/pixel_bags.json", "results/metrics/bags.json", "results/views/bags/fold0/P04-A/attention.jpg"),
    *("results/metrics/graph.json", "results/views/graph/fold0/P04-A/graph.jpg"),
    "results/embeddings/probe/fold0/map.html",
    "results/maps/small/map.html",
    *(f"results/views/map/fold0/P04-A/{view}.jpg" for view in ("prediction", "region_500_700_1500_900")),
    *("results/tissue/P04-A.png", "results/cores/P04-A.parquet"),
    "results/readers/P04-B/one/x10.parquet",
)


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Workshop], None]) -> Workshop:
    """Return this process's copy of a workshop that one process has built and run for all, since a run takes minutes.

    A copy counts as finished for Snakemake, because it compares timestamps and paths relative to the folder.
    """
    common = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    made, done = Workshop(common / name), common / f"{name}.done"
    with open(common / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(made.folder, ignore_errors=True)
            made.folder.mkdir()
            build(made)
            done.touch()
    copy = Workshop(factory.mktemp(name))
    shutil.copytree(made.folder, copy.folder, dirs_exist_ok=True, symlinks=True)
    return copy


def build_finished(workshop: Workshop) -> None:
    """Run the whole workflow on the small cohort, and keep what the run printed."""
    workshop.copy_code()
    workshop.write_config()
    workshop.build_cohort()
    workshop.printed.write_text(workshop.snakemake().stderr)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The workshop after one whole run."""
    return built_once(tmp_path_factory, "workshop", build_finished)


@pytest.fixture
def workshop(finished: Workshop) -> Workshop:
    """The finished workshop; changes of a test in code, configuration and cohort are reverted."""
    kept = finished.folder.with_name(f"{finished.folder.name}-kept")
    shutil.copytree(finished.folder / "demo", kept, copy_function=shutil.copy2)
    yield finished
    shutil.rmtree(finished.folder / "demo")
    shutil.copytree(kept, finished.folder / "demo", copy_function=shutil.copy2)
    shutil.rmtree(kept)
    finished.copy_code()
    finished.write_config()


def build_others(finished: Workshop, workshop: Workshop) -> None:
    """Run what the finished workshop lacks: segmentation, cascades, zip stores, a model that is reused."""
    workshop.copy_code()
    shutil.copytree(finished.folder / "demo", workshop.folder / "demo")
    shutil.copytree(finished.results / "models/tissue_kind/fold0", workshop.folder / "model")
    write_others(workshop)
    workshop.snakemake("--", *TARGETS)


def write_others(workshop: Workshop) -> None:
    """Write the sheet and the configuration of what the finished workshop lacks."""
    header, *rows = workshop.rows()
    drawn = "demo/annotations/P04-B.geojson"
    rows = [row.replace(drawn, f"one={drawn};two=demo/annotations/P03.B.geojson") for row in rows]
    workshop.write_rows([f"{header}\tsplit", *(f"{row}\t{SPLITS[row.split()[0]]}" for row in rows)])
    workshop.write_config()
    content = yaml.safe_load(workshop.config.read_text())
    tissue_kind = content["tasks"]["tissue_kind"]
    patches = {"kind": "classification", "grid": "x5", "target": TARGET, "model": MODEL, "train": TRAIN}
    pixels = {"source": "mask", "classes": ["skin", "nuclei"], "unlabelled": "background"}
    content["convert"] = {"store": "zip"}
    content["tasks"] = {
        "reused": tissue_kind | {"trained": "model", "split": {"folds": 1}},
        "coarse": patches,
        "fine": patches | {"grid": "x10"},
        "probe": {"grid": "x10", "features": "small", "target": TARGET} | POINTS,
        "bags": BAGS,
        "pixel_bags": PIXEL_BAGS,
        "graph": GRAPHS,
        "map": patches | {"kind": "segmentation", "target": pixels, "model": {"name": "fast_scnn"}},
    }
    content["compare"] = [["fine", "coarse"]]
    content["encoders"] = {"small": {"grid": "x10", "name": "resnet10t", "weights": False, "size": 64}}
    content["explain"] = {**content["explain"], "maps": ["small"]}
    content["radhical"] = {"nuclei": CASCADE}
    content["cascades"] = {"both": {"class_name": "nuclei", "stages": ["coarse", "probe"], "thresholds": STAGES}}
    content["cells"] = {
        "nuclei": {"source": "radhical:nuclei"},
        "drawn": {"source": "annotation", "classes": ["nuclei"], "outlines": False},
        "mapped": {"source": "task:map", "classes": ["nuclei"], "outlines": False},
    }
    content["graphs"] = {
        "patches": {"nodes": "patch", "encoder": "small", "features": ["encoder", "position"]},
        "nuclei": {"nodes": "cell", "cells": "drawn", "edges": "delaunay", "features": ["shape", "class"]},
        "regions": {"nodes": "region", "task": "map", "edges": "adjacency", "features": ["class", "shape"]},
    }
    content["microarray"] = {"core_mm": 1.0}
    content["stain_transfers"] = {"north_south": TRANSFER}
    content["generators"] = {"tissue": GENERATOR}
    workshop.config.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="session")
def others(finished: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The workshop after a run of what the finished one lacks."""
    return built_once(tmp_path_factory, "others", partial(build_others, finished))
