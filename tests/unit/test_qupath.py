"""Tests of the export of predictions to QuPath."""

from __future__ import annotations

import json

import pyarrow as pa
import shapely
from histomake.config import Grid
from histomake.patch.grid import SlideGrid
from histomake.pictures.qupath import write_tiles

DICTIONARY = pa.dictionary(pa.int32(), pa.string())


def predictions(count: int) -> pa.Table:
    return pa.table(
        {
            "patch_id": pa.array(range(count), pa.uint32()),
            "x": pa.array([i * 100 for i in range(count)], pa.int32()),
            "y": pa.array([0] * count, pa.int32()),
            "score_skin": pa.array([0.25] * count, pa.float32()),
            "score_nuclei": pa.array([0.75] * count, pa.float32()),
            "predicted": pa.array(["nuclei", None, "skin"][:count], pa.string()).cast(DICTIONARY),
        }
    )


def slide_grid(span: float) -> SlideGrid:
    return SlideGrid(250, 80, mpp=1.0, grid=Grid(size=round(2 * span), mpp=0.5))


def written(tmp_path, count: int) -> list[dict]:
    path = tmp_path / "tiles.geojson"
    options = {"slide_id": "S", "classes": ["skin", "nuclei"], "slide_grid": slide_grid(100.5)}
    write_tiles(path, predictions(count), **options)
    return json.loads(path.read_text())["features"]


def test_every_patch_is_a_tile_with_its_class_and_scores(tmp_path):
    first, second, _ = written(tmp_path, 3)
    assert first["properties"]["objectType"] == "tile"
    assert first["properties"]["classification"] == {"name": "nuclei", "color": [230, 159, 0]}
    assert first["properties"]["measurements"] == {"score: skin": 0.25, "score: nuclei": 0.75, "patch_id": 0}
    assert "classification" not in second["properties"]


def test_several_classes_and_numbers_are_written_in_the_format_of_qupath(tmp_path):
    place = {"patch_id": [0, 1], "x": [0, 100], "y": [0, 0]}
    options = {"slide_id": "S", "classes": ["skin", "nuclei"], "slide_grid": slide_grid(100)}
    several = {"score_skin": [0.9, 0.1], "score_nuclei": [0.8, 0.1], "predicted": ["skin+nuclei", ""]}
    write_tiles(tmp_path / "several.geojson", pa.table(place | several), **options)
    first, second = (f["properties"] for f in json.loads((tmp_path / "several.geojson").read_text())["features"])
    assert first["classification"] == {"name": "skin: nuclei", "color": [0, 114, 178]}
    assert "classification" not in second
    numbers = {"score_age": [61.5, 40.0], "target_age": [60.0, None], "predicted": pa.nulls(2, DICTIONARY)}
    write_tiles(tmp_path / "numbers.geojson", pa.table(place | numbers), **options | {"classes": ["age"]})
    first, second = (f["properties"] for f in json.loads((tmp_path / "numbers.geojson").read_text())["features"])
    assert first["measurements"] == {"score: age": 61.5, "true: age": 60.0, "patch_id": 0}
    assert second["measurements"] == {"score: age": 40.0, "patch_id": 1}


def test_tiles_are_valid_squares_clipped_at_the_border(tmp_path):
    boxes = [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in written(tmp_path, 3)]
    assert all(box.is_valid for box in boxes)
    assert boxes[0].bounds == (0, 0, 100.5, 80)
    assert boxes[2].bounds == (200, 0, 250, 80)


def test_the_same_patch_has_the_same_id_in_every_export(tmp_path):
    first, second = ([feature["id"] for feature in written(tmp_path, 3)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 3


def test_a_slide_without_predictions_gives_an_empty_collection(tmp_path):
    assert written(tmp_path, 0) == []
