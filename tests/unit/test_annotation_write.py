"""Tests of written annotations: they are read back unchanged, and are GeoJSON in QuPath's format."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
import zarr
from histomake.annotation.model import Annotation, LabelImage
from histomake.annotation.read import read_annotation
from histomake.annotation.write import write_annotation, write_no_annotation
from histomake.base.errors import Reason, SlideError
from histomake.base.records.record import Quarantined
from histomake.config import Annotations

from tests import sample_records

RECORD = sample_records.annotation(class_names=("necrosis", "tumor"))
SHAPES = [
    ("tumor", shapely.box(0, 0, 100, 100) - shapely.box(20.125, 20, 40, 40)),
    ("necrosis", shapely.MultiPolygon([shapely.box(200, 0, 210, 10), shapely.box(220, 0, 230, 10)])),
]


def save(annotation, folder):
    files = {"record": folder / "s1.json", "geojson": folder / "s1.geojson", "labels": folder / "s1.labels.zarr"}
    write_annotation(annotation, **files)
    return folder / "s1.json"


def test_regions_are_read_back_with_class_and_shape(tmp_path):
    path = save(Annotation(("necrosis", "tumor"), SHAPES, None, RECORD), tmp_path)
    loaded = Annotation.load(path)
    assert loaded.class_names == ("necrosis", "tumor")
    assert [name for name, _ in loaded.regions] == ["tumor", "necrosis"]
    for (_, before), (_, after) in zip(SHAPES, loaded.regions, strict=True):
        assert before.symmetric_difference(after).area < 0.01 * before.length
        assert after.is_valid


def test_a_label_image_is_read_back_with_its_scale(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (1500, 1100), np.uint8)
    path = save(Annotation(("necrosis", "tumor"), [], LabelImage(values, 4), RECORD), tmp_path)
    loaded = Annotation.load(path).label_image
    assert loaded.downsample == 4
    np.testing.assert_array_equal(loaded.read(slice(None), slice(None)), values)
    np.testing.assert_array_equal(loaded.read(slice(1000, 1040), slice(7, 9)), values[1000:1040, 7:9])


def test_labels_of_an_earlier_run_are_removed(tmp_path):
    save(Annotation(("a",), [], LabelImage(np.ones((4, 4), np.uint8), 1), RECORD), tmp_path)
    save(Annotation(("necrosis", "tumor"), SHAPES, None, RECORD), tmp_path)
    assert not (tmp_path / "s1.labels.zarr").exists()
    assert Annotation.load(tmp_path / "s1.json").label_image is None


def test_the_file_has_the_structure_that_qupath_reads(tmp_path):
    """QuPath needs a FeatureCollection of annotation objects whose classification has a name and an RGB colour."""
    save(Annotation(("necrosis", "tumor"), SHAPES, None, RECORD), tmp_path)
    content = json.loads((tmp_path / "s1.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    for feature in content["features"]:
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] in ("Polygon", "MultiPolygon")
        assert feature["properties"]["objectType"] == "annotation"
        assert len(feature["properties"]["classification"]["color"]) == 3
        assert all(0 <= c <= 255 for c in feature["properties"]["classification"]["color"])
    colours = {tuple(f["properties"]["classification"]["color"]) for f in content["features"]}
    assert len(colours) == 2


def test_the_written_file_can_be_read_as_an_annotation(tmp_path):
    save(Annotation(("necrosis", "tumor"), SHAPES, None, RECORD), tmp_path)
    config = Annotations(classes={"tumor": "tumor", "necrosis": "necrosis"})
    again = read_annotation(tmp_path / "s1.geojson", config, slide_id="s1", width=500, height=500)
    assert again.record.annotation_format == "qupath"
    assert again.record.regions == {"tumor": 1, "necrosis": 1}


def test_the_label_image_is_removed_if_the_annotation_is_no_longer_a_mask(tmp_path):
    labels = tmp_path / "s1.labels.zarr"
    labels.mkdir()
    save(Annotation(("necrosis", "tumor"), SHAPES, None, RECORD), tmp_path)
    assert not labels.exists()


def test_a_quarantined_slide_with_a_mask_has_a_store_without_arrays_and_its_reason(tmp_path):
    labels = tmp_path / "s1.labels.zarr"
    error = SlideError(Reason.BAD_ANNOTATION, slide_id="s1", path="a.png", detail="empty", remedy="Draw")
    outcome = Quarantined.of(error, "annotate")
    write_no_annotation(outcome, record=tmp_path / "s1.json", geojson=tmp_path / "s1.geojson", labels=labels)
    group = zarr.open_group(labels, mode="r")
    assert list(group.arrays()) == []
    assert group.attrs["histomake"]["reason"] == "bad_annotation"


def test_a_quarantined_slide_has_an_empty_collection_and_its_reason(tmp_path):
    error = SlideError(Reason.BAD_ANNOTATION, slide_id="s1", path="a.xml", detail="empty", remedy="Draw")
    write_no_annotation(Quarantined.of(error, "annotate"), record=tmp_path / "s1.json", geojson=tmp_path / "s1.geojson")
    assert json.loads((tmp_path / "s1.geojson").read_text())["features"] == []
    with pytest.raises(SlideError) as caught:
        Annotation.load(tmp_path / "s1.json")
    assert caught.value.reason is Reason.BAD_ANNOTATION
