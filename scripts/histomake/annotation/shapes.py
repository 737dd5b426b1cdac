"""From shapes as drawn to valid areas: outlines that cross themselves, stray holes, areas that are cut out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import shapely

from histomake.annotation.drawn import AnnotationError
from histomake.annotation.overlap import flat_parts, grouped, polygonal

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_COORDINATE = 1e9
"""Largest coordinate in pixels; slides are a thousand times smaller. Areas of larger shapes overflow."""

MAX_CROSSINGS = 50_000
"""Most places where an outline may cross itself. Drawn outlines have a few; random ones take minutes and gigabytes."""

MAX_CROSSINGS_BETWEEN = 200_000
"""Most places where the outlines of a file may cross each other. The areas in between are as many."""

SEGMENTS = 256
"""Segments of an outline that are compared with all others at a time."""


def enclosed_areas(shapes: NDArray[np.object_]) -> tuple[list[shapely.Geometry], int]:
    """Return the valid area that each shape encloses, and how many shapes had to be repaired.

    An outline that crosses itself encloses everything that it runs around, also where it runs around it twice. Holes
    are cut out of their own polygon only as far as they lie inside it. Points and lines have no area.

    Raises:
        AnnotationError: A coordinate is not finite or beyond any slide, or an outline crosses itself too often.
    """
    bounds = shapely.bounds(shapes)
    bounds = bounds[~shapely.is_empty(shapes)]
    if not (np.abs(bounds) <= MAX_COORDINATE).all():
        raise AnnotationError(f"a coordinate is not finite, or larger than {MAX_COORDINATE:.0e} pixels")
    valid = shapely.is_valid(shapes)
    areas = [_area(shape, valid=good) for shape, good in zip(shapes, valid, strict=True)]
    return areas, int((~valid).sum())


def _area(shape: shapely.Geometry, *, valid: bool) -> shapely.Geometry:
    if valid and shape.geom_type in ("Polygon", "MultiPolygon"):
        return shape
    parts = [part for part in flat_parts(shape) if part.geom_type == "Polygon"]
    check_crossings_between(shapely.get_rings(parts))
    return polygonal(shape if valid else shapely.disjoint_subset_union_all([_enclosed(part) for part in parts]))


def _enclosed(polygon: shapely.Polygon) -> shapely.Geometry:
    """The area inside the shell and outside the holes. A hole beside the shell is no area, and none where it leaves it.

    Each ring is repaired alone: GEOS 3.14 makes shells of holes that lie outside.
    """
    shell, *holes = (_area_inside(ring) for ring in shapely.get_rings(polygon))
    return shapely.difference(shell, shapely.disjoint_subset_union_all(holes)) if holes else shell


def _area_inside(ring: shapely.LinearRing) -> shapely.Geometry:
    _check_crossings(ring)
    return polygonal(shapely.make_valid(shapely.Polygon(ring), method="structure", keep_collapsed=False))


def _check_crossings(ring: shapely.LinearRing) -> None:
    """Raise AnnotationError for an outline with more than MAX_CROSSINGS crossings. The work is bounded."""
    segments, found = _segments(ring), 0
    for ends in _crossings(shapely.STRtree(segments), segments):
        found += ends  # each crossing is found from both of its segments
        if found > 2 * MAX_CROSSINGS:
            raise AnnotationError(
                f"an outline of {len(segments)} vertices crosses itself more than {MAX_CROSSINGS:,} times; it is not a "
                "drawn region"
            )


def check_crossings_between(outlines: NDArray[np.object_]) -> None:
    """Raise AnnotationError if lines cross each other more than MAX_CROSSINGS_BETWEEN times. The work is bounded.

    Pairs of outlines that have too few vertices for so many crossings are not looked at, so cells cost nothing.
    """
    vertices = shapely.get_num_coordinates(outlines).astype(np.int64)
    large = np.flatnonzero(vertices**2 > MAX_CROSSINGS)
    one, other = shapely.STRtree(outlines).query(outlines[large], predicate="intersects")
    one = large[one]
    once = (vertices[other] * vertices[one] > MAX_CROSSINGS) & ((vertices[other] ** 2 <= MAX_CROSSINGS) | (other > one))
    found = 0
    for index, crossing in grouped(one[once], other[once]):
        tree = shapely.STRtree(_segments(outlines[index]))
        for each in crossing:
            for count in _crossings(tree, _segments(outlines[each])):
                found += count
                if found > MAX_CROSSINGS_BETWEEN:
                    raise AnnotationError(
                        f"outlines cross each other more than {MAX_CROSSINGS_BETWEEN:,} times; they are not drawn",
                        "Simplify the outlines, or export a label mask",
                    )


def _segments(outline: shapely.Geometry) -> NDArray[np.object_]:
    """The segments of a ring or a line, or of several."""
    points, line = shapely.get_coordinates(outline), shapely.get_parts(outline)
    starts = np.ones(len(points), bool)
    starts[np.cumsum(shapely.get_num_coordinates(line)) - 1] = False
    at = np.flatnonzero(starts)
    return shapely.linestrings(np.stack([points[at], points[at + 1]], axis=1))


def _crossings(tree: shapely.STRtree, segments: NDArray[np.object_]) -> Iterator[int]:
    """The numbers of crossings of segments with those of a tree, some segments at a time."""
    for start in range(0, len(segments), SEGMENTS):
        yield tree.query(segments[start : start + SEGMENTS], predicate="crosses").shape[1]


def cut_out(areas: Sequence[shapely.Geometry], cuts: Sequence[shapely.Geometry]) -> list[shapely.Geometry]:
    """Return areas without the ``cuts``, whichever is smaller; an area that is cut away becomes empty."""
    result, holes = list(areas), np.array(cuts, dtype=object)
    if not areas or not cuts:
        return result
    for i, cutting in grouped(*shapely.STRtree(holes).query(areas, predicate="intersects")):
        result[i] = polygonal(shapely.difference(result[i], shapely.disjoint_subset_union_all(holes[cutting])))
    return result
