"""Tests of nucleus annotations: label masks and polygons give the same nuclei on the cascade's grid."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import shapely
import tifffile
from cascade_slide import discs, levels
from histomake.base.errors import HistomakeError, Reason, SlideError
from histomake.base.windows import Window
from histomake.cascade.fields import open_fields
from histomake.cascade.infer import open_answers
from histomake.cascade.levels import levels_of
from histomake.cascade.truth import open_truth
from histomake.config import Annotations, Radhical

from tests import sample_records

MANIFEST = sample_records.manifest(width=120, height=100, mpp=0.5)


def opened(path, level=None, annotations=None):
    level = level or levels(100, 120)[0]
    return open_truth(path, annotations or Annotations(), [], slide_id="s", level=level, manifest=MANIFEST)


def test_instance_numbers_of_a_mask_are_kept(tmp_path):
    _, labels = discs(100, 120)
    tifffile.imwrite(tmp_path / "m.tif", labels.astype(np.uint16), compression="zlib")
    truth = opened(tmp_path / "m.tif")
    np.testing.assert_array_equal(truth.whole(), labels)
    window = Window(-5, 100, 30, 40)
    expected = np.pad(labels, ((5, 0), (0, 20)))[:30, 100:140]
    np.testing.assert_array_equal(truth.labels(window), expected)


def test_a_forked_process_opens_a_mask_again(tmp_path, monkeypatch):
    """Processes that share an open file share its position, and read each other's parts."""
    _, labels = discs(100, 120)
    tifffile.imwrite(tmp_path / "m.tif", labels.astype(np.uint16))
    found, opened_files = opened(tmp_path / "m.tif"), []
    monkeypatch.setattr("histomake.cascade.truth.open_mask", lambda path: opened_files.append(path) or labels)
    found.whole()
    assert not opened_files
    monkeypatch.setattr(os, "getpid", lambda: -1)
    found.whole()
    found.whole()
    assert opened_files == [tmp_path / "m.tif"]


def test_nuclei_of_a_binary_mask_are_its_connected_components(tmp_path):
    mask = np.zeros((100, 120), np.uint8)
    mask[10:20, 10:20] = mask[40:50, 60:70] = 255
    tifffile.imwrite(tmp_path / "m.tif", mask)
    assert sorted(np.unique(opened(tmp_path / "m.tif").whole()).tolist()) == [0, 1, 2]


def test_an_empty_mask_is_a_slide_without_nuclei(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", np.zeros((100, 120), np.uint16))
    assert not opened(tmp_path / "m.tif").whole().any()


def test_a_mask_of_another_size_is_refused_with_the_name_of_the_slide(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", np.zeros((77, 120), np.uint16))
    with pytest.raises(SlideError, match="slide s") as caught:
        opened(tmp_path / "m.tif")
    assert caught.value.reason == Reason.BAD_ANNOTATION


def test_a_polygon_gives_the_pixels_whose_centres_it_contains(tmp_path):
    shapes = [shapely.box(10, 10, 30, 25), shapely.box(50, 40, 52, 42)]
    features = [
        {"type": "Feature", "geometry": json.loads(shapely.to_geojson(s)), "properties": {"name": "n"}} for s in shapes
    ]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    truth = opened(tmp_path / "a.geojson", annotations=Annotations(classes={"n": "nucleus"}))
    expected = np.zeros((100, 120), np.int32)
    expected[10:25, 10:30], expected[40:42, 50:52] = 1, 2
    np.testing.assert_array_equal(truth.whole(), expected)
    np.testing.assert_array_equal(truth.labels(Window(20, 20, 30, 40)), expected[20:50, 20:60])


def test_ground_truth_has_the_resolution_of_the_cascade(tmp_path):
    labels = np.zeros((100, 120), np.uint16)
    labels[20:40, 40:60] = 3
    tifffile.imwrite(tmp_path / "m.tif", labels)
    (level,) = levels_of(width=120, height=100, mpp=0.5, finest_mpp=1.0, scales=(1,))
    whole = opened(tmp_path / "m.tif", level).whole()
    assert whole.shape == (50, 60)
    np.testing.assert_array_equal(np.argwhere(whole)[[0, -1]], [[10, 20], [19, 29]])


def test_coverage_is_the_share_of_the_averaging_box(tmp_path):
    labels = np.zeros((100, 120), np.uint16)
    labels[0:10, 0:5] = 1
    tifffile.imwrite(tmp_path / "m.tif", labels)
    coarse = levels(100, 120)[3]
    share = opened(tmp_path / "m.tif").coverage(coarse, Window(0, 0, 2, 2))
    np.testing.assert_allclose(share, [[0.5, 0], [0, 0]])


def test_a_damaged_mask_is_found_when_it_is_opened(tmp_path):
    labels = np.zeros((100, 120), np.uint16)
    labels[5, 5], labels[90, 90] = 1, 2
    tifffile.imwrite(tmp_path / "m.tif", labels, compression="zlib", rowsperstrip=10)
    content = bytearray((tmp_path / "m.tif").read_bytes())
    content[-8] ^= 255
    (tmp_path / "m.tif").write_bytes(bytes(content))
    with pytest.raises(SlideError, match="cannot be read") as caught:
        opened(tmp_path / "m.tif")
    assert caught.value.reason == Reason.BAD_ANNOTATION


def test_slides_whose_annotation_cannot_be_read_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("histomake.cascade.fields.open_slide", lambda manifest: None)
    config, slides = Radhical(), []
    for name, content in (("good", np.ones((100, 120), np.uint16)), ("bad", np.ones((7, 7), np.uint16))):
        sample_records.manifest(name, width=120, height=100, mpp=0.5).write(tmp_path / f"{name}.json")
        np.save(tmp_path / f"{name}.npy", content)
        slides.append((tmp_path / f"{name}.json", tmp_path / f"{name}.npy"))
    assert [field.slide_id for field in open_fields(slides, Annotations(), config)] == ["good"]
    with pytest.raises(HistomakeError, match="no annotated slide of this step can be used:\nbad: the mask is 7 x 7"):
        open_fields(slides[1:], Annotations(), config)


def test_slides_that_are_too_coarse_for_a_cascade_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("histomake.cascade.fields.open_slide", lambda manifest: None)
    slides = []
    for name, mpp in (("fine", 0.25), ("tolerated", 0.55), ("coarse", 1.0)):
        sample_records.manifest(name, width=120, height=100, mpp=mpp).write(tmp_path / f"{name}.json")
        np.save(tmp_path / f"{name}.npy", np.ones((100, 120), np.uint16))
        slides.append((tmp_path / f"{name}.json", tmp_path / f"{name}.npy"))
    fields = open_fields(slides, Annotations(), Radhical(mpp=0.5))
    assert [field.slide_id for field in fields] == ["fine", "tolerated"]
    with pytest.raises(HistomakeError, match="coarse: the slide has 1 µm per pixel, 2 times as coarse as level 1"):
        open_fields(slides[2:], Annotations(), Radhical(mpp=0.5))
    assert len(open_fields(slides, Annotations(), Radhical(mpp=0.5, max_upsampling=2))) == 3


def test_a_slide_that_is_too_coarse_is_refused_before_a_network_is_loaded(tmp_path):
    sample_records.manifest("coarse", mpp=1.0).write(tmp_path / "coarse.json")
    with pytest.raises(SlideError, match="Use a cascade with a coarser mpp") as caught:
        open_answers(tmp_path / "coarse.json", ["no", "such", "network", "file"], Radhical(mpp=0.5), threads=1)
    assert caught.value.reason == Reason.TOO_COARSE
