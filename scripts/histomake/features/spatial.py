"""Features as SpatialData (Marconato et al. 2024): patches, tissue and annotation as shapes, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from histomake.annotation.model import Annotation
from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_directory
from histomake.base.layout import Layout
from histomake.features.exports import annotated_features, corners
from histomake.features.search import FeatureCohort
from histomake.tissue.mask import TissueMask
from histomake.tissue.outlines import outlines

PATCHES, TISSUE, ANNOTATION, TABLE = "patches", "tissue", "annotation", "features"
"""Names of the elements."""
GLOBAL = "global"
"""Name of the coordinate system, in micrometres from the top left corner of the slide."""


def export_spatialdata(layout: Layout, cohort: FeatureCohort, slide: str, path: Path) -> int:
    """Write a slide as SpatialData, a Zarr folder; return the number of patches.

    Table ``features``: what `histomake.features.exports.export_anndata` writes; its rows annotate the shapes
    ``patches`` by ``patch_id``. Shapes, in level-0 pixels: ``patches`` (squares, also beyond the edge of the slide),
    ``tissue``, and ``annotation`` (regions as drawn, with ``class``), each with the scale to ``global``, which is in
    micrometres. SpatialData has no empty shapes: an element without shapes is left out, and the table with the patches.
    Raises HistomakeError if spatialdata is not installed.
    """
    try:
        import spatialdata
    except ImportError as error:
        raise HistomakeError("the package spatialdata is not installed; `pip install spatialdata` adds it") from error
    table, features, grid = annotated_features(layout, cohort, slide)
    left, top = corners(features).T
    squares = shapely.box(left, top, left + grid.span, top + grid.span)
    tissue = outlines(TissueMask.load(layout.tissue_mask(slide), layout.tissue(slide)))
    regions = Annotation.load(layout.annotation(slide)).regions
    named = {
        PATCHES: _shapes(squares, grid.mpp, index=features.patch_id),
        TISSUE: _shapes(tissue, grid.mpp),
        ANNOTATION: _shapes([shape for _, shape in regions], grid.mpp, classes=[name for name, _ in regions]),
    }
    found = spatialdata.SpatialData(
        shapes={name: shapes for name, shapes in named.items() if shapes is not None},
        tables={TABLE: _annotating(table)} if len(features) else {},
    )
    with atomic_directory(path) as aside:
        aside.rmdir()  # spatialdata creates the folder, and refuses to write into one that is no Zarr group
        found.write(aside)
    return len(features)


def _annotating(table: Any) -> Any:
    """The table, each of whose rows annotates the patch of its ``patch_id``."""
    from spatialdata.models import TableModel

    table.obs["region"] = np.full(table.n_obs, PATCHES)
    table.obs["region"] = table.obs["region"].astype("category")
    return TableModel.parse(table, region=PATCHES, region_key="region", instance_key="patch_id")


def _shapes(shapes: Any, mpp: float, *, index: Any = None, classes: Sequence[str] | None = None) -> Any:
    """A shapes element of polygons in level-0 pixels, or None if there are none."""
    from geopandas import GeoDataFrame
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Scale

    if not len(shapes):
        return None
    columns = {"class": list(classes)} if classes is not None else {}
    frame = GeoDataFrame({**columns, "geometry": list(shapes)}, index=index)
    return ShapesModel.parse(frame, transformations={GLOBAL: Scale([float(mpp)] * 2, axes=("x", "y"))})
