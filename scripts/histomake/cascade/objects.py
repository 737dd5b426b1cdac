"""Nuclei as objects: filling of holes, numbering over a whole slide, label image and GeoJSON.

A slide of any size is processed in tiles. Components that touch across tile borders are merged by uniting their
numbers, so the result equals that of the whole slide at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
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

from histomake.base.files import atomic_file
from histomake.base.units import Mpp
from histomake.base.windows import Window
from histomake.cascade.levels import Level
from histomake.cells.files import outline
from histomake.cells.tile import Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = NDArray[np.int32]

Pixels = Callable[[Window], "NDArray[np.bool_]"]
"""Function that returns the mask in any window of a level."""

Numbered = Callable[[Window], "tuple[int, Labels]"]
"""Function that returns the components of one tile: the number of labels including 0, and the label of every pixel."""

TILE_PX = 2048
HOLES, NUCLEI = 4, 8
"""Connectivity: 4 for background and holes, so that nuclei can be 8-connected."""


@dataclass(frozen=True)
class Pieces:
    """Connected components of a mask over all tiles.

    Attributes:
        numbered: Returns the components of one tile alone.
        offsets: Offset of each tile's labels.
        numbers: Slide-wide number of a component, by its label in its tile plus the tile's offset; 0 is background.
        at_edge: By slide-wide number, whether the component touches the edge of the slide.
    """

    numbered: Numbered
    offsets: dict[Window, int]
    numbers: Labels
    at_edge: NDArray[np.bool_]

    def labels(self, tile: Window) -> Labels:
        """Return the slide-wide numbers of a tile's pixels."""
        count, pieces = self.numbered(tile)
        return self._of(tile, count)[pieces]

    def which(self, flags: NDArray[np.bool_], tile: Window) -> NDArray[np.bool_]:
        """Return whether a tile's pixels belong to components with ``flags`` set, by slide-wide number."""
        count, pieces = self.numbered(tile)
        return flags[self._of(tile, count)][pieces]

    def _of(self, tile: Window, count: int) -> Labels:
        offset = self.offsets[tile]
        return np.append(np.int32(0), self.numbers[offset + 1 : offset + count])


def _numbering(pixels: Pixels, connectivity: int) -> Numbered:
    """Label the components of one tile; the last tile is cached, because it is often requested again."""

    @lru_cache(maxsize=1)
    def numbered(tile: Window) -> tuple[int, Labels]:
        count, labels = cv2.connectedComponents(pixels(tile).view(np.uint8), connectivity=connectivity)
        return count, np.asarray(labels, np.int32)

    return numbered


def find_pieces(pixels: Pixels, level: Level, *, connectivity: int, tile: int = TILE_PX) -> Pieces:
    """Find the components of a mask on the whole slide. Memory: a tile, two rows of pixels, a number per component."""
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
            # The rows of all tiles are compared, so components that touch at a corner of four tiles are merged too.
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
    """Return pairs (2, n) of labels in two adjacent lines of pixels that belong to one component."""
    pairs = [np.stack([a, b])]
    if connectivity == NUCLEI:
        pairs += [np.stack([a[1:], b[:-1]]), np.stack([a[:-1], b[1:]])]
    found = np.concatenate(pairs, axis=1)
    return np.unique(found[:, (found > 0).all(0)], axis=1)


def _unite(joins: list[Labels], total: int) -> Labels:
    """Return slide-wide numbers (total + 1,) of tile-wise labels, given pairs to be merged; 0 stays 0."""
    a, b = np.concatenate(joins, axis=1) if joins else np.zeros((2, 0), np.int32)
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(total + 1, total + 1))
    group = connected_components(graph, directed=False)[1]
    # Numbers are in order of first appearance, so that 0 stays 0 and they do not depend on how groups are found.
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32)


def without_holes(pixels: Pixels, level: Level, *, tile: int = TILE_PX) -> Pixels:
    """Return the mask with holes filled: background that is not connected to the edge of the slide.

    The result can be called for tiles of ``tile`` pixels only.
    """
    background = find_pieces(lambda window: ~pixels(window), level, connectivity=HOLES, tile=tile)
    hole = ~background.at_edge
    hole[0] = False
    return lambda window: pixels(window) | background.which(hole, window)


@dataclass(frozen=True)
class Nucleus:
    """One nucleus: its number, its area in pixels, and its bounding window."""

    number: int
    area: int
    window: Window


def nuclei_of(tile: Tile, before: int) -> list[Nucleus]:
    """Return area and bounding window of the nuclei of a tile, numbered from ``before`` + 1."""
    areas = np.bincount(tile.labels.ravel(), minlength=tile.count + 1)[1:].tolist()
    y, x = tile.window[:2]
    return [
        Nucleus(
            before + i,
            areas[i - 1],
            Window(y + rows.start, x + columns.start, rows.stop - rows.start, columns.stop - columns.start),
        )
        for i, (rows, columns) in enumerate(ndimage.find_objects(tile.labels, tile.count), start=1)
    ]


def write_objects(path: Path, nuclei: list[Nucleus], labels: Any, probability: Any, *, scale: float, mpp: Mpp) -> None:
    """Write the nuclei as a GeoJSON FeatureCollection of QuPath detections, in level-0 pixels.

    Args:
        path: The file.
        nuclei: The nuclei to write.
        labels: Array (y, x) of nucleus numbers on the level, read window by window.
        probability: Array (y, x) of probabilities on the level, 0-255, read window by window.
        scale: Level-0 pixels per level pixel.
        mpp: Resolution of the level, for areas in µm².
    """
    with atomic_file(path) as aside, aside.open("w") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for i, feature in enumerate(_features(nuclei, labels, probability, scale, mpp)):
            stream.write(",\n" if i else "\n")
            json.dump(feature, stream)
        stream.write("\n]}\n")


def write_no_objects(path: Path) -> None:
    """Write an empty FeatureCollection in place of a slide's nuclei."""
    write_objects(path, [], None, None, scale=1, mpp=Mpp(1))


def _features(
    nuclei: list[Nucleus], labels: Any, probability: Any, scale: float, mpp: Mpp
) -> Iterator[Mapping[str, object]]:
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
