"""Extraction of the features of chosen patches.

Vectors that were computed once are kept among the caches, so that a larger choice costs only the difference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from histomake.base.errors import HistomakeError
from histomake.base.records.features import FeatureColumn, FeatureRecord, column_name
from histomake.base.records.manifest import Manifest
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined
from histomake.features.choice import Chooser, patches_chosen
from histomake.features.encoders import ReadyEncoder
from histomake.features.extract import Pixels, encode_pixels, read_pixels
from histomake.features.store import PLACES, Features, read_features, write_features
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from histomake.patch.grid import SlideGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredSlide:
    """A slide whose patches are chosen: its entry, the patch table of the models that choose, and their predictions.

    known: file with the vectors of patches that were encoded before; it need not exist.
    """

    entry: SlideEntry
    coarse_table: Path
    predictions: Sequence[Path]
    known: Path


@dataclass(frozen=True)
class OpenChosen:
    """The chosen patches of a slide, in order of the patch table.

    record: of its patch table, or its quarantine entry. places: columns of the patches that any model chose. given:
    which of them each model chose, bool (n,). known: vectors (n, d); those of the rows ``missing`` are still to be
    computed from ``pixels``, None if there are none.
    """

    slide: ScoredSlide
    record: PatchTableRecord | Quarantined
    places: Mapping[str, NDArray[Any]]
    given: Sequence[NDArray[np.bool_]]
    known: NDArray[np.floating]
    missing: NDArray[np.int64]
    pixels: Pixels | None


@contextmanager
def open_chosen(
    encoder: ReadyEncoder, slide: ScoredSlide, chooser: Chooser, *, batch: int, threads: int
) -> Iterator[OpenChosen]:
    """Choose patches of a slide, and begin to read those that were not encoded before."""
    patches, record = usable_patches(slide.entry)
    chosen = _chosen(slide, chooser, patches, record)
    if isinstance(chosen, Quarantined):
        record, chosen = chosen, [np.zeros(patches.num_rows, bool) for _ in chooser.folds]
    rows = np.flatnonzero(np.any(chosen, axis=0))
    places = {name: patches[name].to_numpy()[rows] for name, _ in PLACES}
    given = [one[rows] for one in chosen]
    vectors, missing = _known_vectors(encoder.column, slide, record, places["patch_id"])
    if not len(missing):
        yield OpenChosen(slide, record, places, given, vectors, missing, None)
        return
    new = {name: values[missing] for name, values in places.items()}
    grid = SlideGrid.of_table(record).grid
    with read_pixels([encoder], slide.entry, grid, new, batch=batch, threads=threads) as pixels:
        yield OpenChosen(slide, record, places, given, vectors, missing, pixels)


def _chosen(
    slide: ScoredSlide, chooser: Chooser, patches: pa.Table, record: PatchTableRecord | Quarantined
) -> list[NDArray[np.bool_]] | Quarantined:
    """Which usable patches each model chose; the quarantine entry of a slide that has one."""
    if isinstance(record, Quarantined):
        return record
    grid = SlideGrid.of_table(record)
    chosen = patches_chosen(chooser.choice, patches, grid, slide.coarse_table, slide.predictions)
    if not isinstance(chosen, Quarantined):
        numbers = ", ".join(str(np.count_nonzero(one)) for one in chosen)
        log.info("slide %s: %s of %d patches are chosen", slide.entry.slide_id, numbers, patches.num_rows)
    return chosen


def _known_vectors(
    column: FeatureColumn,
    slide: ScoredSlide,
    record: PatchTableRecord | Quarantined,
    patch_id: NDArray[np.uint32],
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Vectors (n, d) of patches as far as they were encoded before, and the rows of the others."""
    vectors = np.zeros((len(patch_id), column.dimensions), column.dtype)
    found = None if isinstance(record, Quarantined) else _read_known(column, slide, record)
    if found is None:
        return vectors, np.arange(len(patch_id))
    _, here, there = np.intersect1d(patch_id, found.patch_id, assume_unique=True, return_indices=True)
    vectors[here] = found.vectors(column.encoder)[there]
    return vectors, np.setdiff1d(np.arange(len(patch_id)), here)


