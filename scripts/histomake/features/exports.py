"""Features for other programs: HDF5 as TRIDENT writes it, and AnnData with annotation and predictions.

SpatialData is written by `histomake.features.spatial`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file, existing
from histomake.base.layout import Layout
from histomake.features.h5_files import write_trident
from histomake.features.search import FeatureCohort
from histomake.features.store import Features
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table


def export_h5(layout: Layout, cohort: FeatureCohort, slide: str, path: Path) -> int:
    """Write the features of a slide as TRIDENT does; return the number of patches."""
    features, vectors, grid = _slide(layout, cohort, slide)
    write_trident(path, corners(features), grid, name=slide, vectors=np.asarray(vectors))
    return len(features)


def export_coordinates(layout: Layout, grid_name: str, slide: str, path: Path) -> int:
    """Write the kept patches of a slide as a file of coordinates for TRIDENT; return their number."""
    table, record = read_table(layout.table(grid_name, slide))
    grid = SlideGrid.of_table(record)
    kept = table.filter(pc.equal(table["excluded"].cast("string"), ""))
    places = np.stack([kept["x"].to_numpy(), kept["y"].to_numpy()], axis=1).astype(np.int64)
    write_trident(path, places, grid, name=slide)
    return len(places)


def export_anndata(layout: Layout, cohort: FeatureCohort, slide: str, path: Path) -> int:
    """Write a slide as AnnData (see `annotated_features`); return the number of patches."""
    found, features, _ = annotated_features(layout, cohort, slide)
    with atomic_file(path) as aside:
        found.write_h5ad(aside)
    return len(features)


def annotated_features(layout: Layout, cohort: FeatureCohort, slide: str) -> tuple[Any, Features, SlideGrid]:
    """The features of a slide as AnnData, their file, and the grid.

    ``X``: features float32. ``obs``: patch_id, tissue, shares of annotated classes (``area_<class>``), and for every
    task that predicted the slide its scores (``<task>.fold<k>.<column>``). ``obsm["spatial"]``: centres of the patches
    in level-0 pixels, as squidpy expects them. Raises HistomakeError if anndata is not installed.
    """
    try:
        import anndata
    except ImportError as error:
        raise HistomakeError("the package anndata is not installed; `pip install anndata` adds it") from error
    import pandas as pd

    features, vectors, grid = _slide(layout, cohort, slide)
    table, _ = read_table(layout.table(_grid_name(features), slide))
    kept = table.take(features.table["patch_id"])
    names = [name for name in kept.column_names if name == "tissue" or name.startswith("area_")]
    columns: dict[str, object] = {"slide_id": slide, "patch_id": features.patch_id}
    columns |= {name: kept[name].to_numpy() for name in names}
    obs = pd.DataFrame(columns, index=[f"{slide}:{patch}" for patch in features.patch_id])
    for task, fold, predictions in _predictions(layout, slide):
        mine = predictions.set_index("patch_id").reindex(obs["patch_id"])
        for name in mine.columns:
            if name.startswith("score_") or name in ("predicted", "label"):
                obs[f"{task}.{fold}.{name}"] = mine[name].to_numpy()
    found = anndata.AnnData(np.asarray(vectors, np.float32), obs=obs)
    found.obsm["spatial"] = corners(features) + grid.span / 2
    scales = {"spot_diameter_fullres": grid.span, "tissue_hires_scalef": 1.0}
    found.uns["spatial"] = {slide: {"images": {}, "scalefactors": scales}}
    found.uns["histomake"] = {"encoder": cohort.column, "identity": cohort.identity, "mpp": float(grid.mpp)}
    return found, features, grid


def corners(features: Features) -> Any:
    """Top left corners of the patches, int64 (n, 2) x and y, level-0 pixels."""
    return np.stack([features.table[name].to_numpy() for name in ("x", "y")], axis=1).astype(np.int64)


def _slide(layout: Layout, cohort: FeatureCohort, slide: str) -> tuple[Features, Any, SlideGrid]:
    features, vectors = cohort.of(slide)
    _, record = read_table(layout.table(_grid_name(features), slide))
    return features, vectors, SlideGrid.of_table(record)


def _grid_name(features: Features) -> str:
    return str(getattr(features.record, "grid_name", ""))


def _predictions(layout: Layout, slide: str) -> list[tuple[str, str, Any]]:
    """Task, fold and predictions of a slide."""
    found = []
    for path in existing(layout.prediction("*", "*", slide), under=layout.results):
        table = pq.read_table(path)
        for name in ("predicted", "label"):
            if name in table.column_names:
                position = table.column_names.index(name)
                table = table.set_column(position, name, table[name].cast("string"))
        found.append((path.parent.parent.name, path.parent.name, table.to_pandas()))
    return found
