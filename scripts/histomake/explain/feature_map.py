"""Maps of the features of an encoder: fitted once, and kept, so that patches of new slides are placed into them.

A map is fitted to patches of some slides. It is kept as arrays: the principal axes, the fitted patches along them, and
their UMAP coordinates (McInnes et al. 2018). UMAP places further patches by their neighbours among the fitted ones
(`umap.UMAP.transform`). Each slide is placed by itself, so its patches lie where they lie whatever else is placed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from msgspec import structs
from safetensors import SafetensorError, safe_open
from sklearn.decomposition import PCA

from histomake.base.errors import HistomakeError
from histomake.base.records.record import Quarantined
from histomake.base.tensors import write_tensors
from histomake.base.units import Level0Pixels
from histomake.cohort.quarantine import attempt
from histomake.explain.embedding import (
    PCA_DIMENSIONS,
    Embedding,
    describe,
    draw_evenly,
    lay_out,
    shrink,
    with_columns,
)
from histomake.features.store import Features, read_features, rows_of
from histomake.learn.data.patch_index import SlideEntry
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.slide.reader import open_slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

FEWEST = 8
"""Patches below which UMAP has no neighbourhoods, and the principal components are the map."""

FITTED, PLACED = "fitted", "placed"
"""Whether a map was fitted to a patch, or the patch was placed into it."""


@dataclass(frozen=True)
class MappedSlide:
    """A slide of a map: its files, its site, and its features."""

    entry: SlideEntry
    site: str
    features: Path


@dataclass(frozen=True)
class FeatureMap:
    """A fitted map.

    identity: of the features, see `FeatureColumn`. mean (d,), axes (k, d): to principal components. points (n, k): the
    fitted patches along them; plane (n, 2), space (n, 3): their coordinates. slides: ids; slide (n,): position therein;
    patch_id (n,). neighbours, seed: of UMAP.
    """

    identity: str
    slides: tuple[str, ...]
    slide: NDArray[np.int64]
    patch_id: NDArray[np.uint32]
    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    points: NDArray[np.float32]
    plane: NDArray[np.float32]
    space: NDArray[np.float32]
    neighbours: int
    seed: int

    def place(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Coordinates (n, 2) and (n, 3) of vectors (n, d) in the map."""
        points = np.asarray((vectors - self.mean) @ self.axes.T, np.float32)
        if not self._is_umap:
            return _first(points, 2), _first(points, 3)
        plane, space = (layout.transform(points) for layout in self._layouts)
        return np.asarray(plane, np.float32), np.asarray(space, np.float32)

    @property
    def _is_umap(self) -> bool:
        return len(self.points) >= FEWEST and bool(np.ptp(self.points, axis=0).any())

    @cached_property
    def _layouts(self) -> list[Any]:
        """UMAP as it was fitted, in two and three dimensions."""
        from umap import UMAP  # compiles for seconds when imported

        found = []
        for kept in (self.plane, self.space):
            layout = UMAP(
                n_neighbors=min(self.neighbours, len(self.points) - 1),
                n_components=kept.shape[1],
                init=kept,
                n_epochs=0,  # builds the neighbour graph alone; the coordinates are those that were kept
                random_state=self.seed,
                n_jobs=1,
            ).fit(self.points)
            layout.embedding_, layout.n_epochs = kept, None
            found.append(layout)
        return found

    def write(self, path: Path) -> None:
        """Write the map as a safetensors file."""
        arrays = ("slide", "patch_id", "mean", "axes", "points", "plane", "space")
        text = {"identity": self.identity, "slides": json.dumps(self.slides)}
        text |= {"neighbours": str(self.neighbours), "seed": str(self.seed)}
        write_tensors(path, {name: getattr(self, name) for name in arrays}, text)

    @classmethod
    def read(cls, path: Path) -> FeatureMap:
        """Read a map. Raises HistomakeError if the file is damaged."""
        try:
            with safe_open(path, framework="numpy") as file:
                text = file.metadata()
                arrays: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            arrays |= {name: int(text[name]) for name in ("neighbours", "seed")}
            return cls(identity=text["identity"], slides=tuple(json.loads(text["slides"])), **arrays)
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise HistomakeError(f"{path} is no map of features ({error}); delete it and run the workflow") from error


