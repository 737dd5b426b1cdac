"""Embeddings: features of patches, their UMAP coordinates, and measures of group separation and batch effects.

The features are the input of a model's last layer. UMAP (McInnes et al. 2018) maps them to two and three dimensions.
The features are stored, so that slide-level models and other tools can use them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from msgspec import structs
from sklearn.decomposition import PCA
from sklearn.metrics import balanced_accuracy_score, silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from histomake.base.errors import HistomakeError
from histomake.base.records.features import column_name
from histomake.base.records.record import Quarantined, usable
from histomake.base.records.separation import BatchEffect, SeparationRecord
from histomake.base.tables import lost_slide
from histomake.cohort.quarantine import attempt
from histomake.explain.patch_pixels import NothingToExplainError, read_patches
from histomake.features.store import read_features, rows_of
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import Predictor
from histomake.model.build import has_features
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

THUMB_PX = 48
PCA_DIMENSIONS = 50
"""Number of principal components kept. Nearest neighbours hardly change and are found ten times faster."""
MEASURED = 4000
"""Maximum number of patches for silhouettes and batch effects, which need all pairwise distances."""
NEIGHBOURS = 15
SEARCH_ROWS = 512
"""Patches whose distances to all others are in memory at once: 512 x 30,000 float32 are 61 MB."""
GROUPS = ("label", "predicted", "slide_id", "patient_id", "site")


@dataclass(frozen=True)
class TestedSlide:
    """One slide whose patches may be embedded: its files, its site, its predictions (as predict_slide makes them).

    ``features``: file of the features that the model takes, if it takes features instead of pixels.
    """

    entry: SlideEntry
    site: str
    predictions: pa.Table
    features: Path | str | None = None


@dataclass(frozen=True)
class Embedding:
    """table: one row per patch (ids, label, scores, areas, map coordinates, features); thumbs: uint8 (n, px, px, 3)."""

    table: pa.Table
    thumbs: NDArray[np.uint8]
    record: SeparationRecord


def embed(
    *, predictor: Predictor, slides: Sequence[TestedSlide], patches: int, neighbours: int, seed: int
) -> Embedding:
    """Embed up to ``patches`` patches, drawn evenly from the slides.

    Slides whose patches turn out to be damaged are left out, and the record names them, with those that could not be
    predicted. Raises NothingToExplainError when no slide is left, and HistomakeError when the model has no vector
    before its last layer.
    """
    rng = np.random.default_rng([seed, 3])
    chosen = [np.sort(rows) for rows in draw_evenly([s.predictions.num_rows for s in slides], patches, rng)]
    left_out = [lost for s in slides if (lost := lost_slide(s.predictions))]
    parts = []
    for slide, rows in zip(slides, chosen, strict=True):
        if len(rows):
            part = attempt("embed", partial(_embed_slide, predictor, slide, rows), lost=left_out)
            if not isinstance(part, Quarantined):
                parts.append(part)
    if not parts:
        raise NothingToExplainError(
            f"none of {len(slides)} slides has a predicted patch, so there is nothing to embed", left_out
        )
    features = np.concatenate([part[1] for part in parts])
    plane, space = lay_out(features, neighbours=neighbours, seed=seed)
    table = pa.concat_tables([part[0] for part in parts], promote_options="default")
    table = with_columns(table, plane, space, features)
    record = describe(features, {name: table[name].to_pylist() for name in GROUPS}, slides=len(parts), seed=seed)
    record = structs.replace(record, left_out=left_out)
    return Embedding(table, np.concatenate([part[2] for part in parts]), record)


def nothing_embedded(left_out: list[Quarantined]) -> Embedding:
    """The embedding of no patch, because of damaged slides."""
    names = ("slide_id", "patient_id", "site", "predicted", "label")
    columns: dict[str, pa.DataType] = dict.fromkeys(names, pa.string())
    columns |= {"patch_id": pa.uint32(), "x": pa.int32(), "y": pa.int32(), "tissue": pa.float32(), "span": pa.float32()}
    columns |= dict.fromkeys(("umap2_x", "umap2_y", "umap3_x", "umap3_y", "umap3_z"), pa.float32())
    record = SeparationRecord(patches=0, slides=0, features=0, silhouette={}, batch_effect={}, left_out=left_out)
    table = pa.schema(list(columns.items())).empty_table()
    return Embedding(table, np.zeros((0, THUMB_PX, THUMB_PX, 3), np.uint8), record)


def draw_evenly(counts: Sequence[int], limit: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Draw at most ``limit`` rows from several tables, as evenly as their lengths allow; returns rows per table."""
    quota = np.zeros(len(counts), np.int64)
    left, room = limit, np.array(counts, np.int64)
    while left > 0 and (room > quota).any():
        open_ones = np.flatnonzero(room > quota)
        share = max(1, left // len(open_ones))
        added = np.minimum(room[open_ones] - quota[open_ones], share)[:left]
        quota[open_ones[: len(added)]] += added
        left -= int(added.sum())
    return [rng.choice(count, take, replace=False) for count, take in zip(counts, quota, strict=True)]


def _embed_slide(
    predictor: Predictor, slide: TestedSlide, rows: NDArray[np.int64]
) -> tuple[pa.Table, NDArray[np.float32], NDArray[np.uint8]]:
    predictions = slide.predictions.take(rows)
    patches, record = read_table(slide.entry.table)
    features, thumbs = features_of(predictor, slide.entry, predictions, slide.features)
    count = predictions.num_rows
    columns = {
        "slide_id": pa.array([slide.entry.slide_id] * count),
        "patient_id": pa.array([slide.entry.patient_id] * count),
        "site": pa.array([slide.site] * count),
    }
    columns |= {name: predictions[name] for name in ("patch_id", "x", "y")}
    columns["span"] = pa.array([float(SlideGrid.of_table(usable(record)).span)] * count)
    columns |= {name: predictions[name].cast(pa.string()) for name in ("predicted", "label")}
    columns |= {name: predictions[name] for name in predictions.column_names if name.startswith(("score_", "target_"))}
    found = patches.take(predictions["patch_id"])
    columns |= {name: found[name] for name in found.column_names if name == "tissue" or name.startswith("area_")}
    log.info("slide %s: %d patches of grid %s embedded", slide.entry.slide_id, count, usable(record).grid_name)
    return pa.table(columns), features, thumbs


def features_of(
    predictor: Predictor, entry: SlideEntry, predictions: pa.Table, stored: Path | str | None = None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Features float32 (n, d) and thumbnails uint8 (n, THUMB_PX, THUMB_PX, 3) of a slide's patches.

    ``stored``: file of the features that the model takes; otherwise they are those before its last layer.
    """
    patch_id = predictions["patch_id"].to_numpy()
    features, thumbs = [], []
    for pixels in read_patches(predictor, entry, patch_id):
        if stored is None:
            features.append(embed_pixels(predictor, pixels))
        thumbs.append(shrink(pixels[..., :3]))
    if stored is not None:
        features.append(stored_vectors(predictor, patch_id, stored))
    return np.concatenate(features), np.concatenate(thumbs)


def stored_vectors(predictor: Predictor, patch_id: NDArray[np.uint32], path: Path | str) -> NDArray[np.float32]:
    """Features float32 (n, d) of patches that a model takes, from the file of their slide."""
    column = predictor.card.features
    if column is None:
        raise HistomakeError(f"the model takes pixels, not the features in {path}")
    found = read_features(path)
    vectors = found.vectors(column_name(column.encoder, column.fold))
    return vectors[rows_of(found, patch_id, path=path)].astype(np.float32)


def embed_pixels(predictor: Predictor, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features float32 (n, d) of patches uint8 (n, h, w, 3 · views)."""
    if not has_features(predictor.network):
        name = predictor.task.model.name
        raise HistomakeError(
            f"the model {name} has no features before its last layer, so its patches cannot be embedded"
        )
    return predictor.embed(torch.from_numpy(pixels))


def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize patches (n, h, w, 3) to THUMB_PX by area averaging."""
    small = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), size=(THUMB_PX, THUMB_PX), mode="area"
    )
    return small.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def lay_out(
    features: NDArray[np.float32], *, neighbours: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """UMAP coordinates (n, 2) and (n, 3), from one nearest-neighbour search.

    If there are too few patches for a neighbourhood, or all features are equal, the leading principal components are
    returned instead.
    """
    count = len(features)
    components = leading_components(features)
    if count < 8 or not np.ptp(components, axis=0).any():
        return _padded(components, 2), _padded(components, 3)
    from umap import UMAP  # compiles for seconds when imported

    near = min(neighbours, count - 1)
    knn = nearest_neighbours(components, near)
    maps = []
    for dimensions in (2, 3):
        layout = UMAP(
            n_neighbors=near, n_components=dimensions, precomputed_knn=knn, init="pca", random_state=seed, n_jobs=1
        )
        with warnings.catch_warnings():
            # It warns that it cannot transform new points without a search index, which is not needed here.
            warnings.filterwarnings("ignore", message="precomputed_knn")
            maps.append(layout.fit_transform(components).astype(np.float32))
    return maps[0], maps[1]


def nearest_neighbours(points: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices and Euclidean distances (n, count) of every point's nearest neighbours; the point itself is the first.

    The search is exact and uses all of torch's threads. Up to about 100,000 points it is faster than UMAP's own search,
    which uses one core when a seed is given.
    """
    given = torch.from_numpy(points)
    squares = (given * given).sum(1)
    indices, distances = [], []
    for start in range(0, len(given), SEARCH_ROWS):
        part = given[start : start + SEARCH_ROWS]
        squared = torch.addmm(squares[None], part, given.T, alpha=-2).add_(squares[start : start + len(part), None])
        rows = torch.arange(len(part))
        squared[rows, start + rows] = -1
        near, index = squared.topk(count, dim=1, largest=False)
        indices.append(index)
        distances.append(near.clamp_(min=0).sqrt_())
    return torch.cat(indices).numpy(), torch.cat(distances).numpy()


def leading_components(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The leading principal components of the features, at most PCA_DIMENSIONS."""
    dimensions = min(PCA_DIMENSIONS, *features.shape)
    if len(features) < 2 or not np.ptp(features, axis=0).any():
        return np.zeros((len(features), dimensions), np.float32)
    solver = "randomized" if min(features.shape) > PCA_DIMENSIONS else "full"
    return PCA(dimensions, svd_solver=solver, random_state=0).fit_transform(features).astype(np.float32)


def _padded(values: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    kept = values[:, :columns]
    return np.pad(kept, ((0, 0), (0, columns - kept.shape[1])))


def with_columns(
    table: pa.Table, plane: NDArray[np.float32], space: NDArray[np.float32], features: NDArray[np.float32]
) -> pa.Table:
    """The table with map coordinates (n, 2) and (n, 3) and features (n, d)."""
    columns = {"umap2_x": plane[:, 0], "umap2_y": plane[:, 1]}
    columns |= {f"umap3_{axis}": space[:, i] for i, axis in enumerate("xyz")}
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    return table.append_column("features", vectors)


def describe(
    features: NDArray[np.float32], groups: Mapping[str, Sequence[str | None]], *, slides: int, seed: int
) -> SeparationRecord:
    """Measure how separate groups of patches are, and how well site, patient and slide are predicted from features.

    ``silhouette``: Rousseeuw 1987, on the principal components, from −1 to 1. ``batch_effect``: balanced accuracy of a
    NEIGHBOURS-nearest-neighbours classifier of the group (5-fold cross-validation), and its value by chance. A value
    far above chance means that the features encode the scanner or the laboratory.
    """
    patches, dimensions = features.shape
    components = leading_components(features)
    if len(components) > MEASURED:
        chosen = np.sort(np.random.default_rng([seed, 4]).choice(len(components), MEASURED, replace=False))
        components = components[chosen]
        groups = {name: [values[i] for i in chosen] for name, values in groups.items()}
    silhouettes: dict[str, float] = {}
    batch: dict[str, BatchEffect] = {}
    for name, values in groups.items():
        codes, kept = _codes(values)
        if len(np.unique(codes)) < 2:
            continue
        silhouettes[name] = round(float(silhouette_score(components[kept], codes)), 4)
        if name in ("site", "patient_id", "slide_id"):
            batch[name] = _batch_effect(components[kept], codes)
    return SeparationRecord(
        patches=patches, slides=slides, features=dimensions, silhouette=silhouettes, batch_effect=batch
    )


def _codes(values: Sequence[str | None]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group numbers of the patches whose group has at least 10 patches, and the indices of those patches."""
    names = np.array([value or "" for value in values])
    _, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    kept = np.flatnonzero((names != "") & (counts[codes] >= 10))
    return codes[kept], kept


def _batch_effect(components: NDArray[np.float32], codes: NDArray[np.int64]) -> BatchEffect:
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    predicted = cross_val_predict(KNeighborsClassifier(min(NEIGHBOURS, len(codes) // 2)), components, codes, cv=folds)
    groups = len(np.unique(codes))
    accuracy = round(float(balanced_accuracy_score(codes, predicted)), 4)
    return BatchEffect(balanced_accuracy=accuracy, chance=round(1 / groups, 4), groups=groups)
