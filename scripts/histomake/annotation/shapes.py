"""From shapes as drawn to valid areas: outlines that cross themselves, stray holes, areas that are cut out."""

from __future__ import annotations

from collections.abc import Sequence
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
    areas = [polygonal(shape if good else _mend(shape)) for shape, good in zip(shapes, valid, strict=True)]
    return areas, int((~valid).sum())


def _mend(shape: shapely.Geometry) -> shapely.Geometry:
    return shapely.disjoint_subset_union_all(
        [_enclosed(part) for part in flat_parts(shape) if part.geom_type == "Polygon"]
    )


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
    points = shapely.get_coordinates(ring)
    segments = shapely.linestrings(np.stack([points[:-1], points[1:]], axis=1))
    tree, ends = shapely.STRtree(segments), 0
    for start in range(0, len(segments), SEGMENTS):
        ends += tree.query(segments[start : start + SEGMENTS], predicate="crosses").shape[1]
        if ends > 2 * MAX_CROSSINGS:
            raise AnnotationError(
                f"an outline of {len(segments)} vertices crosses itself more than {MAX_CROSSINGS:,} times; it is not a "
                "drawn region"
            )


def cut_out(areas: Sequence[shapely.Geometry], cuts: Sequence[shapely.Geometry]) -> list[shapely.Geometry]:
    """Return areas without the ``cuts``, whichever is smaller; an area that is cut away becomes empty."""
    result, holes = list(areas), np.array(cuts, dtype=object)
    if not areas or not cuts:
        return result
    for i, cutting in grouped(*shapely.STRtree(holes).query(areas, predicate="intersects")):
        result[i] = polygonal(shapely.difference(result[i], shapely.disjoint_subset_union_all(holes[cutting])))
    return result
