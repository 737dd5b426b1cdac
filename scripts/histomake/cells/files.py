"""Label image and outlines of a slide's cells."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import zarr
from scipy import ndimage
from skimage import measure
from zarr.codecs import ZstdCodec

from histomake.base.files import atomic_directory, atomic_file
from histomake.base.windows import Window
from histomake.cells.source import CellSource
from histomake.cells.table import Sink
from histomake.cells.tile import Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 512
COLOURS = ((32, 96, 200), (200, 60, 40), (40, 160, 80), (220, 160, 30), (140, 60, 180), (30, 170, 190), (120, 120, 120))
"""Colours of the classes in QuPath, repeated if there are more; the first without classes."""

MEASUREMENTS = {
    "Area µm^2": "area",
    "Perimeter µm": "perimeter",
    "Eccentricity": "eccentricity",
    "Solidity": "solidity",
    "Hematoxylin OD mean": "haematoxylin",
    "Eosin OD mean": "eosin",
    "Hematoxylin OD std dev": "texture",
}
"""Measurements in QuPath, and their names among the measures."""


@contextmanager
def label_image(store: Path, source: CellSource) -> Iterator[Sink]:
    """Yield a sink that writes the numbers of the cells as an OME-Zarr 0.5 label image, uint32 (y, x)."""
    with atomic_directory(store) as aside:
        group = zarr.open_group(aside, mode="w", zarr_format=3)
        scale = {"type": "scale", "scale": [float(source.mpp)] * 2}
        metadata: dict[str, Any] = {
            "version": "0.5",
            "multiscales": [
                {
                    "name": "cells",
                    "axes": [{"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")],
                    "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
                }
            ],
            "image-label": {"version": "0.5"},
        }
        group.attrs["ome"] = metadata
        array = group.create_array(
            "0",
            shape=source.shape,
            dtype="uint32",
            chunks=(CHUNK, CHUNK),
            compressors=ZstdCodec(level=3),
            dimension_names=("y", "x"),
        )

        yield lambda tile, before, _measures: write_numbers(array, tile, before)


def write_numbers(array: Any, tile: Tile, before: int) -> None:
    """Write the cells of a tile into an array (y, x) of uint32, numbered from ``before`` + 1."""
    here = tile.window.slices
    numbers = np.asarray(array[here])
    np.copyto(numbers, tile.labels.astype(np.uint32) + np.uint32(before), where=tile.labels > 0)
    array[here] = numbers


@contextmanager
def outlines(path: Path, source: CellSource) -> Iterator[Sink]:
    """Yield a sink that writes the cells as a GeoJSON FeatureCollection of QuPath cells, in level-0 pixels."""
    with atomic_file(path) as aside, aside.open("w") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')

        def write(tile: Tile, before: int, measures: dict[str, NDArray[np.float64]]) -> None:
            for i, feature in enumerate(_features(tile, before, measures, source)):
                stream.write(",\n" if before + i else "\n")
                json.dump(feature, stream)

        yield write
        stream.write("\n]}\n")


def write_no_outlines(path: Path) -> None:
    """Write an empty FeatureCollection in place of a slide's cells."""
    with atomic_file(path) as aside:
        aside.write_text('{"type": "FeatureCollection", "features": [\n]}\n')


def _features(
    tile: Tile, before: int, measures: dict[str, NDArray[np.float64]], source: CellSource
) -> Iterator[dict[str, object]]:
    classes: Sequence[int] = [0] * tile.count if tile.classes is None else tile.classes.tolist()
    for i, box in enumerate(ndimage.find_objects(tile.labels, tile.count)):
        here = Window(box[0].start, box[1].start, box[0].stop - box[0].start, box[1].stop - box[1].start)
        corner = (tile.window.y + here.y, tile.window.x + here.x)
        area = shapely.set_precision(outline(tile.labels[box] == i + 1, corner, source.scale), 0.01)
        properties: dict[str, object] = {
            "objectType": "cell",
            "measurements": {name: round(float(measures[key][i]), 4) for name, key in MEASUREMENTS.items()},
        }
        name = source.class_names[classes[i]] if source.class_names else "cell"
        colour = list(COLOURS[classes[i] % len(COLOURS)])
        properties["classification"] = {"name": name, "color": colour}
        yield {
            "type": "Feature",
            "id": f"cell-{before + i + 1}",
            "geometry": json.loads(shapely.to_geojson(area)),
            "properties": properties,
        }


def outline(mask: NDArray[np.bool_], corner: tuple[float, float], scale: float) -> shapely.Geometry:
    """Return the polygon of one object in level-0 pixels, with outlines half-way between pixel centres.

    Args:
        mask: (h, w) of the object alone.
        corner: (y, x) of the mask on its grid.
        scale: Level-0 pixels per pixel of the grid.
    """
    rings = measure.find_contours(np.pad(mask, 1).astype(np.uint8), 0.5)
    # A pixel's centre is half a pixel from its corner; the padding shifted everything by one.
    shapes = [
        shapely.Polygon((ring[:, ::-1] - 0.5 + (corner[1], corner[0])) * scale) for ring in rings if len(ring) > 3
    ]
    area = shapes[0]
    for shape in shapes[1:]:
        area = area.symmetric_difference(shape)
    return area if area.is_valid else shapely.make_valid(area)
