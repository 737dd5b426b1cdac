"""Dialects of annotation programs: COCO, labelme, NDPA, and formats that are refused by their name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from annotation_files import HEIGHT, SCANNED, SQUARE, WIDTH, coco, labelme, ndpa, ndpa_view
from test_annotation_read import read, refusal

AREA = 200 * 300


# COCO


@pytest.mark.parametrize("factor", [1, 4])
def test_coco_and_labelme_are_scaled_by_the_size_of_the_image_they_state(tmp_path, factor):
    size = {"width": -(-WIDTH // factor), "height": HEIGHT // factor}
    small = [(x / factor, y / factor) for x, y in SQUARE]
    for path in (coco(tmp_path / "c.json", small, **size), labelme(tmp_path / "l.json", small, **size)):
        assert read(path).record.area_px == {"tumor": AREA}


def test_an_image_of_another_size_than_the_slide_is_refused(tmp_path):
    for path in (coco(tmp_path / "c.json", SQUARE, width=1000), labelme(tmp_path / "l.json", SQUARE, width=1000)):
        assert f"the annotated image is 1000 x {HEIGHT} px" in refusal(path)


def test_parts_of_a_coco_object_are_one_region_and_overlaps_count_once(tmp_path):
    parts = [[0, 0, 100, 0, 100, 100, 0, 100], [50, 0, 150, 0, 150, 100, 50, 100]]
    record = read(coco(tmp_path / "c.json", [], segmentation=parts)).record
    assert (record.regions, record.area_px) == ({"tumor": 1}, {"tumor": 15_000})


def test_of_several_coco_images_the_one_named_like_the_slide_is_read(tmp_path):
    path = coco(tmp_path / "c.json", SQUARE)
    content = json.loads(path.read_text())
    other = content["images"][0] | {"id": 2, "file_name": "other.png"}
    foreign = content["annotations"][0] | {"image_id": 2}
    content |= {"images": [other, *content["images"]], "annotations": [*content["annotations"], foreign]}
    path.write_text(json.dumps(content))
    assert read(path).record.regions == {"tumor": 1}
    content["images"][1]["file_name"] = "s2.png"
    path.write_text(json.dumps(content))
    assert "2 images (other.png, s2.png …), and 0 of them have the name of the slide" in refusal(path)


def test_coco_boxes_without_an_outline_are_reported(tmp_path):
    path = coco(tmp_path / "c.json", SQUARE)
    content = json.loads(path.read_text())
    content["annotations"].append(content["annotations"][0] | {"segmentation": [], "bbox": [0, 0, 9, 9]})
    path.write_text(json.dumps(content))
    assert read(path).record.skipped == {"box without outline": 1}


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"counts": [1, 2], "size": [3, 1]}, "run-length mask"),
        ([[1, 2, 3]], "list of numbers"),
        ([["1", 2]], "list of numbers"),
        ([[True, False]], "list of numbers"),
        ("M0 0", "list of numbers"),
    ],
)
def test_coco_shapes_that_are_not_polygons_are_refused(tmp_path, segmentation, said):
    assert said in refusal(coco(tmp_path / "c.json", [], segmentation=segmentation))


def test_coco_with_an_undefined_category_is_refused(tmp_path):
    path = coco(tmp_path / "c.json", SQUARE)
    path.write_text(path.read_text().replace('"category_id": 7', '"category_id": 8'))
    assert "the category 8" in refusal(path)


# labelme


def test_shapes_of_labelme_have_their_area(tmp_path):
    assert read(labelme(tmp_path / "a.json", [(100, 200), (300, 500)], "rectangle")).record.area_px == {"tumor": AREA}
    circle = read(labelme(tmp_path / "b.json", [(500, 500), (500, 600)], "circle")).record
    assert circle.area_px["tumor"] == pytest.approx(np.pi * 100**2, rel=1e-3)


@pytest.mark.parametrize("kind", ["point", "line", "linestrip", "points"])
def test_lines_and_points_of_labelme_are_reported(tmp_path, kind):
    path = labelme(tmp_path / "a.json", SQUARE)
    content = json.loads(path.read_text())
    content["shapes"].append(content["shapes"][0] | {"shape_type": kind})
    path.write_text(json.dumps(content))
    assert read(path).record.skipped == {kind: 1}


def test_bitmaps_and_unknown_scales_of_labelme_are_refused(tmp_path):
    assert "bitmap" in refusal(labelme(tmp_path / "a.json", SQUARE, "mask"))
    assert "imageWidth and imageHeight are missing" in refusal(labelme(tmp_path / "a.json", SQUARE, width=None))


# NDPA


def test_ndpa_lies_where_the_scanner_found_the_slide(tmp_path):
    record = read(ndpa(tmp_path / "a.ndpa", SQUARE), mpp=0.25, properties=SCANNED).record
    assert record.area_px["tumor"] == pytest.approx(AREA, rel=1e-3)


def test_ndpa_uses_the_resolution_of_the_file_and_not_of_the_sheet(tmp_path):
    ((_, square),) = read(ndpa(tmp_path / "a.ndpa", SQUARE), mpp=0.5, properties=SCANNED).regions
    np.testing.assert_allclose(square.bounds, (100, 200, 300, 500), atol=0.01)


def test_circles_of_ndpa_are_read_and_open_lines_reported(tmp_path):
    circle = (
        '<ndpviewstate id="2"><title>Other</title><coordformat>nanometers</coordformat><annotation type="circle">'
        "<x>12538720</x><y>-96063</y><radius>25000</radius></annotation></ndpviewstate>"
    )
    views = (circle, ndpa_view(SQUARE, closed=0), ndpa_view(SQUARE, shape="linearmeasure"))
    annotation = read(ndpa(tmp_path / "a.ndpa", SQUARE, *views), properties=SCANNED)
    assert annotation.record.skipped == {"open line": 1, "linearmeasure": 1}
    assert annotation.union_by_class["other"].area == pytest.approx(np.pi * 100**2, rel=1e-3)
    assert annotation.union_by_class["other"].centroid.equals_exact(shapely.Point(WIDTH / 2, HEIGHT / 2), 0.01)


def test_ndpa_of_a_slide_without_its_place_is_refused(tmp_path):
    path = ndpa(tmp_path / "a.ndpa", SQUARE)
    assert "does not state hamamatsu.XOffsetFromSlideCentre" in refusal(path)
    assert "coordinates are in 'pixels'" in refusal(ndpa(path, SQUARE, unit="pixels"), properties=SCANNED)
    path.write_text(path.read_text().replace("<x>", "<x>,", 1).replace("pixels", "nanometers"))
    assert "not a number" in refusal(path, properties=SCANNED)


def test_an_untitled_view_of_ndpa_has_a_name_that_can_be_mapped(tmp_path):
    path = ndpa(tmp_path / "a.ndpa", SQUARE, title="")
    assert read(path, properties=SCANNED, classes={"untitled": "tumor"}).record.regions == {"tumor": 1}


# Formats that are refused by their name


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"version": "2.0", "item": {"name": "a"}, "annotations": [{"name": "Tumor", "polygon": {}}]}, "V7 Darwin"),
        ({"dataset": "d", "image": {"width": 9}, "annotations": []}, "V7 Darwin"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "VGG Image Annotator"),
        ({"description": "", "tags": [], "size": {"height": 9, "width": 9}, "objects": []}, "Supervisely"),
        ({"name": "a", "elements": []}, "Digital Slide Archive"),
        ([{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": []}]}], "Label Studio"),
        ([{"_id": "1", "annotation": {"elements": []}}], "Digital Slide Archive"),
        ([{"version": 0, "tags": [], "shapes": [], "tracks": []}], "CVAT"),
    ],
)
def test_other_formats_are_refused_by_their_name_with_what_to_export(tmp_path, content, name):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    message = refusal(path)
    assert f"this is {name}" in message
    assert "Export it as GeoJSON" in message


@pytest.mark.parametrize("root", ["annotation", "annotations", "CcpAnnotations", "kml"])
def test_xml_of_other_programs_is_refused_with_its_root(tmp_path, root):
    (tmp_path / "a.xml").write_text(f"<{root}><version>1.1</version></{root}>")
    assert f"the root is <{root}>" in refusal(tmp_path / "a.xml")
