"""Pixel attributions (SHAP) of selected patches, with their checks and the background they are compared with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from histomake.base.records.attribution_checks import AttributionChecks, Method, RandomisedWeights
from histomake.base.records.record import Quarantined
from histomake.base.tables import lost_slide
from histomake.cohort.quarantine import attempt
from histomake.explain.attribution_checks import FIGURES, check, randomised, summarise
from histomake.explain.chosen import Chosen, Point, Region, Tested, asked_for, choose
from histomake.explain.embedding import draw_evenly
from histomake.explain.patch_pixels import NothingToExplainError, read_patches
from histomake.explain.shapley import PARTITION_BACKGROUND, Margin, explain
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import Predictor
from histomake.patch.table import read_table
from histomake.target.kinds import LEARNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attribution:
    """Explained patches, n of them with c classes.

    Attributes:
        pixels: uint8 (n, h, w, 3); the finest view if the model has context views.
        maps: float32 (n, c, h, w), in units of the class margin.
        scores: float32 (n, c).
        table: one row per patch, with its checks.
        background: the background patches.
        record: summary of the checks.
    """

    pixels: NDArray[np.uint8]
    maps: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: list[str]
    table: pa.Table
    background: pa.Table
    record: AttributionChecks


def attribute(
    *,
    predictor: Predictor,
    tested: Tested,
    training: Sequence[SlideEntry],
    patches: int,
    points: Sequence[Point],
    regions: Sequence[Region],
    background: int,
    method: Method,
    seed: int,
) -> Attribution:
    """Explain patches of the tested slides: the requested ones, and further ones selected by `choose`.

    Args:
        predictor: the model.
        tested: test slides with their predictions.
        training: training slides, from which the background is drawn.
        patches: maximum number of further patches.
        points: requested places, see `asked_for`.
        regions: requested regions, see `asked_for`.
        background: number of background patches.
        method: "gradient" or "partition".
        seed: seed of all random draws.

    Slides whose patches turn out to be damaged are left out, and the record names them, with those that could not be
    predicted.

    Raises:
        NothingToExplainError: there is no patch to explain, or no background patch.
    """
    kind = predictor.task.kind
    wanted = asked_for(points, regions, tested)
    found = choose([table for _, table in tested], patches, kind, predictor.class_names)
    first = {(item.slide, item.row): item for item in reversed([*wanted, *found])}
    chosen = list(reversed(first.values()))
    left_out = [lost for _, predictions in tested if (lost := lost_slide(predictions))]
    chosen, read = _readable(predictor, tested, chosen, left_out)
    if not chosen:
        raise NothingToExplainError(
            f"none of {len(tested)} test slides has a predicted patch, so no patch can be explained", left_out
        )
    background = min(background, PARTITION_BACKGROUND) if method == "partition" else background
    reference_table, reference = draw_background(predictor, training, background, seed, left_out)
    pixels = np.concatenate(read)
    margin = Margin(predictor.network, independent=not LEARNED[kind].exclusive).eval()
    images, base = predictor.normalise(torch.from_numpy(pixels)), predictor.normalise(torch.from_numpy(reference))
    maps = explain(margin, images, base, seed=seed, method=method)
    scores: NDArray[np.float32] = predictor.scores(torch.from_numpy(pixels))
    if scores.ndim == 4:
        scores = scores.mean((2, 3), dtype=np.float32)
    table = _described(chosen, tested, scores, predictor)
    checks = check(margin, images, base, maps, scores, seed=seed)
    for name, values in checks.items():
        table = table.append_column(name, pa.array(values.tolist()))
    record = AttributionChecks(
        patches=len(chosen),
        background=len(base),
        method=method,
        randomised_weights=randomised(margin, images, base, maps, seed=seed, method=method),
        left_out=left_out,
        **summarise(checks),
    )
    shown, heat = pixels[..., :3], maps[:, :, :3].sum(2)
    return Attribution(shown, heat, scores, predictor.class_names, table, reference_table, record)


def nothing_attributed(classes: list[str], size: int, left_out: list[Quarantined], *, method: Method) -> Attribution:
    """The attribution of no patch, because of damaged slides; ``size``: edge of a patch in pixels."""
    record = AttributionChecks(
        patches=0,
        background=0,
        method=method,
        **dict.fromkeys(FIGURES),
        randomised_weights=RandomisedWeights(repeat=None, random=None, patches=0),
        left_out=left_out,
    )
    places = [("slide_id", pa.string()), ("patch_id", pa.uint32()), ("x", pa.int32()), ("y", pa.int32())]
    table = pa.schema(places).empty_table()
    maps = np.zeros((0, len(classes), size, size), np.float32)
    pixels, scores = np.zeros((0, size, size, 3), np.uint8), np.zeros((0, len(classes)), np.float32)
    return Attribution(pixels, maps, scores, classes, table, table, record)


def _readable(
    predictor: Predictor, tested: Tested, chosen: Sequence[Chosen], left_out: list[Quarantined]
) -> tuple[list[Chosen], list[NDArray[np.uint8]]]:
    """The chosen patches that can be read, and the pixels (1, h, w, 3 · views) of each; adds to ``left_out``."""
    kept, pixels = [], []
    for item in chosen:
        entry, predictions = tested[item.slide]
        patch = predictions.slice(item.row, 1)["patch_id"].to_numpy()
        found = attempt("attribute", partial(_pixels, predictor, entry, patch), lost=left_out)
        if not isinstance(found, Quarantined):
            kept.append(item)
            pixels.append(found)
    return kept, pixels


def _pixels(predictor: Predictor, entry: SlideEntry, patch_ids: NDArray[np.uint32]) -> NDArray[np.uint8]:
    return np.concatenate(list(read_patches(predictor, entry, patch_ids)))


def draw_background(
    predictor: Predictor, training: Sequence[SlideEntry], count: int, seed: int, left_out: list[Quarantined]
) -> tuple[pa.Table, NDArray[np.uint8]]:
    """Draw ``count`` usable patches evenly from the training slides; those of damaged slides are not replaced.

    Damaged slides are added to ``left_out``. Returns their positions and their pixels, uint8 (n, h, w, 3).
    """
    tables = [read_table(entry.table)[0] for entry in training]
    usable = [table.filter(pa.compute.equal(table["excluded"].cast(pa.string()), "")) for table in tables]
    rng = np.random.default_rng([seed, 5])
    drawn = draw_evenly([table.num_rows for table in usable], count, rng)
    places: list[pa.Table] = []
    pixels: list[NDArray[np.uint8]] = []
    for entry, table, rows in zip(training, usable, drawn, strict=True):
        if len(rows):
            part = table.take(np.sort(rows)).select(["patch_id", "x", "y"])
            found = attempt("attribute", partial(_pixels, predictor, entry, part["patch_id"].to_numpy()), lost=left_out)
            if isinstance(found, Quarantined):
                continue
            places.append(part.append_column("slide_id", pa.array([entry.slide_id] * part.num_rows)))
            pixels.append(found)
    if not places:
        raise NothingToExplainError("no training slide has a usable patch, so SHAP has no background patches", left_out)
    return pa.concat_tables(places).replace_schema_metadata(None), np.concatenate(pixels)


def _described(
    chosen: Sequence[Chosen],
    tested: Tested,
    scores: NDArray[np.float32],
    predictor: Predictor,
) -> pa.Table:
    rows = []
    for item, score in zip(chosen, scores, strict=True):
        entry, table = tested[item.slide]
        kept = [name for name in table.column_names if name.startswith("target_")]
        row = table.slice(item.row, 1).select(["patch_id", "x", "y", "predicted", "label", *kept]).to_pylist()[0]
        named = {f"score_{name}": float(value) for name, value in zip(predictor.class_names, score, strict=True)}
        rows.append({"slide_id": entry.slide_id, **row, "reason": item.reason, **named})
    return pa.Table.from_pylist(rows)
