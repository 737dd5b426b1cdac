"""The export of features as SpatialData, read by the package itself.

Its import takes seconds and gigabytes of address space, so no other test file should pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from histomake.annotation.model import Annotation
from histomake.annotation.write import write_annotation
from histomake.base.layout import Layout
from histomake.base.records.features import FeatureColumn, FeatureRecord
from histomake.cli import main
from histomake.config import Grid
from histomake.features.store import write_features
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from histomake.tissue.outlines import outlines
from small_cohort import CLASSES, GRID_NAME, SIDE, build_slide

from tests import sample_records

if TYPE_CHECKING:
    import spatialdata

MPP = 0.5
SPAN = 128
"""Level-0 pixels of a patch of 64 px at 1 µm."""
SCALE = 16
MASK = np.zeros((SIDE // SCALE,) * 2, bool)
MASK[2:30, 5:32] = True
MASK[10:14, 10:20] = False
OUTLINE = shapely.box(5 * SCALE, 2 * SCALE, 32 * SCALE, 30 * SCALE)
HOLE = shapely.box(10 * SCALE, 10 * SCALE, 20 * SCALE, 14 * SCALE)


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """A slide of 0.5 µm per pixel with features of an encoder `e`; its tissue has a hole."""
    monkeypatch.setattr("small_cohort.MPP", MPP)
    layout = Layout(tmp_path / "results")
    entry = build_slide(layout, "s0", seed=0, grid=Grid(size=64, mpp=1.0))
    layout.tissue("s0").parent.mkdir()
    layout.features("e", "s0").parent.mkdir(parents=True)
    sample_records.tissue_mask(MASK, SCALE).save(layout.tissue_mask("s0"), layout.tissue("s0"))
    write_vectors(layout, entry)
    return layout


def write_vectors(layout: Layout, entry: SlideEntry, *, rows: slice = slice(None)) -> None:
    """Write vectors of three numbers for the kept patches of the slide, or some of them."""
    table, record = usable_patches(entry)
    column = FeatureColumn(
        encoder="e", fold=None, identity="i", weights="", dimensions=3, dtype="float32", settings={}, card={}
    )
    described = FeatureRecord(
        slide_id="s0",
        sha256="ab" * 32,
        grid_name=GRID_NAME,
        grid=record.grid,
        mpp=1.0,
        code="c",
        made_of="m",
        columns=[column],
    )
    vectors = np.arange(len(table) * 3, dtype=np.float32).reshape(-1, 3)[rows]
    places = {name: table[name].to_numpy()[rows] for name in ("patch_id", "x", "y")}
    write_features(layout.features("e", "s0"), described, places, {"e": vectors})


def entry_of(layout: Layout) -> SlideEntry:
    return SlideEntry.at(layout, GRID_NAME, "s0", "patient-s0", {})


def exported(layout: Layout) -> spatialdata.SpatialData:
    import spatialdata

    folder = layout.results / "exported"
    options = ["--encoder", "e", "--format", "spatialdata", "--results", str(layout.results)]
    assert main(["export-features", str(folder), *options]) == 0
    return spatialdata.read_zarr(folder / "s0.zarr")


def test_every_patch_is_a_square_with_the_features_of_its_row(layout):
    found = exported(layout)
    table, patches = found.tables["features"], found.shapes["patches"]
    assert (np.arange(table.n_obs * 3).reshape(-1, 3) == table.X).all()
    assert table.obs["region"].unique().tolist() == ["patches"]
    assert (table.obs["patch_id"].to_numpy() == patches.index.to_numpy()).all()
    kept, _ = usable_patches(entry_of(layout))
    x, y = (kept[name].to_numpy() for name in ("x", "y"))
    assert (patches.bounds.to_numpy() == np.stack([x, y, x + SPAN, y + SPAN], axis=1)).all()
    assert (table.obsm["spatial"] == np.stack([x, y], axis=1) + SPAN / 2).all()
    for name in CLASSES:
        assert np.allclose(table.obs[f"area_{name}"], kept[f"area_{name}"].to_numpy())


def test_the_table_has_predictions_and_gaps_where_there_are_none(layout):
    patches = usable_patches(entry_of(layout))[0]["patch_id"][1:]
    score = pa.array(np.linspace(0, 1, len(patches)), pa.float32())
    predicted = pa.array(["smooth"] * len(patches))
    layout.prediction("t", 0, "s0").parent.mkdir(parents=True)
    predictions = pa.table({"patch_id": patches, "score_speckled": score, "predicted": predicted})
    pq.write_table(predictions, layout.prediction("t", 0, "s0"))
    found = exported(layout).tables["features"].obs
    assert found["t.fold0.predicted"].isna().tolist() == [True] + [False] * len(patches)
    assert found["t.fold0.predicted"].iloc[1] == "smooth"
    assert np.allclose(found["t.fold0.score_speckled"], [np.nan, *score.to_pylist()], equal_nan=True)


def test_the_package_finds_the_shapes_that_the_table_annotates(layout):
    import spatialdata

    found = exported(layout)
    matched, rows = spatialdata.match_element_to_table(found, element_name="patches", table_name="features")
    assert len(matched["patches"]) == rows.n_obs == found.tables["features"].n_obs
    chosen = found.query.bounding_box(
        axes=("x", "y"),
        min_coordinate=[130 * MPP] * 2,
        max_coordinate=[250 * MPP] * 2,
        target_coordinate_system="global",
    )
    corners = found.shapes["patches"].loc[chosen.tables["features"].obs["patch_id"]].bounds
    assert corners[["minx", "miny"]].to_numpy().tolist() == [[SPAN, SPAN]]


def test_shapes_become_micrometres_in_the_global_coordinate_system(layout):
    import spatialdata

    found = exported(layout)
    assert found.coordinate_systems == ["global"]
    for name, element in found.shapes.items():
        moved = spatialdata.transform(element, to_coordinate_system="global")
        assert np.allclose(moved.total_bounds, element.total_bounds * MPP), name


def test_tissue_has_its_outlines_and_holes(layout):
    tissue = exported(layout).shapes["tissue"]
    (piece,) = tissue.geometry
    assert piece.equals(OUTLINE - HOLE)


def test_annotation_has_regions_as_drawn_with_their_classes(layout):
    found = exported(layout).shapes["annotation"]
    regions = Annotation.load(layout.annotation("s0")).regions
    assert found["class"].tolist() == [name for name, _ in regions] == CLASSES
    assert all(a.equals(b) for a, (_, b) in zip(found.geometry, regions, strict=True))


def test_a_slide_without_annotation_and_tissue_has_patches_alone(layout):
    labels = layout.results / "labels.zarr"
    empty = Annotation((), [], record=sample_records.no_annotation("s0"))
    write_annotation(empty, record=layout.annotation("s0"), geojson=layout.outlines("s0"), labels=labels)
    glass = sample_records.tissue_mask(np.zeros_like(MASK), SCALE)
    glass.save(layout.tissue_mask("s0"), layout.tissue("s0"))
    assert list(exported(layout).shapes) == ["patches"]


def test_a_slide_without_patches_is_exported_with_what_it_has(layout):
    write_vectors(layout, entry_of(layout), rows=slice(0))
    found = exported(layout)
    assert sorted(found.shapes) == ["annotation", "tissue"]
    assert not found.tables


def test_an_export_replaces_the_one_before(layout):
    exported(layout)
    assert exported(layout).tables["features"].n_obs


# --- outlines of tissue ---------------------------------------------------------------------------------------------


def test_outlines_cover_the_mask_and_nothing_else():
    mask = np.random.default_rng(0).random((40, 50)) < 0.6
    tissue = sample_records.tissue_mask(mask, 12.5)
    pieces = outlines(tissue)
    assert all(piece.is_valid for piece in pieces)
    assert sum(piece.area for piece in pieces) == pytest.approx(mask.sum() * 12.5**2)
    y, x = np.indices(mask.shape)
    inside = shapely.contains_xy(shapely.MultiPolygon(pieces).buffer(0), (x + 0.5) * 12.5, (y + 0.5) * 12.5)
    assert (inside == mask).all()


def test_outlines_have_no_needless_corners():
    (piece,) = outlines(sample_records.tissue_mask(np.ones((30, 20), bool), 16))
    assert len(piece.exterior.coords) == 5


def test_an_empty_mask_has_no_outlines():
    assert outlines(sample_records.tissue_mask(np.zeros((3, 3), bool), 16)) == []
