"""Tests of cell tables: cells of every source are counted once, measured, and written for QuPath and the catalog."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from array_reader import ArrayReader
from histomake.annotation.drawn import Reading, SlideFrame
from histomake.annotation.geojson import read_geojson
from histomake.annotation.model import Annotation
from histomake.annotation.write import write_annotation, write_no_annotation
from histomake.base.errors import Reason, SlideError
from histomake.base.files import store_of, write_empty_store
from histomake.base.layout import Layout
from histomake.base.records.cell_table import CellTableRecord
from histomake.base.records.record import Quarantined
from histomake.cells import drawn
from histomake.cells.drawn import from_mask, from_outlines
from histomake.cells.files import label_image, outlines
from histomake.cells.job import CellFiles, make_cells
from histomake.cells.segmented import from_cascade, from_task, part_classes
from histomake.cells.table import neighbours, read_cells, schema, tabulate_cells
from histomake.config import Annotations, Cells, Convert
from histomake.slide.convert import convert
from scipy.spatial.distance import cdist
from skimage.measure import regionprops_table

from tests import sample_records

SIDE, MPP = 160, 0.5
ANNOTATED = Cells(source="annotation")


def slide(**values):
    return sample_records.manifest("s1", width=SIDE, height=SIDE, mpp=MPP, **values)


def picture(seed=0):
    return np.random.default_rng(seed).integers(60, 240, (SIDE, SIDE, 3)).astype(np.uint8)


def numbered_discs(radius=6, step=16, values=None):
    """Discs on a lattice that no tile of 32 px is aligned with, int32."""
    labels = np.zeros((SIDE, SIDE), np.int32)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = [(cy, cx) for cy in range(9, SIDE, step) for cx in range(9, SIDE, step)]
    for i, (cy, cx) in enumerate(centres):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = i + 1 if values is None else values[i]
    return labels


def tabulated(source, config=ANNOTATED, **settings):
    return tabulate_cells(source, ArrayReader(picture(), MPP), slide(), config, **settings)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(drawn, "TILE_PX", 32)


def test_a_numbered_mask_gives_one_row_per_number_with_its_measures(tmp_path, small_tiles):
    labels = numbered_discs(values=np.random.default_rng(1).permutation(100) * 7 + 1)
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, labels.astype(np.uint16), compression="zlib")
    table = tabulated(from_mask(path, slide(), ANNOTATED)).to_pandas().sort_values(["y", "x"])
    expected = regionprops_table(numbered_discs(), properties=("centroid", "area", "eccentricity", "solidity"))
    assert len(table) == 100
    np.testing.assert_allclose(table["y"], expected["centroid-0"] + 0.5)
    np.testing.assert_allclose(table["x"], expected["centroid-1"] + 0.5)
    np.testing.assert_allclose(table["area_um2"], expected["area"] * MPP**2)
    np.testing.assert_allclose(table["eccentricity"], expected["eccentricity"], atol=1e-3)
    assert table["class"].isna().all()
    assert sorted(table["cell_id"]) == list(range(1, 101))


def test_a_mask_of_a_coarser_level_is_measured_in_micrometres_and_placed_on_level_0(tmp_path):
    labels = np.zeros((SIDE // 4, SIDE // 4), np.uint8)
    labels[10:14, 20:26] = 1
    labels[30:32, 5:7] = 2
    np.save(tmp_path / "m.npy", labels)
    table = tabulated(from_mask(tmp_path / "m.npy", slide(), ANNOTATED)).to_pandas()
    assert table["x"].tolist() == [23 * 4, 6 * 4]
    assert table["y"].tolist() == [12 * 4, 31 * 4]
    assert table["area_um2"].tolist() == [24 * (4 * MPP) ** 2, 4 * (4 * MPP) ** 2]


def test_a_mask_with_one_value_is_parted(tmp_path):
    labels = (numbered_discs(radius=8) > 0).astype(np.uint8)
    np.save(tmp_path / "m.npy", labels)
    assert tabulated(from_mask(tmp_path / "m.npy", slide(), ANNOTATED)).num_rows == 100
    whole = Cells(source="annotation", neck_um=None)
    assert tabulated(from_mask(tmp_path / "m.npy", slide(), whole), whole).num_rows == 1


def test_an_empty_mask_gives_an_empty_table(tmp_path):
    np.save(tmp_path / "m.npy", np.zeros((SIDE, SIDE), np.uint8))
    table = tabulated(from_mask(tmp_path / "m.npy", slide(), ANNOTATED))
    assert table.num_rows == 0
    assert table.schema.equals(schema(ANNOTATED.neighbours_um))


def test_a_mask_of_classes_in_place_of_numbers_is_refused_with_what_to_do(tmp_path):
    labels = np.ones((SIDE, SIDE), np.uint8)
    labels[:, 80:] = 2
    np.save(tmp_path / "m.npy", labels)
    with pytest.raises(SlideError, match=r"no cell.*mask_values: classes"):
        from_mask(tmp_path / "m.npy", sample_records.manifest("s1", width=SIDE, height=SIDE, mpp=8.0), ANNOTATED)


def test_negative_values_of_a_mask_are_refused(tmp_path):
    np.save(tmp_path / "m.npy", np.full((SIDE, SIDE), -1, np.int16))
    with pytest.raises(SlideError, match=r"slide s1 .*negative value"):
        from_mask(tmp_path / "m.npy", slide(), ANNOTATED)


def test_classes_of_a_mask_become_classes_of_cells_by_majority():
    labels = (numbered_discs(radius=8) > 0).astype(np.uint8)
    labels[:80] *= 2
    labels[80:] *= 3
    labels[9, 9] = 3  # one pixel of another class
    classes = ["stroma", "tumor", "immune"]
    table = tabulated(part_classes(labels, classes, scale=1, mpp=MPP, config=ANNOTATED)).to_pandas()
    assert Counter(table["class"]) == {"tumor": 50, "immune": 50}
    only = Cells(source="annotation", classes=["immune"], min_area_um2=10)
    table = tabulated(part_classes(labels, classes, scale=1, mpp=MPP, config=only), only).to_pandas()
    assert Counter(table["class"]) == {"immune": 50}


@pytest.mark.parametrize(("neck_um", "cells"), [(0.5, 100), (None, 1)])
def test_the_nuclei_of_a_cascade_are_those_that_it_parted(tmp_path, neck_um, cells):
    group = zarr.open_group(tmp_path / "s1.zarr", mode="w")
    group.attrs.update({"mpp": MPP, "level0_pixels_per_pixel": 1.0, "neck_um": neck_um})
    group.create_array("labels", data=(numbered_discs(radius=8) > 0).astype(np.uint32))
    source = from_cascade(tmp_path / "s1.zarr", slide(), Cells(source="radhical:n"))
    assert tabulated(source).num_rows == cells


def test_cells_of_a_task_have_its_classes_and_resolution(tmp_path):
    group = zarr.open_group(tmp_path / "s1.labels.zarr", mode="w")
    scale = [{"type": "scale", "scale": [1.0, 1.0]}]
    properties = [{"label-value": 1, "class": "tumor"}, {"label-value": 2, "class": "immune"}]
    group.attrs["ome"] = {
        "multiscales": [{"datasets": [{"path": "0", "coordinateTransformations": scale}]}],
        "image-label": {"properties": properties},
    }
    labels = np.zeros((SIDE // 2, SIDE // 2), np.uint8)
    labels[10:20, 10:20], labels[40:50, 30:40] = 1, 2
    group.create_array("0", data=labels)
    table = tabulated(from_task(tmp_path / "s1.labels.zarr", slide(), Cells(source="task:t"))).to_pandas()
    assert table["class"].tolist() == ["tumor", "immune"]
    assert table["x"].tolist() == [30, 70]
    assert table["area_um2"].tolist() == [100, 100]


def annotation_of(cells, names=("immune", "tumor")):
    record = sample_records.annotation("s1", width=SIDE, height=SIDE, class_names=tuple(names))
    return Annotation(tuple(names), cells, record=record)


def test_outlines_are_cells_with_their_classes(tmp_path, small_tiles):
    circles = [shapely.Point(x, y).buffer(6) for y in range(9, SIDE, 16) for x in range(9, SIDE, 16)]
    cells = [("tumor" if i % 3 else "immune", circle) for i, circle in enumerate(circles)]
    source = from_outlines(annotation_of(cells), slide(), ANNOTATED, path=tmp_path / "a.json")
    table = tabulated(source).to_pandas().sort_values(["y", "x"])
    assert table["class"].tolist() == [name for name, _ in cells]
    np.testing.assert_allclose(table["area_um2"], np.pi * 36 * MPP**2, rtol=0.03)
    np.testing.assert_allclose(table["x"], [circle.centroid.x for circle in circles], atol=0.05)


def test_only_the_chosen_classes_are_cells(tmp_path):
    cells = [("tumor", shapely.box(0, 0, SIDE, SIDE)), ("immune", shapely.box(10, 10, 20, 20))]
    only = Cells(source="annotation", classes=["immune"])
    table = tabulated(from_outlines(annotation_of(cells), slide(), only, path=tmp_path / "a.json"), only)
    assert table["class"].to_pylist() == ["immune"]


def test_a_region_that_is_no_cell_is_refused(tmp_path):
    region = [("tumor", shapely.box(0, 0, SIDE, SIDE))]
    coarse = sample_records.manifest("s1", width=SIDE, height=SIDE, mpp=8.0)
    with pytest.raises(SlideError, match=r"1280 µm long.*cells\.<name>\.classes") as refused:
        from_outlines(annotation_of(region), coarse, ANNOTATED, path=tmp_path / "a.json")
    assert refused.value.reason == Reason.BAD_ANNOTATION


def test_a_cell_smaller_than_a_pixel_is_counted(tmp_path):
    cells = [("tumor", shapely.box(10.6, 10.6, 10.9, 10.9)), ("tumor", shapely.box(0.7, 0.7, 0.8, 0.8))]
    table = tabulated(from_outlines(annotation_of(cells), slide(), ANNOTATED, path=tmp_path / "a.json"))
    assert table["x"].to_pylist() == [10.5, 0.5]


def test_a_covered_cell_is_left_out_and_reported(tmp_path):
    cells = [("tumor", shapely.box(10, 10, 20, 20))] * 2
    table = tabulated(from_outlines(annotation_of(cells), slide(), ANNOTATED, path=tmp_path / "a.json"))
    assert table.num_rows == 1
    record = CellTableRecord.decode(table.schema.metadata[b"histomake"], "table")
    assert record.warnings == ("1 cells are left out: covered by smaller cells.",)


def test_the_label_image_has_the_number_of_every_cell(tmp_path, small_tiles):
    np.save(tmp_path / "m.npy", numbered_discs().astype(np.uint8))
    source = from_mask(tmp_path / "m.npy", slide(), ANNOTATED)
    with label_image(tmp_path / "l.zarr", source) as sink:
        table = tabulated(source, sinks=[sink])
    found = zarr.open_group(tmp_path / "l.zarr", mode="r")["0"][:]
    assert np.array_equal(found > 0, numbered_discs() > 0)
    for row in table.to_pylist():
        assert found[int(row["y"]), int(row["x"])] == row["cell_id"]


def test_the_outlines_are_read_again_as_the_same_cells(tmp_path):
    circles = [("tumor", shapely.Point(30, 40).buffer(7)), ("immune", shapely.Point(90, 100).buffer(9))]
    source = from_outlines(annotation_of(circles), slide(), ANNOTATED, path=tmp_path / "a.json")
    with outlines(tmp_path / "c.geojson", source) as sink:
        tabulated(source, sinks=[sink])
    content = (tmp_path / "c.geojson").read_bytes()
    reading = Reading(Annotations(), SlideFrame("s1", SIDE, SIDE, MPP))
    name, again = read_geojson(content, reading)
    assert name == "qupath"
    assert {d.name: round(d.geometry.area) for d in again} == {n: pytest.approx(c.area, rel=0.05) for n, c in circles}
    features = json.loads(content)["features"]
    assert {f["properties"]["objectType"] for f in features} == {"cell"}
    assert features[0]["properties"]["measurements"]["Area µm^2"] == pytest.approx(np.pi * 49 * MPP**2, rel=0.05)


def test_neighbours_are_those_within_the_radius():
    places = np.random.default_rng(0).uniform(0, 100, (200, 2))
    expected = (cdist(places, places) <= 12).sum(1) - 1
    assert neighbours(places, 12).tolist() == expected.tolist()


def test_a_row_takes_at_most_100_bytes(tmp_path):
    np.save(tmp_path / "m.npy", numbered_discs().astype(np.uint8))
    table = tabulated(from_mask(tmp_path / "m.npy", slide(), ANNOTATED))
    assert table.nbytes / table.num_rows <= 100


@pytest.fixture
def layout(tmp_path):
    """A converted slide whose annotation has two cells."""
    layout = Layout(tmp_path / "results")
    np.save(tmp_path / "s1.npy", picture())
    store = store_of(layout.store("s1"))
    manifest = convert(tmp_path / "s1.npy", store, slide_id="s1", config=Convert(codec="zstd", shard_px=512), mpp=MPP)
    manifest.write(layout.manifest("s1"))
    cells = [("tumor", shapely.box(10, 10, 20, 20)), ("immune", shapely.box(40, 40, 52, 52))]
    record, labels = layout.annotation("s1"), store_of(layout.label_image("s1"))
    record.parent.mkdir(parents=True)
    write_annotation(annotation_of(cells), record=record, geojson=layout.outlines("s1"), labels=labels)
    return layout


def made(layout, given, config=ANNOTATED, **settings):
    """Make all files of the slide; return the table and its record."""
    files = CellFiles(layout.cells("c", "s1"), store_of(layout.cell_labels("c", "s1")), layout.cell_outlines("c", "s1"))
    make_cells(layout.manifest("s1"), given, config, files, **settings)
    return read_cells(files.table)


def test_a_job_writes_table_label_image_and_outlines(layout):
    table, record = made(layout, layout.annotation("s1"))
    assert record.cells == table.num_rows == 2
    assert record.source == "annotation"
    assert len(json.loads(layout.cell_outlines("c", "s1").read_text())["features"]) == 2
    assert zarr.open_group(store_of(layout.cell_labels("c", "s1")), mode="r")["0"][15, 15] == 1


@pytest.mark.parametrize("stage", ["manifest", "annotation", "segmentation"])
def test_a_quarantined_slide_has_a_table_of_the_same_schema_without_rows(layout, stage):
    lost = sample_records.lost("s1", stage="convert")
    given = layout.annotation("s1")
    if stage == "manifest":
        lost.write(layout.manifest("s1"))
    elif stage == "annotation":
        write_no_annotation(lost, record=given, geojson=layout.outlines("s1"))
    else:
        given = layout.segmentation("t", 0, "s1")
        write_empty_store(store_of(given), lost.dump())
    table, record = made(layout, given, ANNOTATED)
    assert record == lost
    assert table.num_rows == 0
    assert table.schema.equals(schema(ANNOTATED.neighbours_um))
    assert json.loads(layout.cell_outlines("c", "s1").read_text())["features"] == []
    assert store_of(layout.cell_labels("c", "s1")).is_dir()


def test_a_damaged_slide_loses_its_cells_only(layout):
    shard = next(p for p in store_of(layout.store("s1")).rglob("c/**/*") if p.is_file())
    shard.write_bytes(b"\0" * shard.stat().st_size)
    lost: list[Quarantined] = []
    table, record = made(layout, layout.annotation("s1"), lost=lost)
    assert isinstance(record, Quarantined)
    assert [entry.stage for entry in lost] == ["cells"]
    assert table.num_rows == 0
