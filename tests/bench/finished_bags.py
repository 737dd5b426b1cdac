"""Bags of chosen patches in a finished cohort: settings of their encoders and tasks, and what their jobs leave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from histomake.base.records.features import FeatureColumn, FeatureRecord, PatchChooser, column_name
from histomake.base.records.metrics import LevelMetrics, MetricsRecord
from histomake.base.records.model_card import BagCard, ModelCard, ModelGrid
from histomake.features.store import write_features

from tests import sample_records
from tests.bench.finished_patches import GRID_OF, LABELS, LATTICES, positions, usable

BUDGET = 0.04
DIMENSIONS = 64
ENCODER_OF = {"cheap_bag": "cheap", "adaptive_bag": "expensive"}
"""Encoder of each task on bags."""

GATED = {"name": "gated", "embed": 64, "hidden": [32]}
TARGET = {"source": "sheet", "column": "nuclei_rich", "classes": LABELS}


def add_bags(config: dict[str, Any]) -> None:
    """Add a task on bags of all patches of a coarse grid, and one on patches of a finer grid that it chooses."""
    small = {"name": "resnet10t", "weights": False, "size": 64}
    choose = {"task": "cheap_bag", "budget": BUDGET}
    config["encoders"] = {"cheap": small | {"grid": "x2"}, "expensive": small | {"grid": "x10", "choose": choose}}
    task = {
        **{"kind": "classification", "level": "slide", "target": TARGET, "pooling": GATED, "bag": {"size": 128}},
        "train": {"steps": 12, "batch": 8, "validate_every": 6},
    }
    config["tasks"] |= {
        "cheap_bag": task | {"grid": "x2", "features": "cheap", "split": {"test": 0.3, "val": 0.2}},
        "adaptive_bag": task | {"grid": "x10", "features": "expensive", "split": {"like": "cheap_bag"}},
    }


def bag_table(wildcards: Mapping[str, str], number: int) -> pa.Table:
    """Return what is predicted of a slide, with columns as written by `predict_bag`."""
    task = wildcards["task"]
    rows, places = _encoded(ENCODER_OF[task], number), positions(GRID_OF[task])
    random, count = np.random.default_rng(number), len(rows)
    attention = random.random(count)
    score = random.random()
    names = pa.array(LABELS)
    percentile = (np.argsort(np.argsort(attention)) + 1) / count
    return pa.table(
        {
            **{name: values[rows] for name, values in places.items()},
            "tissue": random.random(count).astype(np.float32),
            "score_no": np.full(count, 1 - score, np.float32),
            "score_yes": np.full(count, score, np.float32),
            "predicted": pa.DictionaryArray.from_arrays(pa.array(np.full(count, score > 0.5, np.int32)), names),
            "label": pa.DictionaryArray.from_arrays(pa.array(np.full(count, number % 2, np.int32)), names),
            "attention": (attention / attention.sum()).astype(np.float32),
            "percentile": percentile.astype(np.float32),
            "linear_no": np.full(count, 0.5, np.float32),
            "linear_yes": np.full(count, 0.5, np.float32),
        }
    )


def write_feature_file(wildcards: Mapping[str, str], number: int, path: Path) -> None:
    """Write the vectors of a slide."""
    encoder = wildcards["group"]
    column, grid = _column(encoder), _grid(encoder)
    rows = _encoded(encoder, number)
    record = FeatureRecord(
        slide_id=sample_records.SLIDE,
        sha256="ab" * 32,
        grid_name=grid,
        grid=LATTICES[grid].grid.dump(),
        mpp=LATTICES[grid].grid.mpp,
        code="code",
        made_of="made of",
        columns=[column],
    )
    vectors = np.random.default_rng(number).random((len(rows), DIMENSIONS)).astype(np.float16)
    places = {name: values[rows] for name, values in positions(grid).items()}
    write_features(path, record, places, {column_name(encoder, column.fold): vectors})


def bag_card(task: str) -> ModelCard:
    """Return the card of a model on bags."""
    grid = LATTICES[GRID_OF[task]].grid
    return sample_records.model_card(
        class_names=LABELS,
        target=TARGET,
        grid=ModelGrid(name=GRID_OF[task], size=grid.size, mpp=grid.mpp),
        features=_column(ENCODER_OF[task]),
        bag=BagCard(level="slide", bag={"size": 128}, pooling=GATED, penalty=1.0, usual=[0.5, 0.5]),
    )


def bag_metrics() -> MetricsRecord:
    """Return metrics of a task on bags."""
    found = LevelMetrics(count=9, patients=3, metrics={"all": {}}, confusion=[[5, 1], [1, 2]])
    return sample_records.metrics({"slide": found, "patient": found}, classes=LABELS)


def _encoded(encoder: str, number: int) -> np.ndarray:
    """Return the patches that have a vector: all usable ones, or those of them that were chosen."""
    kept = np.flatnonzero(usable(_grid(encoder), number))
    if encoder == ENCODER_OF["cheap_bag"]:
        return kept
    return np.sort(np.random.default_rng(number).choice(kept, int(BUDGET * len(kept)), replace=False))


def _grid(encoder: str) -> str:
    return next(GRID_OF[task] for task, name in ENCODER_OF.items() if name == encoder)


def _column(encoder: str) -> FeatureColumn:
    chooser = PatchChooser(
        task="cheap_bag", weights="ab" * 32, class_name=None, budget=BUDGET, most=None, least_score=None
    )
    chosen = encoder != ENCODER_OF["cheap_bag"]
    return FeatureColumn(
        encoder=encoder,
        fold=0 if chosen else None,
        identity=f"identity of {encoder}",
        weights="ab" * 32,
        dimensions=DIMENSIONS,
        dtype="float16",
        settings={},
        card={},
        chooser=chooser if chosen else None,
    )
