"""Format-independent annotation of one slide: regions with classes, or a label image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely
import zarr

from histomake.annotation.features import geometries, parse_features
from histomake.base.records.annotation import AnnotationRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

REMEDY = "Correct or re-export the annotation, or empty the slide's annotation cell in the sheet"


class AnnotationError(Exception):
    """A problem found by a format reader, which does not know the slide of the file."""

    def __init__(self, detail: str, remedy: str = REMEDY) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


class Drawn(NamedTuple):
    """One shape as read from a file: the annotator's class name and a geometry that may be invalid."""

    name: str
    geometry: shapely.Geometry


@dataclass(frozen=True)
class LabelImage:
    """A raster of labels over the slide, read in parts.

    Attributes:
        values: Any object with a two-dimensional ``shape`` (y, x) that can be sliced like an array.
        downsample: One raster pixel covers ``downsample`` x ``downsample`` level-0 pixels.
        lookup: Maps values to class numbers (0: unlabelled, i + 1: ``class_names[i]``); None if the values are class
            numbers already.
    """

    values: Any
    downsample: int
    lookup: NDArray[np.uint8] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in raster pixels."""
        return self.values.shape[0], self.values.shape[1]

    def read(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """Read a part of the raster as class numbers, uint8 (y, x)."""
        part = np.asarray(self.values[rows, columns])
        return part.astype(np.uint8) if self.lookup is None else self.lookup[part]


@dataclass(frozen=True)
class Annotation:
    """The annotation of one slide: either regions in level-0 pixels or a label image.

    ``regions`` are valid, non-empty Polygons or MultiPolygons inside the slide. Regions of different classes may
    overlap: area shares count each class separately, and in rasters the smaller region is drawn on top.
    """

    class_names: tuple[str, ...]
    regions: list[tuple[str, shapely.Geometry]]
    label_image: LabelImage | None = None
    record: AnnotationRecord | None = None

    @classmethod
    def load(cls, path: Path | str) -> Annotation:
        """Open an annotation written by `histomake.annotation.write`, given the path of its JSON record.

        Raises:
            SlideError: The record is a quarantine entry.
        """
        path = Path(path)
        record = AnnotationRecord.read_usable(path)
        features = parse_features(path.with_suffix(".geojson").read_bytes())
        names = ((feature.properties or {})["classification"]["name"] for feature in features)
        regions = list(zip(names, geometries(feature.geometry for feature in features), strict=True))
        labels = None
        if record.label_image is not None:
            store = path.with_name(record.label_image.store)
            labels = LabelImage(zarr.open_array(store, mode="r"), record.label_image.downsample)
        return cls(record.class_names, regions, labels, record)

    @cached_property
    def union_by_class(self) -> dict[str, shapely.Geometry]:
        """The union of the regions of each class, so that overlapping regions of one class count once.

        Only regions with touching bounding boxes are merged geometrically, so 100,000 cells take less than a second.
        """
        grouped: dict[str, list[shapely.Geometry]] = {}
        for name, geometry in self.regions:
            grouped.setdefault(name, []).append(geometry)
        return {name: polygonal(shapely.disjoint_subset_union_all(members)) for name, members in grouped.items()}

    @cached_property
    def draw_rank(self) -> NDArray[np.intp]:
        """Position of each region in drawing order, largest first, so that smaller regions stay visible."""
        areas = shapely.area([geometry for _, geometry in self.regions])
        rank = np.empty(areas.size, np.intp)
        rank[np.argsort(-areas, kind="stable")] = np.arange(areas.size)
        return rank

    @cached_property
    def index(self) -> shapely.STRtree:
        """Spatial index over ``regions``, in the same order."""
        return shapely.STRtree([geometry for _, geometry in self.regions])


def polygonal(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the areal part of a geometry as a Polygon or MultiPolygon, without points and lines."""
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = [p for p in shapely.get_parts(geometry).tolist() if p.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts) if parts else shapely.Polygon()
