"""Extraction of the features of chosen patches of a slide."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histomake.base.records.features import FeatureRecord, column_name
from histomake.base.records.manifest import Manifest
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined
from histomake.features.choice import Chooser, patches_chosen
from histomake.features.encoders import ReadyEncoder
from histomake.features.extract import Pixels, encode_pixels, read_pixels
from histomake.features.kept import Expected, KeptFile, Vectors, known_vectors, no_vectors
from histomake.features.store import PLACES, write_features
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from histomake.patch.grid import SlideGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredSlide:
    """A slide whose patches are chosen: its entry, the patch table of the models that choose, and their predictions.

    ``kept``: features of an earlier choice.
    """

    entry: SlideEntry
    coarse_table: Path
    predictions: Sequence[Path]
    kept: KeptFile | None = None


@dataclass(frozen=True)
class OpenChosen:
    """The chosen patches of a slide, in order of the patch table.

    record: of its patch table, or its quarantine entry. places: columns of the patches that any model chose. given:
    which of them each model chose, bool (n,). vectors: those that are known. pixels: of the other patches; None
    if there are none.
    """

    slide: ScoredSlide
    record: PatchTableRecord | Quarantined
    places: Mapping[str, NDArray[Any]]
    given: Sequence[NDArray[np.bool_]]
    vectors: Vectors
    pixels: Pixels | None


@contextmanager
def open_chosen(
    encoder: ReadyEncoder, slide: ScoredSlide, chooser: Chooser, *, batch: int, threads: int, code: str
) -> Iterator[OpenChosen]:
    """Choose patches of a slide, and begin to read those whose vectors are not known."""
    patches, record = usable_patches(slide.entry)
    chosen = _chosen(slide, chooser, patches, record)
    if isinstance(chosen, Quarantined):
        record, chosen = chosen, [np.zeros(patches.num_rows, bool) for _ in chooser.folds]
    rows = np.flatnonzero(np.any(chosen, axis=0))
    places = {name: patches[name].to_numpy()[rows] for name, _ in PLACES}
    given = [one[rows] for one in chosen]
    if isinstance(record, Quarantined):
        yield OpenChosen(slide, record, places, given, no_vectors(encoder.column, 0), None)
        return
    sha256 = Manifest.read_usable(slide.entry.manifest).sha256
    vectors = known_vectors(slide.kept, Expected(sha256, record, encoder.column, code), places)
    new = {name: values[~vectors.known] for name, values in places.items()}
    if vectors.known.all():
        yield OpenChosen(slide, record, places, given, vectors, None)
        return
    grid = SlideGrid.of_table(record).grid
    with read_pixels([encoder], slide.entry, grid, new, batch=batch, threads=threads) as pixels:
        yield OpenChosen(slide, record, places, given, vectors, pixels)


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
    slide, record = opened.slide, opened.record
    vectors, known = opened.vectors.values, opened.vectors.known
    if known.any():
        log.info(
            "slide %s: %d of %d vectors are those of an earlier choice", slide.entry.slide_id, known.sum(), len(known)
        )
    if opened.pixels is not None:
        new = np.zeros((np.count_nonzero(~known), encoder.column.dimensions), encoder.column.dtype)
        encode_pixels([encoder], slide.entry, opened.pixels, {encoder.name: new}, nearly_read=nearly_read)
        vectors[~known] = new
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
        kept_from=opened.vectors.source,
        decoder=None if opened.pixels is None else opened.pixels.decoder,
    )
    write_features(output, described, opened.places, dict.fromkeys(names, vectors), given)


def write_no_chosen(encoder: ReadyEncoder, chooser: Chooser, entry: Quarantined, output: Path) -> None:
    """Write the features of a slide in quarantine: no rows, the same columns, the entry as the record."""
    names = [column_name(column.encoder, column.fold) for column in chooser.columns(encoder.column)]
    none = np.zeros((0, encoder.column.dimensions), encoder.column.dtype)
    write_features(output, entry, {name: np.zeros(0, np.int32) for name, _ in PLACES}, dict.fromkeys(names, none))
