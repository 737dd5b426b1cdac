"""Data that the viewer shows of a results folder: slides, levels, overlays, and details of a patch."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histomake.audit.sidecar import SIDECAR
from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined, usable
from histomake.base.records.sidecar import Sidecar
from histomake.base.records.tissue import TissueRecord
from histomake.cohort.sheet import SLIDE_ID
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.pictures.kinds import ERRORS, Overlay, overlays_of
from histomake.target.kinds import LEARNED
from histomake.target.targets import JOINER
from histomake.viewer import errors, graph_layers, masks, neighbours, outlines, reader_layers, virtual
from histomake.viewer.levels import ShownLevel, describe_levels
from histomake.viewer.slide_list import OK, QUARANTINED

LAYERS = (masks, graph_layers, errors, reader_layers)
"""Modules whose layers of tiles are shown on slides, in the order of the list."""


def require(layout: Layout, slide: str) -> None:
    """Raise KeyError unless ``slide`` is the id of a slide with a manifest. Ids of requests may hold anything."""
    if not SLIDE_ID.fullmatch(slide) or not layout.manifest(slide).is_file():
        raise KeyError(slide)


UNKNOWN = 2
"""Value of ``wrong`` of a patch without annotation."""


class LostSlide(TypedDict):
    """Why a slide in quarantine cannot be shown."""

    slide_id: str
    status: str
    reason: str
    detail: str
    remedy: str


class TissueImage(TypedDict):
    """Path of the mask, and level-0 pixels of one of its pixels along x and y."""

    image: str
    downsample: list[float]


class Predicted(TypedDict):
    """A task and a fold with predictions of a slide, and what is shown of them."""

    task: str
    fold: int
    classes: list[str]


class ShownSlide(TypedDict):
    """Everything the page needs to show a slide."""

    slide_id: str
    status: str
    width: int
    height: int
    mpp: float
    sha256: str
    store: str
    tiles: str
    levels: list[ShownLevel]
    virtual: list[virtual.VirtualSlide]
    predictions: list[Predicted]
    tissue: NotRequired[TissueImage]
    encoders: list[str]
    outlines: outlines.OutlineTiles | None
    masks: list[masks.MaskTiles]
    class_order: list[str]


class Middle(TypedDict):
    """The part of a patch that is coloured, see `SlideGrid.middle`."""

    offset: float
    span: float


class PredictedPatches(TypedDict):
    """Predictions of all patches of a slide, see `overlay`."""

    overlays: list[Overlay]
    range: list[float]
    called: str
    wrong: str
    classes: list[str]
    span: float
    middle: Middle
    count: int
    patch_id: str
    x: str
    y: str
    scores: str


class DescribedPatch(TypedDict):
    """A patch: its rows in the patch table and in the predictions, and digests of what they were made of."""

    table: Mapping[str, object]
    prediction: Mapping[str, object]
    lineage: Mapping[str, str | None]


def describe(layout: Layout, slide: str) -> ShownSlide | LostSlide:
    """Everything the page needs to show a slide. Raises KeyError for an unknown slide."""
    require(layout, slide)
    manifest = Manifest.read(layout.manifest(slide))
    if isinstance(manifest, Quarantined):
        return {
            "slide_id": slide,
            "status": QUARANTINED,
            "reason": manifest.reason,
            "detail": manifest.detail,
            "remedy": manifest.remedy,
        }
    found = ShownSlide(
        slide_id=slide,
        status=OK,
        width=manifest.width,
        height=manifest.height,
        mpp=manifest.mpp,
        sha256=manifest.sha256,
        store=f"files/slides/{manifest.store}",
        tiles=f"tile/{slide}",
        levels=describe_levels(layout.manifest(slide)),
        virtual=virtual.describe(layout, slide),
        predictions=predictions(layout, slide),
        encoders=neighbours.encoders(layout, slide),
        outlines=outlines.describe(layout, slide, manifest),
        masks=[layer for source in LAYERS for layer in source.describe(layout, slide)],
        class_order=reader_layers.class_order(layout, slide),
    )
    tissue = TissueRecord.read(layout.tissue(slide)) if layout.tissue(slide).is_file() else None
    if isinstance(tissue, TissueRecord):
        scale = [tissue.downsample_x, tissue.downsample_y]
        found["tissue"] = {"image": f"files/tissue/{slide}.png", "downsample": scale}
    return found


def predictions(layout: Layout, slide: str) -> list[Predicted]:
    """Tasks and folds with predictions of a slide. Raises KeyError for an unknown slide."""
    require(layout, slide)
    found: list[Predicted] = []
    for path in existing(layout.prediction("*", "*", slide), under=layout.results):
        names = pq.read_schema(path).names
        classes = list(shown_columns(names))
        fold = int(path.parent.name.removeprefix("fold"))
        found.append({"task": path.parent.parent.name, "fold": fold, "classes": classes})
    return found


def overlay(layout: Layout, slide: str, task: str, fold: int) -> PredictedPatches:
    """Every predicted patch of a slide as base64 columns.

    x, y int32 level-0 pixels; scores float32 and called (whether the class is predicted) uint8, both (classes, n);
    wrong uint8 (n,): 0 predicted as annotated, 1 otherwise, UNKNOWN without annotation.
    ``overlays``: what can be shown of them, see `pictures.kinds.Overlay`;
    ``span``: edge of a patch; ``middle``: the part of it to colour (`SlideGrid.middle`); ``range``: ends of the
    colour scale.
    """
    table = pq.read_table(prediction_path(layout, slide, task, fold))
    shown = shown_columns(table.column_names)
    classes = list(shown)
    slide_grid = SlideGrid.of_table(read_table(layout.table(grid_of(layout, task, fold), slide))[1])
    offset, own = slide_grid.middle
    scores = np.stack([_drawable(name, table[name].to_numpy()) for name in shown.values()])
    predicted = table["predicted"].cast(pa.string())
    said = [set((names or "").split(JOINER)) for names in predicted.to_pylist()]
    label = table["label"].cast(pa.string()) if "label" in table.column_names else pa.nulls(table.num_rows, pa.string())
    wrong = pc.fill_null(pc.cast(pc.not_equal(label, predicted), pa.uint8()), UNKNOWN).to_numpy()
    card = card_of(layout, task, fold)
    return {
        "overlays": [
            shown
            for shown in overlays_of(card.kind, classes, bags=card.bag is not None)
            if shown[1] != ERRORS or (wrong < UNKNOWN).any()
        ],
        "range": [0.0, 1.0] if card.bag else _score_range(card, scores),
        "called": _base64(np.array([[name in names for names in said] for name in classes]), "u1"),
        "wrong": _base64(wrong, "u1"),
        "classes": classes,
        "span": slide_grid.span,
        "middle": {"offset": offset, "span": own},
        "count": table.num_rows,
        "patch_id": _base64(table["patch_id"].to_numpy(), "<u4"),
        "x": _base64(table["x"].to_numpy(), "<i4"),
        "y": _base64(table["y"].to_numpy(), "<i4"),
        "scores": _base64(scores, "<f4"),
    }


def shown_columns(names: Sequence[str]) -> dict[str, str]:
    """Columns of a prediction table that are shown of patches, by title.

    These are the scores of the outputs. Patches of a bag all have the scores of the bag; of them, attention and
    contributions are shown.
    """
    if "attention" not in names:
        return {name.removeprefix("score_"): name for name in names if name.startswith("score_")}
    given = [name for name in names if name.startswith("contribution_")]
    return {"attention": "percentile"} | {f"to {name.removeprefix('contribution_')}": name for name in given}


def _drawable(column: str, values: np.ndarray) -> np.ndarray:
    """Values as they are, contributions from 0 (lowest) over 0.5 (none) to 1 (highest)."""
    if not column.startswith("contribution_"):
        return values
    return 0.5 + values / (2 * max(float(np.abs(values).max(initial=0)), 1e-12))


def _score_range(card: ModelCard, scores: np.ndarray) -> list[float]:
    """Ends of the colour scale: 0 and 1 for probabilities and area shares, otherwise the minimum and maximum."""
    numbers = LEARNED[card.kind].numbers and not card.target_classes
    return [float(scores.min()), float(scores.max())] if numbers and scores.size else [0.0, 1.0]


def _base64(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


def prediction_path(layout: Layout, slide: str, task: str, fold: int) -> Path:
    """The predictions of a slide, or KeyError if the task's fold did not predict it."""
    path = layout.prediction(task, fold, slide)
    if (task, fold) not in [(found["task"], found["fold"]) for found in predictions(layout, slide)]:
        raise KeyError(f"{task} fold {fold} has no predictions of {slide}")
    return path