def _read_known(column: FeatureColumn, slide: ScoredSlide, record: PatchTableRecord) -> Features | None:
    """The vectors that are kept of a slide, if they are of the same pixels and the same encoder."""
    if not slide.known.is_file():
        return None
    try:
        found = read_features(slide.known)
        vectors = found.column(column.encoder)
    except HistomakeError as error:
        log.warning("%s is not used: %s", slide.known, error)
        return None
    assert isinstance(found.record, FeatureRecord)
    same = found.record.sha256 == Manifest.read_usable(slide.entry.manifest).sha256
    same &= found.record.grid == record.grid and vectors is not None and vectors.identity == column.identity
    return found if same else None


def write_chosen(
    encoder: ReadyEncoder,
    chooser: Chooser,
    opened: OpenChosen,
    output: Path,
    *,
    code: str,
    made_of: str,
    nearly_read: Callable[[], None] = lambda: None,
) -> None:
    """Write the features of a slide whose patches are chosen: a column per model, null where it did not choose.

    Args, and raised errors: as of `histomake.features.extract.extract_open`.
    """
    slide, record, vectors = opened.slide, opened.record, opened.known
    if opened.pixels is not None:
        found = np.zeros((len(opened.missing), vectors.shape[1]), vectors.dtype)
        encode_pixels([encoder], slide.entry, opened.pixels, {encoder.name: found}, nearly_read=nearly_read)
        vectors[opened.missing] = found
    columns = chooser.columns(encoder.column)
    names = [column_name(column.encoder, column.fold) for column in columns]
    given = dict(zip(names, opened.given, strict=True))
    if isinstance(record, Quarantined):
        write_features(output, record, opened.places, dict.fromkeys(names, vectors), given)
        return
    described = FeatureRecord(
        slide_id=slide.entry.slide_id,
        sha256=Manifest.read_usable(slide.entry.manifest).sha256,
        grid_name=record.grid_name,
        grid=record.grid,
        mpp=SlideGrid.of_table(record).grid.mpp,
        code=code,
        made_of=made_of,
        columns=columns,
    )
    if opened.pixels is not None:
        _keep(encoder.column, described, opened, vectors)
    write_features(output, described, opened.places, dict.fromkeys(names, vectors), given)


def _keep(column: FeatureColumn, described: FeatureRecord, opened: OpenChosen, vectors: NDArray[np.floating]) -> None:
    """Add vectors to those that are kept of a slide."""
    slide, places, record = opened.slide, dict(opened.places), opened.record
    assert isinstance(record, PatchTableRecord)
    if (earlier := _read_known(column, slide, record)) is not None:
        others = np.flatnonzero(~np.isin(earlier.patch_id, places["patch_id"]))
        vectors = np.concatenate([vectors, earlier.vectors(column.encoder)[others]])
        places = {n: np.concatenate([places[n], earlier.table[n].to_numpy()[others]]) for n in places}
        order = np.argsort(places["patch_id"])
        vectors, places = vectors[order], {name: values[order] for name, values in places.items()}
    slide.known.parent.mkdir(parents=True, exist_ok=True)
    kept = msgspec.structs.replace(described, columns=[column])
    write_features(slide.known, kept, places, {column.encoder: vectors})


def write_no_chosen(encoder: ReadyEncoder, chooser: Chooser, entry: Quarantined, output: Path) -> None:
    """Write the features of a slide in quarantine: no rows, the same columns, the entry as the record."""
    names = [column_name(column.encoder, column.fold) for column in chooser.columns(encoder.column)]
    none = np.zeros((0, encoder.column.dimensions), encoder.column.dtype)
    write_features(output, entry, {name: np.zeros(0, np.int32) for name, _ in PLACES}, dict.fromkeys(names, none))
