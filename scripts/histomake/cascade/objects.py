"""Owns nuclei as objects: holes filled, numbered over a whole slide, and written as label image and GeoJSON.

A slide of any size passes through in tiles; pieces that touch across tile borders are joined by a union of their
numbers, so the result is that of the whole slide at once.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import shapely
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage import measure

from histomake.base.files import atomic_file
from histomake.base.units import Mpp
from histomake.cascade.levels import Level, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = NDArray[np.int32]

Pixels = Callable[[Window], "NDArray[np.bool_]"]
"""The mask in any window of a level."""

Numbered = Callable[[Window], "tuple[int, Labels]"]
"""Pieces of one tile: how many numbers there are, counting 0, and the number of every pixel."""

TILE_PX = 2048
HOLES, NUCLEI = 4, 8
"""Connectivity: background is connected by edges, so that nuclei may be by corners."""


@dataclass(frozen=True)
class Pieces:
    """Connected pieces of a mask over all tiles.

    ``numbered``: the pieces of a tile by themselves. ``numbers``: slide-wide number of a piece, by its number in its
    tile plus the tile's offset; 0 is no piece. ``at_edge``: by slide-wide number, whether the piece touches the slide's
    edge.
    """

    numbered: Numbered
    offsets: dict[Window, int]
    numbers: Labels
    at_edge: NDArray[np.bool_]

    def labels(self, tile: Window) -> Labels:
        """Slide-wide numbers of a tile's pixels."""
        count, pieces = self.numbered(tile)
        return self._of(tile, count)[pieces]

    def which(self, flags: NDArray[np.bool_], tile: Window) -> NDArray[np.bool_]:
        """Whether a tile's pixels belong to pieces that ``flags``, by slide-wide number, names."""
        count, pieces = self.numbered(tile)
        return flags[self._of(tile, count)][pieces]

    def _of(self, tile: Window, count: int) -> Labels:
        offset = self.offsets[tile]
        return np.append(np.int32(0), self.numbers[offset + 1 : offset + count])


def _numbering(pixels: Pixels, connectivity: int) -> Numbered:
    """Numbers the pieces of one tile; remembers the tile asked for last, which is often asked for again."""

    @lru_cache(maxsize=1)
    def numbered(tile: Window) -> tuple[int, Labels]:
        return cv2.connectedComponents(pixels(tile).view(np.uint8), connectivity=connectivity)

    return numbered


def find_pieces(pixels: Pixels, level: Level, *, connectivity: int, tile: int = TILE_PX) -> Pieces:
    """Connected pieces of a mask over the whole slide; memory: a tile, two pixel rows, and a number per piece."""
    numbered = _numbering(pixels, connectivity)
    offsets: dict[Window, int] = {}
    joins: list[Labels] = []
    edge: list[Labels] = []
    first, last, above = (np.zeros(level.width, np.int32) for _ in range(3))
    left, total = np.zeros(0, np.int32), 0
    for window in level.blocks(tile):
        count, labels = numbered(window)
        sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
        top, bottom, start, end = (np.where(side > 0, side + total, 0) for side in sides)
        offsets[window] = total
        total += count - 1
        columns = window.slices[1]
        first[columns], last[columns] = top, bottom
        if window.x:
            joins.append(_touching(left, start, connectivity))
        else:
            edge.append(start)
        left = end
        if columns.stop == level.width:
            edge.append(left)
            # The rows of all tiles side by side: pieces that touch over a corner of four tiles are met here too.
            if window.y:
                joins.append(_touching(above, first, connectivity))
            else:
                edge.append(first.copy())
            above = last.copy()
    edge.append(above)
    numbers = _unite(joins, total)
    at_edge = np.zeros(int(numbers.max()) + 1, bool)
    at_edge[numbers[np.concatenate(edge)]] = True
    return Pieces(numbered, offsets, numbers, at_edge)


def _touching(a: Labels, b: Labels, connectivity: int) -> Labels:
    """Pairs (2, n) of numbers of two neighbouring pixel lines that belong to one piece."""
    pairs = [np.stack([a, b])]
    if connectivity == NUCLEI:
        pairs += [np.stack([a[1:], b[:-1]]), np.stack([a[:-1], b[1:]])]
    found = np.concatenate(pairs, axis=1)
    return np.unique(found[:, (found > 0).all(0)], axis=1)