def grid_of(layout: Layout, task: str, fold: int) -> str:
    """The grid a model works on."""
    return card_of(layout, task, fold).grid.name


def card_of(layout: Layout, task: str, fold: int) -> ModelCard:
    """A model's card."""
    return ModelCard.read(layout.description(task, fold))


def patch(layout: Layout, slide: str, task: str, fold: int, patch_id: int) -> DescribedPatch:
    """The row of a patch in its table, its prediction, and the origin of both."""
    path = prediction_path(layout, slide, task, fold)
    grid = grid_of(layout, task, fold)
    table, record = read_table(layout.table(grid, slide))
    made = _sidecar(path)
    lineage = {
        "slide sha256": usable(record).sha256,
        "grid": grid,
        "patch table sha256": _made(layout.table(grid, slide)),
        "weights sha256": _made(layout.model(task, fold) / "model.safetensors"),
        "predictions sha256": _made(path),
        "code": made.git.commit if made and made.git else None,
    }
    return {"table": _row(table, patch_id), "prediction": _row(pq.read_table(path), patch_id), "lineage": lineage}


def _row(table: pa.Table, patch_id: int) -> Mapping[str, object]:
    rows: list[dict[str, object]] = table.filter(pc.equal(table["patch_id"], patch_id)).to_pylist()
    if not rows:
        raise KeyError(patch_id)
    return rows[0]


def _sidecar(path: Path) -> Sidecar | None:
    """The sidecar of a file: its own, or that of the first output of the same job in the same folder; None without."""
    for candidate in [Path(f"{path}{SIDECAR}"), *sorted(path.parent.glob(f"*{SIDECAR}"))]:
        if candidate.is_file():
            sidecar = Sidecar.read(candidate)
            if any(Path(output).name == path.name for output in sidecar.outputs):
                return sidecar
    return None


def _made(path: Path) -> str | None:
    sidecar = _sidecar(path)
    outputs = sidecar.outputs.items() if sidecar else ()
    return next((digest for output, digest in outputs if Path(output).name == path.name), None)