def _first(points: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The first columns, filled up with zeros."""
    kept = points[:, :count]
    return np.pad(kept, ((0, 0), (0, count - kept.shape[1])))


def fit_map(slides: Sequence[MappedSlide], column: str, *, patches: int, neighbours: int, seed: int) -> FeatureMap:
    """Fit a map to up to ``patches`` patches, drawn evenly from the slides.

    Raises HistomakeError if no slide has a patch, or if their features are of different weights or settings.
    """
    found = list(_usable(slides, column, identity=None))
    drawn = draw_evenly([len(f) for _, f in found], patches, np.random.default_rng([seed, 6]))
    rows = [np.sort(part) for part in drawn]
    if not sum(map(len, rows)):
        raise HistomakeError(f"none of {len(slides)} slides has features {column}, so there is no map of them")
    vectors = np.concatenate([f.vectors(column)[r].astype(np.float32) for (_, f), r in zip(found, rows, strict=True)])
    mean = np.asarray(vectors.mean(axis=0), np.float32)
    axes = _axes(vectors)
    points = np.asarray((vectors - mean) @ axes.T, np.float32)
    plane, space = lay_out(points, neighbours=neighbours, seed=seed)
    described = found[0][1].column(column)
    assert described is not None
    return FeatureMap(
        identity=described.identity,
        slides=tuple(slide.entry.slide_id for slide, _ in found),
        slide=np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
        patch_id=np.concatenate([f.patch_id[r] for (_, f), r in zip(found, rows, strict=True)]),
        mean=mean,
        axes=axes,
        points=points,
        plane=plane,
        space=space,
        neighbours=neighbours,
        seed=seed,
    )


def _axes(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Principal axes (k, d), at most PCA_DIMENSIONS."""
    dimensions = min(PCA_DIMENSIONS, *vectors.shape)
    if len(vectors) < 2 or not np.ptp(vectors, axis=0).any():
        return np.zeros((dimensions, vectors.shape[1]), np.float32)
    solver = "randomized" if min(vectors.shape) > PCA_DIMENSIONS else "full"
    return np.asarray(PCA(dimensions, svd_solver=solver, random_state=0).fit(vectors).components_, np.float32)


def _usable(
    slides: Sequence[MappedSlide], column: str, *, identity: str | None
) -> Iterator[tuple[MappedSlide, Features]]:
    """The slides that are not in quarantine, with their features. Raises HistomakeError for other features."""
    for slide in slides:
        found = read_features(slide.features)
        described = found.column(column)
        if isinstance(found.record, Quarantined) or described is None:
            continue
        identity = identity or described.identity
        if described.identity != identity:
            raise HistomakeError(
                f"{slide.features} has features {column} of other weights or settings than the map; run the workflow"
            )
        yield slide, found


def draw_map(fitted: FeatureMap, slides: Sequence[MappedSlide], column: str, *, patches: int, seed: int) -> Embedding:
    """The patches of a map, and up to ``patches`` of further slides that are placed into it, with their pictures.

    Slides whose patches turn out to be damaged are left out, and the record names them. Raises HistomakeError if slides
    have other features than the map, or none is left.
    """
    found = list(_usable(slides, column, identity=fitted.identity))
    known = {name: position for position, name in enumerate(fitted.slides)}
    new = [0 if s.entry.slide_id in known else len(f) for s, f in found]
    drawn = draw_evenly(new, patches, np.random.default_rng([seed, 7]))
    tables, places, vectors, thumbs = [], [], [], []
    left_out: list[Quarantined] = []
    for (slide, features), rows in zip(found, drawn, strict=True):
        position = known.get(slide.entry.slide_id)
        if position is not None:
            mine = fitted.slide == position
            rows = rows_of(features, fitted.patch_id[mine], path=slide.features)
        rows = np.sort(rows)
        if not len(rows):
            continue
        state = PLACED if position is None else FITTED
        drawn_patches = attempt("draw_map", partial(_patches_of, slide, features, rows, state), lost=left_out)
        if isinstance(drawn_patches, Quarantined):
            continue
        table, pictures = drawn_patches
        given = features.vectors(column)[rows].astype(np.float32)
        places.append((fitted.plane[mine], fitted.space[mine]) if position is not None else fitted.place(given))
        log.info("slide %s: %d patches in the map of %s", slide.entry.slide_id, len(rows), column)
        tables.append(table)
        vectors.append(given)
        thumbs.append(pictures)
    if not tables:
        raise HistomakeError(
            f"none of {len(slides)} slides has a patch that can be read, so there is no map of {column}"
        )
    table = pa.concat_tables(tables, promote_options="default")
    stacked = np.concatenate(vectors)
    plane, space = (np.concatenate(part) for part in zip(*places, strict=True))
    groups = {name: table[name].to_pylist() for name in ("slide_id", "patient_id", "site")}
    record = structs.replace(describe(stacked, groups, slides=len(tables), seed=seed), left_out=left_out)
    return Embedding(with_columns(table, plane, space, stacked), np.concatenate(thumbs), record)


def _patches_of(
    slide: MappedSlide, features: Features, rows: NDArray[np.int64], state: str
) -> tuple[pa.Table, NDArray[np.uint8]]:
    """Columns of patches of a slide, and their thumbnails."""
    chosen = features.table.take(rows)
    table, record = read_table(slide.entry.table)
    grid = SlideGrid.of_table(record)
    kept = table.take(chosen["patch_id"])
    count = len(rows)
    columns = {
        "slide_id": pa.array([slide.entry.slide_id] * count),
        "patient_id": pa.array([slide.entry.patient_id] * count),
        "site": pa.array([slide.site] * count),
        "map": pa.array([state] * count),
        **{name: chosen[name] for name in ("patch_id", "x", "y")},
        "span": pa.array([float(grid.span)] * count),
        "label": pa.nulls(count, pa.string()),
        "predicted": pa.nulls(count, pa.string()),
        **{name: kept[name] for name in kept.column_names if name == "tissue" or name.startswith("area_")},
    }
    with open_slide(slide.entry.manifest) as reader:
        pixels = [
            reader.read(Level0Pixels(x), Level0Pixels(y), grid.grid.size, grid.grid.mpp)
            for x, y in zip(chosen["x"].to_pylist(), chosen["y"].to_pylist(), strict=True)
        ]
    return pa.table(columns), np.concatenate([shrink(one[None]) for one in pixels])
