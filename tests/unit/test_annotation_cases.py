"""Unusual annotations, after public reports: each is read with the correct area, reported, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from histomake.annotation.model import Annotation
from histomake.annotation.overlap import areas_on_top
from histomake.annotation.raster import area_shares, rasterise
from histomake.annotation.read import read_annotation
from histomake.annotation.shapes import MAX_CROSSINGS
from histomake.base.errors import Reason, SlideError
from histomake.config import Annotations, Config
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

WIDTH, HEIGHT = 2220, 2967
CLASSES = {"T": "tumor", "Tumor": "tumor", "Necrosis": "necrosis", "Stroma": "stroma", "box": "field"}


def read(path: Path, *, roi=(), width=WIDTH, height=HEIGHT, mpp=None, **keys) -> Annotation:
    config = Annotations(**{"classes": CLASSES, **keys})
    return read_annotation(path, config, slide_id="s1", width=width, height=height, mpp=mpp, roi=roi)


def refusal(path: Path, **keys) -> str:
    with pytest.raises(SlideError) as caught:
        read(path, **keys)
    assert caught.value.reason is Reason.BAD_ANNOTATION
    return str(caught.value)


def box(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(*rings, name: object = "Tumor", **properties):
    kind = {"type": "Polygon", "coordinates": list(rings)}
    return {"type": "Feature", "geometry": kind, "properties": {"classification": {"name": name}} | properties}


def geojson(folder: Path, *features) -> Path:
    path = folder / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def asap(folder: Path, *shapes: tuple[str, list], head: str = "", order=str) -> Path:
    annotations = []
    for group, ring in shapes:
        corners = "".join(f'<Coordinate Order="{order(i)}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(ring))
        annotations.append(
            f'<Annotation Type="Polygon" PartOfGroup="{group}"><Coordinates>{corners}</Coordinates></Annotation>'
        )
    path = folder / "a.xml"
    text = f"{head}<ASAP_Annotations><Annotations>{''.join(annotations)}</Annotations></ASAP_Annotations>"
    path.write_text(text, "utf-8")
    return path


# What an outline encloses


@pytest.mark.parametrize(
    ("rings", "area"),
    [
        pytest.param([box(0, 0, 100, 100), box(50, 50, 150, 150)], 7500, id="hole_cross"),
        pytest.param([box(0, 0, 100, 100), box(200, 200, 250, 250)], 10_000, id="hole_outside"),
        pytest.param([box(0, 0, 100, 100), box(100, 0, 150, 50)], 10_000, id="hole that touches the shell outside"),
        pytest.param([box(0, 0, 100, 100), box(20, 20, 60, 60), box(40, 40, 80, 80)], 7200, id="holes overlap"),
        pytest.param([box(0, 0, 100, 100), box(20, 20, 60, 60), box(20, 20, 60, 60)], 8400, id="hole twice"),
        pytest.param([box(0, 0, 100, 100)[:-1] + box(0, 0, 100, 100)], 10_000, id="outline drawn twice"),
        pytest.param(
            [[[0, 0], [100, 0], [100, 100], [0, 100], [0, 1], [99, 1], [99, 99], [1, 99], [1, 0], [0, 0]]],
            9999,
            id="outline drawn twice, not quite the same",
        ),
        pytest.param([[[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]], 5000, id="crossing"),
    ],
)
def test_an_outline_has_the_area_that_it_encloses(tmp_path, rings, area):
    annotation = read(geojson(tmp_path, feature(*rings)))
    assert annotation.record.area_px["tumor"] == pytest.approx(area, abs=1)
    assert annotation.regions[0][1].area == pytest.approx(area, abs=1)


def test_a_freehand_outline_with_a_loop_keeps_the_loop(data):
    annotation = read(data / "annotations/cases/freehand_loop.geojson")
    assert annotation.record.area_px["tumor"] == pytest.approx(765_124, abs=1)
    assert annotation.record.repaired == 1


def test_overlapping_parts_of_one_shape_count_once(tmp_path):
    parts = {"type": "MultiPolygon", "coordinates": [[box(0, 0, 100, 100)], [box(50, 0, 150, 100)]]}
    path = geojson(tmp_path, feature() | {"geometry": parts})
    assert read(path).record.area_px == {"tumor": 15_000}


def test_polygons_in_nested_collections_are_read_and_points_in_them_reported(tmp_path):
    point = {"type": "Point", "coordinates": [5, 5]}
    inner = {"type": "GeometryCollection", "geometries": [feature(box(0, 0, 100, 100))["geometry"], point]}
    nested = {"type": "GeometryCollection", "geometries": [inner, feature(box(200, 0, 300, 100))["geometry"]]}
    record = read(geojson(tmp_path, feature() | {"geometry": nested})).record
    assert record.area_px == {"tumor": 20_000}
    assert record.skipped == {"Point": 1}


def test_repeated_and_overlapping_regions_of_a_class_count_once_in_the_reported_area(tmp_path):
    square = feature(box(300, 300, 1300, 1300))
    assert read(geojson(tmp_path, square, square, square)).record.area_px == {"tumor": 1_000_000}
    apart = [feature(box(0, 0, 100, 100)), feature(box(50, 0, 150, 100), name="T")]
    assert read(geojson(tmp_path, *apart)).record.area_px == {"tumor": 15_000}


@pytest.mark.parametrize("vertices", [1000, 3000])
def test_an_outline_that_crosses_itself_everywhere_is_refused_at_once(tmp_path, vertices):
    points = np.random.default_rng(0).uniform(0, 500, (vertices, 2)).round(2).tolist()
    assert f"more than {MAX_CROSSINGS:,} times" in refusal(geojson(tmp_path, feature([*points, points[0]])))


@pytest.mark.parametrize("far", [1e308, -1e12, 10**30])
def test_coordinates_beyond_any_slide_are_refused(tmp_path, far):
    assert "larger than 1e+09" in refusal(geojson(tmp_path, feature([[0, 0], [far, 0], [100, 100], [0, 0]])))


# Overlap: the smaller region is on top

NESTED = [("Tumor", box(100, 100, 2100, 2100)), ("Necrosis", box(600, 600, 1624, 1624))]
GRID = np.arange(0, 2048, 256)


@pytest.mark.parametrize("order", [1, -1])
def test_necrosis_inside_tumour_is_necrosis_for_patches_as_for_pixels(tmp_path, order):
    annotation = read(geojson(tmp_path, *(feature(ring, name=name) for name, ring in NESTED[::order])))
    assert annotation.record.area_px == {"necrosis": 1024**2, "tumor": 2000**2 - 1024**2}
    shares = area_shares(annotation, ["tumor", "necrosis"], GRID, GRID, 256)
    backwards = area_shares(annotation, ["necrosis", "tumor"], GRID, GRID, 256)
    inside = GRID.tolist().index(1024)
    assert (shares["necrosis"][inside, inside], shares["tumor"][inside, inside]) == (1, 0)
    for name in shares:
        np.testing.assert_array_equal(shares[name], backwards[name])


def squares(names: str):
    corner = st.integers(0, 40)
    shape = st.builds(
        lambda name, x, y, w, h: (name, shapely.box(x, y, x + w, y + h)),
        st.sampled_from(names),
        corner,
        corner,
        st.integers(1, 40),
        st.integers(1, 40),
    )
    return st.lists(shape, min_size=1, max_size=12)


@given(squares("abc"))
def test_shares_are_the_counts_of_the_rastered_pixels_and_sum_to_at_most_one(regions):
    annotation = Annotation(("a", "b", "c"), regions)
    starts = np.arange(0, 80, 16)
    shares = area_shares(annotation, annotation.class_names, starts, starts, 16.0)
    labels = rasterise(annotation, 0, 0, 80, 1.0)
    for number, name in enumerate(annotation.class_names, 1):
        counted = (labels == number).reshape(5, 16, 5, 16).mean(axis=(1, 3))
        np.testing.assert_allclose(shares[name], counted, atol=1e-6)
    assert sum(shares.values()).max() <= 1 + 1e-6


@given(squares("abc"), st.permutations("abc"))
def test_names_and_order_of_classes_do_not_matter(regions, other):
    renamed = dict(zip("abc", other, strict=True))
    found = areas_on_top(*zip(*regions, strict=True))
    again = areas_on_top(*zip(*((renamed[name], shape) for name, shape in regions), strict=True))
    assert {renamed[name]: area.area for name, area in found.items()} == {n: a.area for n, a in again.items()}


def test_one_outline_with_two_classes_is_refused(tmp_path):
    path = geojson(tmp_path, feature(box(0, 0, 100, 100)), feature(box(0, 0, 100, 100), name="Necrosis"))
    assert "the same outline: necrosis and tumor (1)" in refusal(path)


def test_a_region_of_interest_covers_no_class_and_is_covered_by_none(tmp_path):
    path = geojson(tmp_path, feature(box(0, 0, 1000, 1000)), feature(box(0, 0, 512, 512), name="box"))
    bounds, labels = (read(path, roi=roi) for roi in (["field"], []))
    assert bounds.record.area_px == {"tumor": 1_000_000, "field": 512**2}
    assert labels.record.area_px == {"tumor": 1_000_000 - 512**2, "field": 512**2}
    assert area_shares(bounds, ["tumor"], GRID, GRID, 256)["tumor"][0, 0] == 1
    assert (rasterise(bounds, 0, 0, 256, 1.0) == bounds.class_names.index("tumor") + 1).all()


def test_classes_of_grids_that_no_task_learns_are_regions_of_interest():
    config = {"annotations": {"classes": {"a": "a", "b": "b", "c": "c"}}, "grids": {"g": {"roi": ["a", "b"]}}}
    assert Config(**config).roi_classes == ["a", "b"]
    task = {"kind": "regression", "grid": "g", "target": {"classes": ["a"]}}
    assert Config(**config, tasks={"t": task}).roi_classes == ["b"]


# Areas that are cut out


def test_a_negative_group_inside_a_metastasis_is_subtracted(tmp_path):
    path = asap(tmp_path, ("metastasis", box(0, 0, 1000, 1000)), ("negative", box(200, 200, 400, 400)))
    record = read(path, classes={"metastasis": "tumor"}, cut_out=["negative"]).record
    assert record.area_px == {"tumor": 1_000_000 - 40_000}
    assert record.cut_out == {"negative": 1}


def test_cut_out_works_for_every_format_and_class_and_reaches_over_edges(tmp_path):
    shapes = [feature(box(0, 0, 100, 100)), feature(box(200, 0, 300, 100), name="Stroma")]
    path = geojson(tmp_path, *shapes, feature(box(50, 0, 250, 100), name="Exclusion"))
    assert read(path, cut_out=["Exclusion"]).record.area_px == {"tumor": 5000, "stroma": 5000}


def test_regions_inside_a_larger_cut_are_removed_and_reported(tmp_path):
    path = geojson(
        tmp_path, feature(box(0, 0, 9, 9)), feature(box(50, 50, 60, 60)), feature(box(0, 0, 20, 20), name="_2")
    )
    record = read(path, cut_out=["_2"]).record
    assert (record.regions, record.cut_away) == ({"tumor": 1}, 1)
    assert "1 regions of a.geojson lie inside regions that annotations.cut_out names (_2 1)" in record.warnings[0]


def test_mask_values_can_be_cut_out(tmp_path):
    mask = np.ones((HEIGHT, WIDTH), np.uint8)
    mask[:100] = 9
    np.save(tmp_path / "m.npy", mask)
    annotation = read(tmp_path / "m.npy", classes={"1": "tumor"}, cut_out=["9"])
    assert annotation.record.cut_out == {"9": 100 * WIDTH}
    assert not annotation.label_image.read(slice(0, 100), slice(None)).any()


def test_a_name_has_one_meaning():
    with pytest.raises(ValidationError, match="'x' is under classes and under cut_out"):
        Annotations(classes={"x": "a"}, cut_out=["x"])
    with pytest.raises(ValidationError, match="'x' is under ignore and under cut_out"):
        Annotations(ignore=["x"], cut_out=["x"])


# Dialects


@pytest.mark.parametrize("word", ["NaN", "-Infinity", "Infinity"])
def test_measurements_that_are_not_numbers_are_read_as_qupath_wrote_them(tmp_path, word):
    path = geojson(tmp_path, feature(box(100, 100, 2100, 2100), note="a \\\\NaN, NaN", measurements=["bare"]))
    path.write_text(path.read_text().replace('"bare"', word))
    assert read(path).record.area_px == {"tumor": 4_000_000}
    assert read(path, class_property="note", classes={"a \\\\NaN, NaN": "tumor"}).record.regions == {"tumor": 1}


@pytest.mark.parametrize("number", ["NaN", "null", '"1"'])
def test_coordinates_that_are_not_numbers_are_refused(tmp_path, number):
    path = geojson(tmp_path, feature([[0, 0], [77, 0], [100, 100], [0, 0]]))
    path.write_text(path.read_text().replace("[77,", f"[{number},"))
    assert "unreadable geometry" in refusal(path)


@pytest.mark.parametrize(
    "properties",
    [
        {"classification": '{ "name": "Tumor", "color": [ 200, 0, 0 ] }'},  # GDAL
        {"classification": '{"names": ["Tumor"]}'},
        {"classification": "{'name': 'Tumor', 'color': [200, 0, 0]}"},  # str() of Python
        {"classification_name": "Tumor", "classification_color": "[200, 0, 0]"},  # GDAL, flattened
        {"classification.name": "Tumor"},  # pandas.json_normalize
    ],
)
def test_classes_are_found_after_the_way_through_gdal_and_python(tmp_path, properties):
    path = geojson(
        tmp_path, feature(box(100, 100, 200, 200)) | {"properties": {"objectType": "annotation"} | properties}
    )
    assert read(path).record.regions == {"tumor": 1}


@pytest.mark.parametrize("name", ["{", "{'a': 1}", '{"name": 3}', "{1, 2}"])
def test_texts_that_only_look_like_objects_are_names(tmp_path, name):
    assert "names missing in annotations.classes" in refusal(geojson(tmp_path, feature(box(0, 0, 9, 9), name=name)))


@pytest.mark.parametrize("names", [5, {"a": 1}, [["Tumor"]]])
def test_class_names_of_another_type_are_refused(tmp_path, names):
    shape = feature(box(0, 0, 9, 9)) | {"properties": {"classification": {"names": names}}}
    assert "names missing in annotations.classes" in refusal(geojson(tmp_path, shape))


@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "big5", "shift_jis", "euc-kr", "utf-8", "latin-1", "cp1252"])
def test_xml_is_read_in_every_encoding_that_python_knows(tmp_path, encoding):
    name = {"gb2312": "肿瘤", "gbk": "肿瘤", "big5": "腫瘤", "shift_jis": "腫瘍", "euc-kr": "종양"}.get(
        encoding, "Tümor"
    )
    path = asap(tmp_path, (name, box(0, 0, 100, 100)), head=f'<?xml version="1.0" encoding="{encoding}"?>')
    path.write_bytes(path.read_text("utf-8").encode(encoding))
    assert read(path, classes={name: "tumor"}).record.area_px == {"tumor": 10_000}


@pytest.mark.parametrize("encoding", ["foo", "klingon", "utf-16", "base64"])
def test_xml_in_another_encoding_than_it_says_is_refused(tmp_path, encoding):
    refusal(asap(tmp_path, ("T", box(0, 0, 9, 9)), head=f'<?xml version="1.0" encoding="{encoding}"?>'))


@pytest.mark.parametrize("order", ["", "nan", "inf", "first", "1,0"])
def test_vertices_without_an_order_are_refused(tmp_path, order):
    path = asap(tmp_path, ("T", box(0, 0, 100, 100)), order=lambda i: order if i == 1 else i)
    assert "Order of a <Coordinate>" in refusal(path)


def test_deeply_nested_collections_are_read_or_refused(tmp_path):
    geometry = feature(box(0, 0, 100, 100))["geometry"]
    text = '{"type":"GeometryCollection","geometries":['
    for depth in (100, 900, 5000):
        path = tmp_path / "a.geojson"
        nested = text * depth + json.dumps(geometry) + "]}" * depth
        properties = '"properties":{"classification":{"name":"Tumor"}}'
        path.write_text(
            f'{{"type":"FeatureCollection","features":[{{"type":"Feature","geometry":{nested},{properties}}}]}}'
        )
        if depth == 100:
            assert read(path).record.area_px == {"tumor": 10_000}
        else:
            refusal(path)


# Parts of a file that are left out are reported


def test_shapes_without_an_area_are_reported_with_their_kinds(tmp_path):
    line = {"type": "LineString", "coordinates": [[0, 0], [50, 50], [0, 50]]}
    point = {"type": "Point", "coordinates": [5, 5]}
    lost = [feature() | {"geometry": shape} for shape in (line, line, point)]
    record = read(geojson(tmp_path, feature(box(0, 0, 100, 100)), *lost)).record
    assert record.warnings == ("3 shapes of a.geojson have no area and are left out: LineString 2, Point 1.",)


def test_area_outside_the_slide_is_reported(tmp_path):
    record = read(geojson(tmp_path, feature(box(WIDTH - 100, 0, WIDTH + 1, 100)))).record
    assert record.warnings == ("1.0% of the area annotated in a.geojson is outside the slide and left out.",)


def test_an_outline_that_encloses_nothing_is_reported(tmp_path):
    record = read(asap(tmp_path, ("T", box(0, 0, 100, 100)), ("T", [(0, 0), (5, 5), (9, 9)]))).record
    assert record.warnings == ("1 outlines of a.xml enclose nothing and are left out.",)


# Other units and levels are reported, with the numbers


def in_um(*rings, mpp=0.499):
    return [feature([[round(v * mpp, 3) for v in point] for point in ring]) for ring in rings]


@pytest.mark.parametrize(
    "rings",
    [
        pytest.param([box(100, 100, 2100, 2100)], id="micron.geojson"),
        pytest.param([box(3, 7, 90, 95), box(1200, 100, 1313, 250)], id="several"),
        pytest.param([[[10, 20], [33, 20], [47, 61], [12, 55], [10, 20]]], id="freehand"),
    ],
)
def test_coordinates_in_um_are_reported(tmp_path, rings):
    (said,) = read(geojson(tmp_path, *in_um(*rings)), mpp=0.499).record.warnings
    assert "may be in µm: at 0.499 µm per pixel, 100% of them are whole pixels" in said
    assert "1108 x 1481" in said


def test_coordinates_in_pixels_give_no_warning(tmp_path):
    points = np.random.default_rng(0).uniform(10, 1000, (50, 2))
    circle = shapely.Point(500, 500).buffer(300).exterior.coords
    for ring in (box(100, 100, 2100, 2100), box(10.5, 20.5, 90.5, 70.5), [list(p) for p in circle]):
        assert read(geojson(tmp_path, feature(ring)), mpp=0.499).record.warnings == ()
    hull = shapely.MultiPoint(points).convex_hull.exterior.coords
    assert read(geojson(tmp_path, feature([list(p) for p in hull])), mpp=0.5).record.warnings == ()


@pytest.mark.parametrize("stated", ["0.252", "0,252", "1"])
def test_an_aperio_file_of_another_resolution_is_reported(tmp_path, stated):
    corners = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in box(100, 100, 900, 900))
    text = f'<Annotation Name="T"><Regions><Region Type="0">{corners}</Region></Regions></Annotation></Annotations>'
    path = tmp_path / "a.xml"
    path.write_text(f'<Annotations MicronsPerPixel="{stated}">{text}')
    record = read(path, mpp=0.499).record
    assert record.area_px == {"tumor": 640_000}
    assert f"a.xml states {stated.replace(',', '.')} µm per pixel, the slide has 0.499" in record.warnings[0]
    for same in ("0.499", "0.5", "0,4990", "", "0"):
        path.write_text(f'<Annotations MicronsPerPixel="{same}">{text}')
        assert read(path, mpp=0.499).record.warnings == ()
