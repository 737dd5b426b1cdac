"""Features that another program has extracted, as features of a grid: every kept patch gets the vector at its place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.errors import HistomakeError
from histomake.base.records.encoder_card import EncoderCard
from histomake.base.records.features import FeatureColumn, FeatureRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined
from histomake.config import Encoder
from histomake.features.h5_files import PatchFile, read_h5
from histomake.features.store import PLACES, write_features
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from histomake.patch.grid import SlideGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAME_SPAN = 0.02
"""Relative difference below which two patch sizes are the same."""

NEAR_PX = 1.5
"""Level-0 pixels between the place of a patch in the file and on the grid: programs round differently."""

LEVELS = (2, 4, 8, 16, 32)
"""Reductions that coordinates of a coarser level could have."""


def imported_file(encoder: Encoder, slide: str) -> Path:
    """File of a slide."""
    return Path(encoder.target) / f"{slide}.h5"


def import_slide(encoder: Encoder, entry: SlideEntry, output: Path, *, name: str, code: str, made_of: str) -> None:
    """Write the features of a slide from the file of another program; of a slide in quarantine, a file without rows.

    Raises HistomakeError if the file is missing or damaged, if its coordinates are not those of the grid, or if a
    vector is not finite.
    """
    table, record = usable_patches(entry)
    places = {column: table[column].to_numpy() for column, _ in PLACES}
    if isinstance(record, Quarantined):
        write_features(output, record, places, {name: np.zeros((0, 1), encoder.dtype)})
        return
    grid, path = SlideGrid.of_table(record), imported_file(encoder, entry.slide_id)
    found = read_h5(path)
    rows = match(found, grid, np.stack([places["x"], places["y"]], axis=1).astype(np.int64), path=path)
    with np.errstate(over="ignore"):
        vectors = found.vectors[rows].astype(encoder.dtype)
    _check_finite(vectors, places, entry.slide_id, path)
    described = FeatureRecord(
        slide_id=entry.slide_id,
        sha256=Manifest.read_usable(entry.manifest).sha256,
        grid_name=record.grid_name,
        grid=record.grid,
        mpp=grid.grid.mpp,
        code=code,
        made_of=made_of,
        columns=[_column(encoder, found, grid, name)],
    )
    write_features(output, described, places, {name: vectors})


def match(found: PatchFile, grid: SlideGrid, wanted: NDArray[np.int64], *, path: Path) -> NDArray[np.int64]:
    """Row of the file for each place (n, 2) of the grid, in level-0 pixels.

    Raises HistomakeError unless the file has patches of the grid's size, on the slide, one at each place.
    """
    scale = 1 / grid.mpp if found.micrometres else 1.0
    coords, span = found.coords * scale, None if found.span is None else found.span * scale
    if span is not None and abs(span / grid.span - 1) > SAME_SPAN:
        raise HistomakeError(
            f"{path}: its patches have an edge of {span:.5g} level-0 pixels, those of the grid {grid.span:.5g}; choose "
            "the grid with that size and mpp"
        )
    last = (grid.width, grid.height)
    off = np.flatnonzero(((coords < -NEAR_PX) | (coords + NEAR_PX >= last)).any(axis=1))
    if len(off):
        x, y = coords[off[0]]
        raise HistomakeError(
            f"{path}: {len(off)} patches lie off the slide, the first at x={x:.0f} y={y:.0f}, and the slide has "
            f"{grid.width} x {grid.height} pixels; it is the file of another slide, or of another resolution"
        )
    rows = _rows(coords, wanted)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        x, y = wanted[missing[0]].tolist()
        fits = [factor for factor in LEVELS if (_rows(coords * factor, wanted) >= 0).mean() > 0.5]
        hint = f"; its coordinates fit if multiplied by {fits[0]}: they are of another level" if fits else ""
        raise HistomakeError(
            f"{path}: it has no vector for {len(missing)} of {len(wanted)} kept patches of the grid, the first at "
            f"x={x} y={y}{hint}. Extract features at the patches of the grid, which "
            "`histomake export-features --coordinates` writes for TRIDENT"
        )
    return rows


def _rows(coords: NDArray[np.float64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the nearest coordinate of each place, −1 where none is near."""
    if not len(coords):
        return np.full(len(wanted), -1, np.int64)
    from scipy.spatial import KDTree

    away, rows = KDTree(coords).query(wanted, p=np.inf, distance_upper_bound=NEAR_PX)
    return np.where(np.isfinite(away), rows, -1).astype(np.int64)


def _check_finite(vectors: NDArray[np.floating], places: dict[str, NDArray[np.int64]], slide: str, path: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        x, y = int(places["x"][bad[0]]), int(places["y"][bad[0]])
        raise HistomakeError(
            f"slide {slide} patch at x={x} y={y}: its vector in {path} is not finite, or too large for "
            f"{vectors.dtype}; extract it again, or set dtype: float32"
        )


def _column(encoder: Encoder, found: PatchFile, grid: SlideGrid, name: str) -> FeatureColumn:
    """What is known of the features. Their identity is the name of the folder and what the files say."""
    folder, dimensions = Path(encoder.target).name, int(found.vectors.shape[1])
    card = EncoderCard(
        name=found.extractor or folder,
        architecture=f"{found.layout} file",
        mpp=grid.grid.mpp,
        px=grid.grid.size,
        # The pixels were prepared elsewhere; nothing is subtracted or divided here.
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        pool="network",
        dimensions=dimensions,
        licence="",
        source=f"{found.layout} file in {folder}",
    )
    shaping = [folder, found.extractor, dimensions, encoder.dtype, grid.grid.size, grid.grid.mpp]
    return FeatureColumn(
        encoder=name,
        fold=None,
        identity=hashlib.sha256(json.dumps(shaping).encode()).hexdigest(),
        weights="",
        dimensions=dimensions,
        dtype=encoder.dtype,
        settings={"dtype": encoder.dtype},
        card=card.dump(),
    )
