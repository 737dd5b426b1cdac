"""Annotation files made to exhaust time, memory or the stack: refused before they do."""

from __future__ import annotations

import pytest
from histomake.annotation.shapes import MAX_CROSSINGS_BETWEEN
from test_annotation_cases import asap, box, feature, geojson, read, refusal


def several(kind: str, parts: list[object]) -> dict[str, object]:
    """A feature of several polygons."""
    return feature() | {"geometry": {"type": kind, "coordinates" if kind[0] == "M" else "geometries": parts}}


def comb(teeth: int, length: int, *, turned: bool) -> list[list[float]]:
    """A valid outline with long teeth next to each other, along x or along y."""
    edge = [[2 * i + side, length * (i % 2 == 0) + 1] for i in range(teeth) for side in (0, 1)]
    points = [[0, 0], *edge, [2 * teeth, 0], [0, 0]]
    return [[y, x] if turned else [x, y] for x, y in points]


TWO_COMBS = [comb(900, 1800, turned=turned) for turned in (False, True)]


@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param([feature(ring) for ring in TWO_COMBS], id="of one class"),
        pytest.param([feature(r, name=n) for r, n in zip(TWO_COMBS, ("T", "Necrosis"), strict=True)], id="of two"),
        pytest.param([feature(*TWO_COMBS)], id="a hole"),
        pytest.param([several("MultiPolygon", [[r] for r in TWO_COMBS])], id="parts of a shape"),
        pytest.param([several("GeometryCollection", [feature(r)["geometry"] for r in TWO_COMBS])], id="a collection"),
    ],
)
def test_outlines_that_cross_each_other_everywhere_are_refused_at_once(tmp_path, shapes):
    assert f"cross each other more than {MAX_CROSSINGS_BETWEEN:,} times" in refusal(geojson(tmp_path, *shapes))


def test_a_large_outline_may_cross_another_often(tmp_path):
    combs = [feature(comb(100, 200, turned=turned)) for turned in (False, True)]
    assert read(geojson(tmp_path, *combs)).record.regions == {"tumor": 2}


def test_outlines_that_are_cut_out_of_others_are_counted_too(tmp_path):
    path = geojson(tmp_path, *(feature(r, name=n) for r, n in zip(TWO_COMBS, ("T", "Exclusion"), strict=True)))
    assert "cross each other" in refusal(path, cut_out=["Exclusion"])
    path = asap(tmp_path, ("T", TWO_COMBS[0]), ("Exclusion", TWO_COMBS[1]))
    assert "cross each other" in refusal(path, cut_out=["Exclusion"])


@pytest.mark.parametrize("depth", [900, 100_000])
def test_deeply_nested_xml_and_coordinates_are_refused(tmp_path, depth):
    path = tmp_path / "a.xml"
    path.write_text("<Annotations>" + "<Annotation>" * depth + "</Annotation>" * depth + "</Annotations>")
    refusal(path)
    path = geojson(tmp_path, feature(box(0, 0, 9, 9)))
    path.write_text(path.read_text().replace("[[[", "[" * depth).replace("]]]", "]" * depth))
    refusal(path)
