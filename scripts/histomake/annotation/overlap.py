"""The rule of overlap: where regions of different classes overlap, the smaller region is on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Geometries = NDArray[np.object_]


def draw_rank(geometries: Sequence[shapely.Geometry] | Geometries) -> NDArray[np.intp]:
    """Position of each region in drawing order: the largest first, equal ones in the order of the file."""
    areas = shapely.area(geometries)
    rank = np.empty(areas.size, np.intp)
    rank[np.argsort(-areas, kind="stable")] = np.arange(areas.size)
    return rank


def areas_on_top(names: Sequence[str], geometries: Sequence[shapely.Geometry]) -> dict[str, shapely.Geometry]:
    """The area of each class where no smaller region of another class lies over it.

    The areas of different classes do not overlap: necrosis drawn inside a tumour is not tumour. They do not depend on
    the order of classes. Only regions with touching bounding boxes are compared.

    Args:
        names: class of each region.
        geometries: valid Polygons or MultiPolygons, in the same order.

    Returns:
        A Polygon or MultiPolygon by class, possibly empty.
    """
    shapes, classes = np.array(geometries, dtype=object), np.array(names)
    visible = shapes.copy()
    for below, above in _covered(classes, shapes):
        visible[below] = shapely.difference(shapes[below], shapely.disjoint_subset_union_all(shapes[above]))
    return {
        name: polygonal(shapely.disjoint_subset_union_all(visible[classes == name])) for name in dict.fromkeys(names)
    }


def _covered(classes: NDArray, shapes: Geometries) -> list[tuple[int, NDArray[np.intp]]]:
    """Each region that smaller regions of other classes may cover in part, and the indices of those."""
    if shapes.size == 0:
        return []
    rank = draw_rank(shapes)
    below, above = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    covers = (classes[below] != classes[above]) & (rank[above] > rank[below])
    return grouped(below[covers], above[covers])


def grouped(keys: NDArray[np.intp], values: NDArray[np.intp]) -> list[tuple[int, NDArray[np.intp]]]:
    """Each key, ascending, and the values that stand with it."""
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return [(int(keys[start]), part) for start, part in zip(starts, np.split(values, starts[1:]), strict=False)]


def same_outlines(names: Sequence[str], geometries: Sequence[shapely.Geometry]) -> list[tuple[int, int]]:
    """Pairs of regions of different classes that cover the same area, so that none is on top."""
    shapes, classes = np.array(geometries, dtype=object), np.array(names)
    if shapes.size == 0:
        return []
    keys = np.column_stack([shapely.bounds(shapes), shapely.area(shapes)]).round(6)
    _, groups, sizes = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    found = []
    for group in np.flatnonzero(sizes > 1):
        members = np.flatnonzero(groups == group)
        first = members[0]
        found += [
            (int(first), int(other))
            for other in members[1:]
            if classes[other] != classes[first] and shapely.equals(shapes[first], shapes[other])
        ]
    return found


def polygonal(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the areal part of a geometry as a Polygon or MultiPolygon, without points and lines.

    Collections may be nested.
    """
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = [p for p in flat_parts(geometry) if p.geom_type == "Polygon"]
    return polygonal(shapely.disjoint_subset_union_all(parts)) if parts else shapely.Polygon()


def flat_parts(geometry: shapely.Geometry) -> list[shapely.Geometry]:
    """All points, lines and polygons of a geometry, also of nested collections."""
    parts = np.array([geometry], dtype=object)
    while any(part.geom_type == "GeometryCollection" or part.geom_type.startswith("Multi") for part in parts):
        parts = shapely.get_parts(parts)
    return list(parts)
