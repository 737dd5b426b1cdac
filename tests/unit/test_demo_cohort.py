"""Tests of the demo cohort: real formats, correct annotations, reproducible bytes, and faulty slides."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from tests.demo.annotations import polygons
from tests.demo.cohort import COHORT, SMALL, build_slide, sources, stain_of
from tests.demo.tissue import CLASSES, MASK_SCALE, compose


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """SVS, OME-TIFF and slide without mpp of the small cohort, with their rows of the sheet."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("slides", "annotations"):
        (folder / name).mkdir()
    return {slide.slide_id: build_slide(slide, i, folder) for i, slide in enumerate(SMALL) if i in (0, 2, 4)}


def test_the_cohort_contains_the_documented_formats_and_faults():
    patients = {slide.patient for slide in COHORT if not slide.flaw}
    assert len(COHORT) + 1 >= 12
    assert len(patients) >= 8
    assert {slide.suffix for slide in COHORT} == {".svs", ".tiff", ".ome.tiff", ".npy"}
    assert {slide.annotation for slide in COHORT} == {".asap.xml", ".aperio.xml", ".geojson", "_mask.npy"}
    assert sorted(slide.flaw for slide in COHORT if slide.flaw) == ["no mpp", "truncated"]
    assert all(4000 <= max(slide.width, slide.height) <= 6000 for slide in COHORT)


def test_a_patient_has_nuclei_rich_tissue_on_all_slides_or_on_none():
    found = {patient: {s.nuclei for s in COHORT if s.patient == patient} for patient in {s.patient for s in COHORT}}
    assert all(len(values) == 1 for values in found.values())
    assert Counter(next(iter(values)) for values in found.values()) == {True: 4, False: 6}


def test_a_slide_of_skin_alone_has_no_nuclei_rich_tissue():
    picture = compose(
        np.random.default_rng(1), sources(), stain=stain_of(3, "north"), mpp=1.0, width=1024, height=1024, nuclei=False
    )
    assert set(np.unique(picture.mask)) == {0, CLASSES["skin"]}


def test_openslide_recognises_the_svs(built):
    slide = openslide.OpenSlide(built["P01-A"]["path"])
    assert slide.properties["openslide.vendor"] == "aperio"
    assert float(slide.properties["openslide.mpp-x"]) == 0.499
    assert slide.level_downsamples == (1.0, 4.0, 16.0)


def test_the_ome_tiff_states_its_levels_and_resolution(built):
    with tifffile.TiffFile(built["P03.B"]["path"]) as tiff:
        assert tiff.is_ome
        assert len(tiff.series[0].levels) == 4
        assert 'PhysicalSizeX="0.454"' in tiff.ome_metadata


def test_the_slide_without_mpp_states_no_resolution(built):
    with tifffile.TiffFile(built["P04-B"]["path"]) as tiff:
        assert tiff.pages[0].tags["XResolution"].value == (1, 1)
    assert built["P04-B"]["mpp"] == ""


def test_annotated_tissue_is_dark_and_the_rest_is_glass(built):
    pixels = tifffile.imread(built["P03.B"]["path"], key=0)
    features = json.loads(Path(built["P03.B"]["annotation"]).read_text())["features"]
    names = {feature["properties"]["classification"]["name"] for feature in features}
    assert names == {"Skin", "Nuclei"}
    inside = np.zeros(pixels.shape[:2], np.uint8)
    for feature in features:
        cv2.fillPoly(inside, [np.array(feature["geometry"]["coordinates"][0], np.int32)], 1)
    darkness = 255 - pixels.min(axis=2)
    assert darkness[inside == 1].mean() > 60
    assert darkness[inside == 0].mean() < 30


def test_outlines_cover_the_mask():
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 5:30] = CLASSES["skin"]
    mask[20:50, 40:70] = CLASSES["nuclei"]
    found = dict(polygons(mask))
    assert found["skin"].min(axis=0).tolist() == [5.5 * MASK_SCALE, 10.5 * MASK_SCALE]
    assert found["nuclei"].max(axis=0).tolist() == [69.5 * MASK_SCALE, 49.5 * MASK_SCALE]


def test_a_slide_has_the_same_bytes_every_time(built, tmp_path):
    for name in ("slides", "annotations"):
        (tmp_path / name).mkdir()
    again = build_slide(SMALL[2], 2, tmp_path)
    assert Path(again["path"]).read_bytes() == Path(built["P03.B"]["path"]).read_bytes()
