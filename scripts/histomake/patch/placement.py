"""Check whether an annotation lies on tissue, or may have another unit or belong to another level or slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from histomake.annotation.coverage import polygon_shares
from histomake.annotation.model import Annotation
from histomake.base.records.manifest import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_ON_TISSUE = 0.5
"""An annotation with less of its area on tissue is doubtful."""

LEAST_INSIDE = 0.98
"""Least share of the enlarged annotation inside the slide, for another unit to be a possible reason."""


def placement_warnings(
    areas: NDArray[np.float32],
    tissue: NDArray[np.float32],
    annotation: Annotation,
    manifest: Manifest,
    *,
    columns: NDArray[np.int32],
    rows: NDArray[np.int32],
    span: float,
) -> tuple[str, ...]:
    """Warn that an annotation lies mostly on glass, and name the unit or level that would put it on tissue.

    The share on tissue is an upper bound from the cells of a grid: no cell has more annotated tissue than tissue or
    annotation. Regions of interest are ignored, since they may include glass.

    Args:
        areas: annotated share of each cell, (n,).
        tissue: tissue share of each cell, (n,).
        annotation, manifest: of the slide.
        columns, rows, span: the grid's cells, row by row, in level-0 pixels.
    """
    total = float(areas.sum(dtype=np.float64))
    if total == 0:
        return ()
    on_tissue = _overlap(areas, tissue)
    if on_tissue >= LEAST_ON_TISSUE:
        return ()
    others = [
        f"{what}, {found:.0%} would"
        for what, factor in _other_units(manifest)
        if (found := _on_tissue_if_enlarged(annotation, factor, tissue, manifest, columns, rows, span)) > on_tissue
        and found >= LEAST_ON_TISSUE
    ]
    hint = f" {others[0]}." if others else ""
    return (
        f"At most {on_tissue:.0%} of the annotated area lies on tissue, which covers {tissue.mean():.0%} of the slide; "
        f"the annotation may belong to another slide, or have another unit or level.{hint}",
    )


def _overlap(areas: NDArray[np.float32], tissue: NDArray[np.float32]) -> float:
    return float(np.minimum(areas, tissue).sum(dtype=np.float64) / areas.sum(dtype=np.float64))


def _other_units(manifest: Manifest) -> list[tuple[str, float]]:
    """What coordinates may be instead of level-0 pixels, and by how much they would have to be enlarged."""
    units = [(f"Read as µm, at {manifest.mpp:.4g} µm per pixel", 1 / manifest.mpp)]
    units += [(f"Read as pixels of level {level.path}", level.downsample) for level in manifest.levels[1:]]
    return [(what, factor) for what, factor in units if factor > 1]


def _on_tissue_if_enlarged(
    annotation: Annotation,
    factor: float,
    tissue: NDArray[np.float32],
    manifest: Manifest,
    columns: NDArray[np.int32],
    rows: NDArray[np.int32],
    span: float,
) -> float:
    """Share of the enlarged annotation that may lie on tissue; 0 if it would leave the slide or is a mask."""
    if not annotation.labelled:
        return 0.0
    regions = shapely.transform([geometry for _, geometry in annotation.labelled], lambda points: points * factor)
    inside = shapely.clip_by_rect(regions, 0, 0, manifest.width, manifest.height)
    if shapely.area(inside).sum() < LEAST_INSIDE * shapely.area(regions).sum():
        return 0.0
    union = shapely.disjoint_subset_union_all(regions)
    areas = polygon_shares(union, columns, rows, span).ravel()
    return _overlap(areas, tissue) if areas.any() else 0.0
