"""Patch tables: for each grid cell of a slide its tissue, its annotated areas, and why it is excluded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from histomake.annotation.coverage import mask_shares
from histomake.annotation.model import Annotation
from histomake.annotation.raster import area_shares, labels_at
from histomake.base.records.manifest import Manifest
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined
from histomake.base.tables import write_table
from histomake.config import Grid
from histomake.patch.grid import SlideGrid
from histomake.patch.placement import placement_warnings
from histomake.patch.table import METADATA_KEY, REASONS
from histomake.tissue.artefacts import BLUR, FOLD, PEN, ArtefactMap
from histomake.tissue.mask import TissueMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

BAND_CELLS = 1_000_000
"""Cells computed together, so that memory for intermediate areas does not grow with the slide."""

DECIMALS = 4
"""Decimals of stored shares: 0.01 % of the patch. Finer values are noise, and rounded columns compress far better."""


def schema(class_names: Sequence[str]) -> pa.Schema:
    """Columns of every patch table with these annotation classes."""
    return pa.schema(
        [
            ("patch_id", pa.uint32()),
            ("x", pa.int32()),
            ("y", pa.int32()),
            ("tissue", pa.float32()),
            *((f"area_{name}", pa.float32()) for name in class_names),
            ("excluded", pa.dictionary(pa.int8(), pa.string())),
        ]
    )


def tabulate(
    manifest: Manifest,
    tissue: TissueMask,
    artefacts: ArtefactMap,
    annotation: Annotation,
    grid: Grid,
    class_names: Sequence[str],
    *,
    grid_name: str,
    max_share: float,
) -> pa.Table:
    """Return the patch table of one slide: all grid cells, sorted by y, then x.

    ``tissue`` and ``area_<class>`` are shares of the whole patch; area outside the slide counts as neither.
    ``excluded`` is the first reason in `REASONS` that applies, or "" for a patch to use.

    Args:
        manifest: the slide's manifest, for its size, mpp and fingerprint.
        tissue, artefacts, annotation: of the same slide.
        grid: the section ``grids.<name>``.
        class_names: annotation classes in column order.
        grid_name: name of the grid, kept in the file's metadata.
        max_share: a patch with more of an artefact than this, as a share of its tissue, is excluded.

    Returns:
        A table of `schema`, with metadata under the key ``histomake``.
    """
    slide_grid = SlideGrid(manifest.width, manifest.height, manifest.mpp, grid)
    columns, rows = slide_grid.axes()
    length = slide_grid.span
    band = max(1, BAND_CELLS // max(1, columns.size))
    parts = [
        _band(columns, rows[top : top + band], length, tissue, artefacts, annotation, class_names)
        for top in range(0, rows.size, band)
    ]
    shares = {name: np.concatenate([part[name].ravel() for part in parts]) for name in parts[0]}
    x, y = np.tile(columns, rows.size), np.repeat(rows, columns.size)
    columns_over, rows_over = slide_grid.over_edge()
    over = rows_over[:, None] | columns_over
    outside = ~labels_at(annotation, grid.roi, x + length / 2, y + length / 2) if grid.roi else None
    reason = _reasons(shares, over.ravel(), outside, grid, max_share)
    too_coarse = slide_grid.too_coarse
    if too_coarse:
        reason[:] = REASONS.index("too_coarse")
    arrays = [
        pa.array(np.arange(x.size, dtype=np.uint32)),
        pa.array(x),
        pa.array(y),
        pa.array(np.round(shares["tissue"], DECIMALS)),
        *map(pa.array, _rounded_areas(shares, class_names, annotation)),
        pa.DictionaryArray.from_arrays(pa.array(reason), pa.array(REASONS)),
    ]
    table = pa.Table.from_arrays(arrays, schema=schema(class_names))
    record = PatchTableRecord(
        slide_id=manifest.slide_id,
        sha256=manifest.sha256,
        width=manifest.width,
        height=manifest.height,
        mpp=manifest.mpp,
        grid_name=grid_name,
        grid=grid.dump(),
        warnings=((too_coarse,) if too_coarse else ())
        + _placement_warnings(shares, class_names, annotation, manifest, slide_grid),
    )
    return table.replace_schema_metadata({METADATA_KEY: record.encode(f"patch table of {manifest.slide_id}")})


def empty_table(outcome: Quarantined, class_names: Sequence[str]) -> pa.Table:
    """Return the table of a quarantined slide: no rows, the same schema, the quarantine entry in the metadata."""
    table = schema(class_names).empty_table()
    return table.replace_schema_metadata({METADATA_KEY: outcome.encode(f"patch table of {outcome.slide_id}")})


def write_patch_table(table: pa.Table, path: Path | str) -> None:
    """Write a patch table as Parquet, atomically, with an encoding for each type of column."""
    floats = [name for name in table.column_names if pa.types.is_floating(table.field(name).type)]
    encoding = dict.fromkeys(("patch_id", "x", "y"), "DELTA_BINARY_PACKED") | dict.fromkeys(floats, "BYTE_STREAM_SPLIT")
    write_table(table, path, compression_level=9, use_dictionary=["excluded"], column_encoding=encoding)


def _band(
    columns: NDArray[np.int32],
    rows: NDArray[np.int32],
    length: float,
    tissue: TissueMask,
    artefacts: ArtefactMap,
    annotation: Annotation,
    class_names: Sequence[str],
) -> dict[str, NDArray[np.float32]]:
    """Shares of some rows of cells, each float32 (rows, columns), by column name."""
    scale = {"downsample_x": tissue.downsample_x, "downsample_y": tissue.downsample_y}
    labels = artefacts.labels
    masks = {
        "tissue": tissue.mask,
        "covered": tissue.mask | (labels == PEN),
        "pen": labels == PEN,
        "fold": tissue.mask & (labels == FOLD),
        "blur": tissue.mask & (labels == BLUR),
    }
    shares = {name: mask_shares(mask, columns, rows, length, **scale) for name, mask in masks.items()}
    areas = area_shares(annotation, class_names, columns, rows, length)
    return shares | {f"area_{name}": area for name, area in areas.items()}


def _placement_warnings(
    shares: dict[str, NDArray[np.float32]],
    class_names: Sequence[str],
    annotation: Annotation,
    manifest: Manifest,
    slide_grid: SlideGrid,
) -> tuple[str, ...]:
    """Warnings about an annotation that lies mostly on glass; regions of interest may include glass."""
    labels = [shares[f"area_{name}"] for name in class_names if name not in _roi(annotation)]
    tissue = shares["tissue"]
    columns, rows = slide_grid.axes()
    return placement_warnings(
        np.minimum(np.sum(labels, axis=0), 1) if labels else np.zeros(tissue.size, np.float32),
        tissue,
        annotation,
        manifest,
        columns=columns,
        rows=rows,
        span=slide_grid.span,
    )


def _rounded_areas(
    shares: dict[str, NDArray[np.float32]], class_names: Sequence[str], annotation: Annotation
) -> list[NDArray[np.float32]]:
    """Rounded shares float32 (n,) of each class; those of classes that label pixels sum to at most 1.

    Where rounding makes the sum larger, the largest share is lowered by the difference.
    """
    if not class_names:
        return []
    units = np.rint(np.stack([shares[f"area_{name}"] for name in class_names]) * 10**DECIMALS).astype(np.int32)
    labels = np.array([name not in _roi(annotation) for name in class_names])
    excess = np.maximum(units[labels].sum(axis=0) - 10**DECIMALS, 0)
    largest = np.where(labels[:, None], units, -1).argmax(axis=0)
    units[largest, np.arange(units.shape[1])] -= excess
    return list((units / 10**DECIMALS).astype(np.float32))


def _roi(annotation: Annotation) -> tuple[str, ...]:
    """Classes that only bound regions of interest."""
    return annotation.record.roi if annotation.record is not None else ()


def _reasons(
    shares: dict[str, NDArray[np.float32]],
    over_edge: NDArray[np.bool_],
    outside_roi: NDArray[np.bool_] | None,
    grid: Grid,
    max_share: float,
) -> NDArray[np.int8]:
    """Index into `REASONS` per patch.

    A patch with too little tissue only because ink covers it is excluded as pen, so that a hidden tumour is not counted
    as background.
    """
    tissue, covered = shares["tissue"], shares["covered"]
    # Shares are float32: a patch of exactly min_tissue must not fall below it by rounding.
    enough = tissue >= grid.min_tissue - 1e-6
    under_pen = ~enough & (covered >= grid.min_tissue - 1e-6) & (shares["pen"] > 0)
    applies = {
        "edge": over_edge if grid.border == "drop" else np.zeros_like(over_edge),
        "background": ~enough & ~under_pen,
        "outside_roi": np.zeros_like(over_edge) if outside_roi is None else outside_roi,
        "pen": under_pen | (shares["pen"] > max_share * covered),
        "fold": shares["fold"] > max_share * tissue,
        "blur": shares["blur"] > max_share * tissue,
    }
    reason = np.zeros(tissue.size, np.int8)
    for name in reversed(applies):
        reason[applies[name]] = REASONS.index(name)
    return reason
