"""Format-independent annotation of one slide: regions with classes, or a label image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import shapely
import zarr

from histomake.annotation.features import geometries, parse_features
from histomake.annotation.overlap import areas_on_top, draw_rank, polygonal
from histomake.base.records.annotation import AnnotationRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelImage:
    """A raster of labels over the slide, read in parts.

    Attributes:
        values: Any object with a two-dimensional ``shape`` (y, x) that can be sliced like an array.
        downsample: One raster pixel covers ``downsample`` x ``downsample`` level-0 pixels.
        lookup: Maps values to class numbers (0: unlabelled, i + 1: ``class_names[i]``); None if the values are class
            numbers already.
        chunks: Rows and columns that are stored together, so that reading fewer costs as much.
    """

    values: Any
    downsample: int
    lookup: NDArray[np.uint8] | None = None
    chunks: tuple[int, int] = (1, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in raster pixels."""
        return self.values.shape[0], self.values.shape[1]

    def read(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """Read a part of the raster as class numbers, uint8 (y, x)."""
        part = np.asarray(self.values[rows, columns])
        return part.astype(np.uint8) if self.lookup is None else self.lookup[part]


class _Classification(msgspec.Struct):
    name: str


class _Properties(msgspec.Struct):
    """Properties of a region that `histomake.annotation.write` has written."""

    classification: _Classification


@dataclass(frozen=True)
class Annotation:
    """The annotation of one slide: either regions in level-0 pixels or a label image.

    ``regions`` are valid, non-empty Polygons or MultiPolygons inside the slide, as drawn. Where regions of different
    classes overlap, the smaller one is on top, for pixels and for areas. Classes that the record lists as ``roi`` only
    bound regions of interest: they neither cover others nor are covered, and no pixel has their label.
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
        names = (msgspec.convert(feature.properties, _Properties).classification.name for feature in features)
        regions = list(zip(names, geometries(feature.geometry for feature in features), strict=True))
        labels = None
        if record.label_image is not None:
            store = path.with_name(record.label_image.store)
            labels = LabelImage(zarr.open_array(store, mode="r"), record.label_image.downsample)
        return cls(record.class_names, regions, labels, record)

    @cached_property
    def labelled(self) -> list[tuple[str, shapely.Geometry]]:
        """The regions whose classes label pixels."""
        roi = self.record.roi if self.record is not None else ()
        return [region for region in self.regions if region[0] not in roi]

    @cached_property
    def area_by_class(self) -> dict[str, shapely.Geometry]:
        """The area of each class: where it is on top, or for a region of interest all of it. No two labels overlap."""
        if not self.labelled:
            return dict(self.union_by_class)
        return self.union_by_class | areas_on_top(*zip(*self.labelled, strict=True))

    @cached_property
    def union_by_class(self) -> dict[str, shapely.Geometry]:
        """The union of the regions of each class as drawn, so that overlapping regions of one class count once.

        Only regions with touching bounding boxes are merged geometrically, so 100,000 cells take less than a second.
        """
        grouped: dict[str, list[shapely.Geometry]] = {}
        for name, geometry in self.regions:
            grouped.setdefault(name, []).append(geometry)
        return {name: polygonal(shapely.disjoint_subset_union_all(members)) for name, members in grouped.items()}

    @cached_property
    def draw_rank(self) -> NDArray[np.intp]:
        """Position of each labelled region in drawing order, so that smaller regions are on top."""
        return draw_rank([geometry for _, geometry in self.labelled])

    @cached_property
    def index(self) -> shapely.STRtree:
        """Spatial index over ``labelled``, in the same order."""
        return shapely.STRtree([geometry for _, geometry in self.labelled])
