"""Tests of annotation formats: every format gives the same geometry, and every bad file a clear error."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from annotation_files import HEIGHT, SCANNED, SQUARE, WIDTH, coco, labelme, ndpa
from histomake import annotation
from histomake.annotation.formats import MASK_SUFFIXES
from histomake.annotation.json_formats import read_json
from histomake.annotation.read import READERS, read_annotation
from histomake.base.errors import Reason, SlideError
from histomake.config import Annotations
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {"Tumor": "tumor", "Other": "other"}


def read(path, *, width=WIDTH, height=HEIGHT, mpp=None, properties=None, **keys):
    config = Annotations(**{"classes": CLASSES, **keys})
    return read_annotation(path, config, slide_id="s1", width=width, height=height, mpp=mpp, properties=properties)


def refusal(path, **keys) -> str:
    with pytest.raises(SlideError) as caught:
        read(path, **keys)
    assert caught.value.reason is Reason.BAD_ANNOTATION
    assert caught.value.slide_id == "s1"
    assert caught.value.path == str(path)
    return str(caught.value)


def asap(path: Path, *annotations: str) -> Path:
    path.write_text(f"<ASAP_Annotations><Annotations>{''.join(annotations)}</Annotations></ASAP_Annotations>")
    return path


def asap_polygon(points, group="Tumor", kind="Polygon"):
    corners = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))
    return f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}"><Coordinates>{corners}</Coordinates></Annotation>'


def aperio(path: Path, layers: dict[str, str]) -> Path:
    body = "".join(
        f'<Annotation Id="{i}" Name="{name}"><Regions>{regions}</Regions></Annotation>'
        for i, (name, regions) in enumerate(layers.items(), 1)
    )
    path.write_text(f'<Annotations MicronsPerPixel="0.499">{body}</Annotations>')
    return path


def aperio_region(points, kind=0, negative=0, text=""):
    corners = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return f'<Region Type="{kind}" NegativeROA="{negative}" Text="{text}"><Vertices>{corners}</Vertices></Region>'


def geojson(path: Path, *features) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def feature(points, **properties):
    ring = [[*map(float, p)] for p in [*points, points[0]]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


# Supported input


def test_a_slide_without_annotation_has_no_regions_and_no_error():
    annotation = read(None)
    assert annotation.regions == []
    assert annotation.record.annotation_format == "none"
    assert annotation.class_names == ("other", "tumor")


def test_all_vector_formats_give_the_same_square(tmp_path):
    corners = "".join(f'<V X="{x}" Y="{y}"/>' for x, y in SQUARE)
    region = f'<Region Type="Polygon" NegativeROA="0"><Vertices>{corners}</Vertices></Region>'
    halo = f'<Annotations><Annotation Name="Tumor"><Regions>{region}</Regions></Annotation></Annotations>'
    (tmp_path / "h.annotations").write_text(halo)
    files = {
        "asap": asap(tmp_path / "a.xml", asap_polygon(SQUARE)),
        "aperio": aperio(tmp_path / "b.xml", {"Tumor": aperio_region(SQUARE)}),
        "halo": tmp_path / "h.annotations",
        "qupath": geojson(tmp_path / "q.geojson", feature(SQUARE, classification={"name": "Tumor"})),
        "geojson": geojson(tmp_path / "g.json", feature(SQUARE, label="Tumor")),
        "coco": coco(tmp_path / "c.json", SQUARE),
        "labelme": labelme(tmp_path / "l.json", SQUARE),
        "ndpa": ndpa(tmp_path / "n.ndpi.ndpa", SQUARE),
    }
    for name, path in files.items():
        annotation = read(path, mpp=0.25, properties=SCANNED)
        ((class_name, geometry),) = annotation.regions
        assert annotation.record.annotation_format == name
        assert class_name == "tumor"
        assert geometry.symmetric_difference(shapely.box(100, 200, 300, 500)).area < 1
    untested = set(READERS) - {path.suffix for path in files.values()}
    assert not untested, "add a file of the format"


def test_every_reader_is_chosen_by_some_suffix():
    folder = Path(annotation.__file__).parent
    modules = [importlib.import_module(f"{annotation.__name__}.{file.stem}") for file in folder.glob("[a-z]*.py")]
    functions = {value for module in modules for value in vars(module).values() if inspect.isfunction(value)}
    readers = {function for function in functions if function.__annotations__ == read_json.__annotations__}
    assert readers == set(READERS.values())


def test_the_documentation_of_the_sheet_names_every_suffix():
    (row,) = re.findall(r"^\| `annotation` \| no \| (.*) \|$", (ROOT / "config/README.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\.\w+)`", row)) == {*READERS, *MASK_SUFFIXES}


def test_every_real_file_has_its_licence_stated():
    readme = ROOT / "tests/data/annotations/README.md"
    files = {file.name for file in readme.parent.iterdir() if file.is_file() and file != readme}
    assert not [name for name in files if f"`{name}`" not in readme.read_text()]


def test_the_real_dsa_file_is_read_with_a_higher_limit_for_its_overhang(data):
    annotation = read(data / "annotations/CMU-1-Small-Region.dsa.geojson", max_outside=0.1)
    assert annotation.record.regions == {"other": 1, "tumor": 1}
    assert annotation.record.clipped == 1
    assert annotation.union_by_class["other"].area == 821**2
    assert annotation.union_by_class["tumor"].bounds == (1512, 1512, WIDTH, 2333)


def test_the_real_halo_file_is_read(data):
    annotation = read(data / "annotations/halo.xml", classes={"Tumor": "tumor", "Layer 1": "other"})
    assert annotation.record.annotation_format == "halo"
    assert annotation.union_by_class["other"].equals(shapely.box(1, 1, 10, 40))


@pytest.mark.parametrize(("part", "area"), [("cell", 100.0 * 100), ("nucleus", 20.0 * 20)])
def test_a_qupath_cell_gives_its_cell_or_nucleus_outline(tmp_path, part, area):
    cell = feature([(0, 0), (100, 0), (100, 100), (0, 100)], objectType="cell", classification={"name": "Tumor"})
    cell["nucleusGeometry"] = feature([(40, 40), (60, 40), (60, 60), (40, 60)])["geometry"]
    annotation = read(geojson(tmp_path / "c.geojson", cell), cell_part=part)
    assert annotation.regions[0][1].area == area


def test_the_real_qupath_cells_are_read(data):
    annotation = read(data / "annotations/cell_detections.qupath.geojson")
    assert annotation.record.annotation_format == "qupath"
    assert annotation.record.regions == {"other": 2}


@pytest.mark.parametrize(
    "properties",
    [
        {"classification": {"name": "Tumor", "colorRGB": -3670016}, "isLocked": False},  # QuPath 0.2
        {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}},  # 0.3
        {"objectType": "annotation", "classification": {"names": ["Tumor"], "color": [200, 0, 0]}},  # 0.5, derived
        {"classification": "Tumor"},
        {"name": "Tumor"},
        {"class": "Tumor"},
    ],
)
def test_the_class_is_found_in_every_qupath_version(tmp_path, properties):
    assert read(geojson(tmp_path / "a.geojson", feature(SQUARE, **properties))).regions[0][0] == "tumor"


def test_derived_qupath_classes_are_joined_as_in_qupath(tmp_path):
    path = geojson(tmp_path / "a.geojson", feature(SQUARE, classification={"names": ["Tumor", "Positive"]}))
    assert read(path, classes={"Tumor: Positive": "positive"}).regions[0][0] == "positive"


def test_the_class_property_can_be_configured_and_nested(tmp_path):
    path = geojson(tmp_path / "a.geojson", feature(SQUARE, label="x", meta={"kind": "Tumor"}))
    assert read(path, class_property="meta.kind").regions[0][0] == "tumor"


def test_a_bare_list_of_features_as_in_qupath_02_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([feature(SQUARE, classification={"name": "Tumor"})]))
    assert len(read(path).regions) == 1


def test_a_byte_order_mark_is_accepted(tmp_path):
    path = geojson(tmp_path / "a.geojson", feature(SQUARE, label="Tumor"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read(path).regions) == 1


def test_points_and_features_without_geometry_are_counted(tmp_path):
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}
    nothing = {"type": "Feature", "geometry": None, "properties": None}
    path = geojson(tmp_path / "a.geojson", feature(SQUARE, label="Tumor"), point, nothing)
    assert read(path).record.skipped == {"Point": 1, "no geometry": 1}


def test_holes_and_multipolygons_keep_their_shape(tmp_path):
    shape = (shapely.box(0, 0, 100, 100) - shapely.box(20, 20, 40, 40)) | shapely.box(200, 200, 300, 300)
    member = {"type": "Feature", "geometry": json.loads(shapely.to_geojson(shape)), "properties": {"label": "Tumor"}}
    assert read(geojson(tmp_path / "a.geojson", member)).regions[0][1].equals(shape)


def test_negative_regions_are_cut_out_of_their_own_layer_only(tmp_path):
    inner = [(150, 250), (200, 250), (200, 300), (150, 300)]
    layers = {"Tumor": aperio_region(SQUARE) + aperio_region(inner, negative=1), "Other": aperio_region(SQUARE)}
    annotation = read(aperio(tmp_path / "a.xml", layers))
    assert annotation.union_by_class["tumor"].area == 200 * 300 - 50 * 50
    assert annotation.union_by_class["other"].area == 200 * 300


def test_rectangles_and_ellipses_are_defined_by_their_corners(tmp_path):
    corners = [(100, 200), (300, 500)]
    path = aperio(tmp_path / "a.xml", {"Tumor": aperio_region(corners, 1), "Other": aperio_region(corners, 2)})
    annotation = read(path)
    assert annotation.union_by_class["tumor"].equals(shapely.box(100, 200, 300, 500))
    assert annotation.union_by_class["other"].area == pytest.approx(np.pi * 100 * 150, rel=1e-3)


def test_shapes_without_area_are_counted(tmp_path):
    path = asap(tmp_path / "a.xml", asap_polygon(SQUARE), asap_polygon(SQUARE[:1], kind="Dot"))
    assert read(path).record.skipped == {"Dot": 1}
    path = aperio(tmp_path / "b.xml", {"Tumor": aperio_region(SQUARE) + aperio_region(SQUARE[:2], 4)})
    assert read(path).record.skipped == {"region type 4": 1}


def test_an_unnamed_aperio_layer_uses_the_text_of_its_region(tmp_path):
    path = aperio(tmp_path / "a.xml", {"": aperio_region(SQUARE, text="Tumor")})
    assert read(path).regions[0][0] == "tumor"


def test_asap_vertices_are_sorted_by_their_order_attribute(tmp_path):
    shuffled = "".join(f'<Coordinate Order="{i}" X="{SQUARE[i][0]}" Y="{SQUARE[i][1]}"/>' for i in (2, 0, 3, 1))
    polygon = f'<Annotation Type="Polygon" PartOfGroup="Tumor"><Coordinates>{shuffled}</Coordinates></Annotation>'
    assert read(asap(tmp_path / "a.xml", polygon)).regions[0][1].area == 200 * 300


def test_several_names_can_map_to_one_class_and_names_can_be_ignored(tmp_path):
    path = asap(tmp_path / "a.xml", *(asap_polygon(SQUARE, g) for g in ("Tumor", "met", "junk")))
    annotation = read(path, classes={"Tumor": "tumor", "met": "tumor"}, ignore=["junk"])
    assert annotation.record.regions == {"tumor": 2}
    assert annotation.record.ignored == {"junk": 1}


def test_a_file_with_only_ignored_names_has_no_regions_and_no_error(tmp_path):
    annotation = read(asap(tmp_path / "a.xml", asap_polygon(SQUARE, "junk")), ignore=["junk"])
    assert annotation.regions == []
    assert annotation.record.ignored == {"junk": 1}


# Bad input


def test_unmapped_names_are_all_listed_in_the_error(tmp_path):
    message = refusal(asap(tmp_path / "a.xml", *(asap_polygon(SQUARE, g) for g in ("x", "y", "Tumor"))))
    assert "'x' (1), 'y' (1)" in message
    assert "annotations.classes" in message


@pytest.mark.parametrize("name", ["a.xml", "a.geojson"])
def test_an_empty_annotation_is_an_error(tmp_path, name):
    path = asap(tmp_path / name) if name.endswith("xml") else geojson(tmp_path / name)
    assert "contains no region" in refusal(path)


def test_a_self_intersecting_outline_becomes_the_area_it_encloses_and_is_counted(tmp_path):
    bow_tie = [(0, 0), (100, 100), (100, 0), (0, 100)]
    annotation = read(asap(tmp_path / "a.xml", asap_polygon(bow_tie), asap_polygon(SQUARE)))
    assert annotation.record.repaired == 1
    assert annotation.regions[0][1].is_valid
    assert annotation.regions[0][1].area == pytest.approx(5000)


def test_degenerate_outlines_are_dropped_and_counted_and_refused_if_there_are_no_others(tmp_path):
    line = asap_polygon([(0, 0), (5, 5)])
    annotation = read(asap(tmp_path / "a.xml", line, asap_polygon(SQUARE)))
    assert annotation.record.degenerate == 1
    assert "none of the 1 regions has an area" in refusal(asap(tmp_path / "b.xml", line))


def test_an_annotation_outside_the_slide_is_refused_with_the_distances(data):
    message = refusal(data / "annotations/CMU-1-Small-Region.dsa.geojson")
    assert "6.9% of the annotated area" in message
    assert "113 px beyond the right" in message


def test_an_annotation_at_another_scale_is_refused(tmp_path):
    message = refusal(asap(tmp_path / "a.xml", asap_polygon([(16 * x, 16 * y) for x, y in SQUARE])))
    assert "2580 px beyond the right" in message


def test_a_small_overhang_is_clipped_and_counted(tmp_path):
    over = [(WIDTH - 500, 0), (WIDTH + 3, 0), (WIDTH + 3, 500), (WIDTH - 500, 500)]
    annotation = read(asap(tmp_path / "a.xml", asap_polygon(over)))
    assert annotation.record.clipped == 1
    assert annotation.regions[0][1].bounds[2] == WIDTH


BOMB = '<!DOCTYPE b [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><Annotations>&b;</Annotations>'
EXTERNAL = '<!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/passwd">]><Annotations>&a;</Annotations>'


@pytest.mark.parametrize("text", [BOMB, EXTERNAL, '<!DOCTYPE b SYSTEM "x.dtd"><Annotations/>'])
def test_entities_and_dtds_are_refused(tmp_path, text):
    path = tmp_path / "a.xml"
    path.write_text(text)
    assert "DTD or entities" in refusal(path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.xml", "<ASAP_Annotations><Annotations>", "not well-formed XML"),
        ("a.xml", "", "not well-formed XML"),
        ("a.xml", "<kml/>", "the root is <kml>"),
        ("a.geojson", "{", "not JSON"),
        ("a.geojson", '{"a": 1}', "neither a GeoJSON"),
        ("a.geojson", '{"type": "FeatureCollection", "features": [1]}', "neither a GeoJSON"),
        ("a.geojson", '{"type": "Topology", "features": []}', "its type is 'Topology'"),
        ("a.txt", "hello", "unknown annotation format '.txt'"),
    ],
)
def test_files_that_are_not_annotations_are_refused_with_the_reason(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    assert said in refusal(tmp_path / name)


def test_decimal_commas_and_missing_coordinates_are_refused(tmp_path):
    comma = asap_polygon(SQUARE).replace('X="100"', 'X="100,5"')
    assert "decimal comma" in refusal(asap(tmp_path / "a.xml", comma))
    assert "not finite" in refusal(asap(tmp_path / "b.xml", asap_polygon([(0, 0), ("nan", 1), (2, 2)])))


def test_unreadable_coordinates_in_geojson_are_refused(tmp_path):
    broken = feature(SQUARE, label="Tumor")
    broken["geometry"]["coordinates"] = [[["a", "b"]]]
    message = refusal(geojson(tmp_path / "a.geojson", feature(SQUARE, label="Tumor"), broken))
    assert "1 features have an unreadable geometry, the first is feature 2" in message


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.geojson"
    with path.open("wb") as stream:
        stream.truncate(1_000_000_000)
    assert "1000 MB, more than annotations.max_file_mb (500)" in refusal(path)


def test_a_missing_file_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "a.xml")


# Masks


def save_mask(path: Path, mask: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, mask)
    elif path.suffix == ".png":
        Image.fromarray(mask).save(path)
    elif path.suffix == ".zarr":
        zarr.create_array(path, data=mask, chunks=(64, 64))
    else:
        tifffile.imwrite(path, mask, tile=(64, 64))
    return path


@pytest.mark.parametrize("suffix", MASK_SUFFIXES)
def test_masks_of_every_format_give_the_same_labels(tmp_path, suffix):
    mask = np.zeros((300, 200), np.uint8)
    mask[10:20, 30:50], mask[200:, 100:] = 3, 7
    config = {"classes": {"3": "tumor", "7": "other"}}
    annotation = read(save_mask(tmp_path / f"m{suffix}", mask), width=200, height=300, **config)
    labels = annotation.label_image.read(slice(None), slice(None))
    expected = np.select([mask == 3, mask == 7], [2, 1])  # class names are sorted: other, tumor
    np.testing.assert_array_equal(labels, expected)
    assert annotation.record.area_px == {"tumor": 200, "other": 10_000}


@pytest.mark.parametrize(("shape", "factor"), [((2967, 2220), 1), ((741, 555), 4), ((742, 555), 4), ((185, 139), 16)])
def test_a_mask_at_a_whole_fraction_of_the_slide_is_accepted(tmp_path, shape, factor):
    path = save_mask(tmp_path / "m.npy", np.ones(shape, np.uint8))
    assert read(path, classes={"1": "tumor"}).label_image.downsample == factor


@pytest.mark.parametrize("shape", [(2000, 2000), (2968, 2220), (742, 550), (700, 555)])
def test_a_mask_of_another_shape_is_refused(tmp_path, shape):
    assert "no whole scale fits" in refusal(save_mask(tmp_path / "m.npy", np.ones(shape, np.uint8)))


def test_a_transposed_mask_is_refused_with_a_hint(tmp_path):
    assert "swapped axes" in refusal(save_mask(tmp_path / "m.npy", np.ones((WIDTH, HEIGHT), np.uint8)))


def test_unmapped_mask_values_are_listed(tmp_path):
    mask = np.ones((HEIGHT, WIDTH), np.uint16)
    mask[0, :5] = 900
    message = refusal(save_mask(tmp_path / "m.npy", mask), classes={"1": "tumor"})
    assert "'900' (5)" in message


def test_zero_is_unlabelled_unless_it_is_mapped(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert "every pixel is 0" in refusal(save_mask(tmp_path / "m.npy", mask), classes={"1": "tumor"})
    annotation = read(save_mask(tmp_path / "n.npy", mask), classes={"0": "stroma"})
    assert annotation.record.area_px == {"stroma": WIDTH * HEIGHT}


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.ones((HEIGHT, WIDTH), np.float32), "must contain integers"),
        (np.ones((HEIGHT, WIDTH, 3), np.uint8), "must have two axes"),
        (np.full((HEIGHT, WIDTH), -1, np.int32), "labels range from -1"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ],
)
def test_arrays_that_are_not_masks_are_refused(tmp_path, mask, said):
    assert said in refusal(save_mask(tmp_path / "m.npy", mask))


def test_files_that_are_not_masks_are_refused(tmp_path):
    for name in ("m.npy", "m.png", "m.tif"):
        (tmp_path / name).write_bytes(b"not an image")
        assert "cannot be read" in refusal(tmp_path / name)