def _unite(joins: list[Labels], total: int) -> Labels:
    """Slide-wide numbers (total + 1,) of tile-wise numbers, from pairs that are one piece; 0 stays 0."""
    a, b = np.concatenate(joins, axis=1) if joins else np.zeros((2, 0), np.int32)
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(total + 1, total + 1))
    group = connected_components(graph, directed=False)[1]
    # In order of first appearance, so that number 0 stays 0 and others do not depend on how groups are found.
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32)


def without_holes(pixels: Pixels, level: Level, *, tile: int = TILE_PX) -> Pixels:
    """The mask with its holes filled: background that cannot reach the slide's edge.

    The result answers for the tiles of ``tile`` pixels only.
    """
    background = find_pieces(lambda window: ~pixels(window), level, connectivity=HOLES, tile=tile)
    hole = ~background.at_edge
    hole[0] = False
    return lambda window: pixels(window) | background.which(hole, window)


@dataclass(frozen=True)
class Nucleus:
    """One found nucleus: its number, its area in pixels, and the window it lies in."""

    number: int
    area: int
    window: Window


def measure_nuclei(pieces: Pieces) -> list[Nucleus]:
    """Area and bounding window of every piece, by number."""
    areas: dict[int, int] = defaultdict(int)
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for tile in pieces.offsets:
        labels = pieces.labels(tile)
        present, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        for position, found in enumerate(ndimage.find_objects(inverse.reshape(labels.shape) + 1)):
            number = int(present[position])
            if number == 0 or found is None:
                continue
            areas[number] += int(counts[position])
            box = (found[0].start + tile.y, found[1].start + tile.x, found[0].stop + tile.y, found[1].stop + tile.x)
            old = boxes.get(number, box)
            boxes[number] = (*map(min, old[:2], box[:2]), *map(max, old[2:], box[2:]))
    return [Nucleus(n, areas[n], Window(y0, x0, y1 - y0, x1 - x0)) for n, (y0, x0, y1, x1) in sorted(boxes.items())]


def outline(mask: NDArray[np.bool_], corner: tuple[float, float], scale: float) -> shapely.Geometry:
    """Polygon of one object: its outer and inner outlines half-way between pixel centres, in level-0 pixels.

    Args:
        mask: (h, w) of the object alone.
        corner: (y, x) of the mask on the level's grid.
        scale: level-0 pixels per level pixel.
    """
    rings = measure.find_contours(np.pad(mask, 1).astype(np.uint8), 0.5)
    # A pixel's centre lies half a pixel from its corner; the padding moved everything by one.
    shapes = [
        shapely.Polygon((ring[:, ::-1] - 0.5 + (corner[1], corner[0])) * scale) for ring in rings if len(ring) > 3
    ]
    area = shapes[0]
    for shape in shapes[1:]:
        area = area.symmetric_difference(shape)
    return area if area.is_valid else shapely.make_valid(area)


def write_objects(path: Path, nuclei: list[Nucleus], labels: Any, probability: Any, *, scale: float, mpp: Mpp) -> None:
    """Write the nuclei as a GeoJSON FeatureCollection of QuPath detections, in level-0 pixels.

    Args:
        labels, probability: arrays (y, x) of the level that are read window by window; probability is 0-255.
        scale: level-0 pixels per level pixel.
        mpp: of the level, for areas in µm².
    """
    with atomic_file(path) as aside, aside.open("w") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for i, feature in enumerate(_features(nuclei, labels, probability, scale, mpp)):
            stream.write(",\n" if i else "\n")
            json.dump(feature, stream)
        stream.write("\n]}\n")


def write_no_objects(path: Path) -> None:
    """Write the empty FeatureCollection that stands in place of a slide's nuclei."""
    write_objects(path, [], None, None, scale=1, mpp=Mpp(1))


def _features(nuclei: list[Nucleus], labels: Any, probability: Any, scale: float, mpp: Mpp) -> Iterator[dict[str, Any]]:
    for nucleus in nuclei:
        here = nucleus.window.slices
        mask = np.asarray(labels[here]) == nucleus.number
        area = shapely.set_precision(outline(mask, nucleus.window[:2], scale), 0.01)
        yield {
            "type": "Feature",
            "id": f"nucleus-{nucleus.number}",
            "geometry": json.loads(shapely.to_geojson(area)),
            "properties": {
                "objectType": "detection",
                "classification": {"name": "nucleus", "color": [32, 96, 200]},
                "measurements": {
                    "area_um2": round(nucleus.area * mpp**2, 2),
                    "probability": round(float(np.asarray(probability[here])[mask].mean()) / 255, 3),
                },
            },
        }
