"""Predictions as QuPath opens them."""

from __future__ import annotations

import json

import pyarrow as pa
import shapely
from histomake.explain.qupath import write_tiles

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


def written(tmp_path, count: int) -> list[dict]:
    path = tmp_path / "tiles.geojson"
    options = {"slide_id": "S", "classes": ["skin", "nuclei"], "span": 100.5, "width": 250, "height": 80}
    write_tiles(path, predictions(count), **options)
    return json.loads(path.read_text())["features"]


def test_every_patch_is_a_tile_with_its_class_and_scores(tmp_path):
    first, second, _ = written(tmp_path, 3)
    assert first["properties"]["objectType"] == "tile"
    assert first["properties"]["classification"] == {"name": "nuclei", "color": [230, 159, 0]}
    assert first["properties"]["measurements"] == {"score: skin": 0.25, "score: nuclei": 0.75, "patch_id": 0}
    assert "classification" not in second["properties"]


def test_tiles_are_valid_squares_cut_at_the_border(tmp_path):
    boxes = [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in written(tmp_path, 3)]
    assert all(box.is_valid for box in boxes)
    assert boxes[0].bounds == (0, 0, 100.5, 80)
    assert boxes[2].bounds == (200, 0, 250, 80)


def test_the_same_patch_has_the_same_id_in_every_export(tmp_path):
    first, second = ([feature["id"] for feature in written(tmp_path, 3)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 3


def test_a_slide_without_predictions_is_an_empty_collection(tmp_path):
    assert written(tmp_path, 0) == []
