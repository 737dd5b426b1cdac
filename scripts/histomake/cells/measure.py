"""Shape, stain and texture of the cells of a tile, for all cells at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from skimage.color import hed_from_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = NDArray[np.int32]
    Floats = NDArray[np.float64]

ORTHOGONAL = ((-1, 0), (0, -1), (0, 1), (1, 0))
DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))

STEP_LENGTHS = np.zeros(64)
"""Length that a pixel of the border adds to the perimeter, by 1 + 2 * its border neighbours by edges + 10 * those by
corners (Benkrid and Crookes 2000), as in `skimage.measure.perimeter`."""
STEP_LENGTHS[[5, 7, 15, 17, 25, 27]] = 1
STEP_LENGTHS[[21, 33]] = np.sqrt(2)
STEP_LENGTHS[[13, 23]] = (1 + np.sqrt(2)) / 2

DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255)
"""Optical density by grey level."""


def shapes(labels: Labels, count: int, mpp: float) -> dict[str, Floats]:
    """Measure the shapes of the objects 1 to ``count`` of a label image.

    Returns, each float64 (count,): ``row`` and ``column`` of the centroid in pixels of the tile (the centre of the
    first pixel is 0.5); ``area`` in µm²; ``perimeter`` in µm; ``eccentricity`` of the ellipse with the same second
    moments; ``solidity``: area over that of the convex hull of the pixels' squares; ``orientation``: angle of the long
    axis with the x axis in degrees, 0 to 180, clockwise on the screen.
    """
    places = np.flatnonzero(labels)
    number = labels.ravel()[places] - 1
    row, column = np.divmod(places, labels.shape[1])
    pixels = np.bincount(number, minlength=count)
    y, x = (np.bincount(number, axis, count) / pixels for axis in (row, column))
    dy, dx = row - y[number], column - x[number]
    yy, xx, xy = (np.bincount(number, product, count) / pixels for product in (dy * dy, dx * dx, dx * dy))
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    long, short = (xx + yy + spread) / 2, np.maximum((xx + yy - spread) / 2, 0)
    roundness = np.divide(short, long, out=np.ones(count), where=long > 0)
    border = _border(labels)
    return {
        "row": y + 0.5,
        "column": x + 0.5,
        "area": pixels * mpp**2,
        "perimeter": _perimeters(border, count) * mpp,
        "eccentricity": np.sqrt(1 - roundness),
        "solidity": pixels / _hull_areas(labels, count),
        "orientation": np.degrees(np.arctan2(2 * xy, xx - yy) / 2) % 180,
    }


def _border(labels: Labels) -> Labels:
    """Return the labels of the pixels that have a neighbour of another object or background by an edge, else 0.

    The result has a frame of one pixel of background.
    """
    framed = np.pad(labels, 1)
    inner = framed[1:-1, 1:-1]
    height, width = labels.shape
    outside = np.zeros(labels.shape, bool)
    for y, x in ORTHOGONAL:
        outside |= framed[1 + y : 1 + y + height, 1 + x : 1 + x + width] != inner
    inner[~outside] = 0
    return framed


def _perimeters(border: Labels, count: int) -> Floats:
    """Return the perimeters in pixels of objects whose border pixels are given, (count,)."""
    flat = border.ravel()
    places = np.flatnonzero(flat)
    number = flat[places]
    steps = np.ones(places.size, np.uint8)
    for weight, neighbours in ((2, ORTHOGONAL), (10, DIAGONAL)):
        for y, x in neighbours:
            steps += np.uint8(weight) * (flat[places + y * border.shape[1] + x] == number)
    return np.bincount(number - 1, STEP_LENGTHS[steps], count)


def _hull_areas(labels: Labels, count: int) -> Floats:
    """Return the areas in pixels of the convex hulls of the squares of each object's pixels, (count,)."""
    key, number, left, right = _row_ends(labels)
    # On the line between two rows, only the outermost corner of both can be on the hull.
    joined = np.diff(key) == 1
    ends = np.flatnonzero(np.append(~joined, True))
    place = np.insert(key, ends + 1, key[ends] + 1)
    number = np.insert(number, ends + 1, number[ends])
    sides = []
    for edge, outer in ((left, np.minimum), (right, np.maximum)):
        corner = edge.copy()
        corner[1:][joined] = outer(edge[1:], edge[:-1])[joined]
        sides.append(np.insert(corner, ends + 1, edge[ends]))
    # A corner on or behind the line between those above and below it is not on the hull either.
    kept = np.ones((place.size, 2), bool)
    inside = (np.diff(place[:-1]) == 1) & (np.diff(place[1:]) == 1)
    for side, (x, sign) in enumerate(zip(sides, (1, -1), strict=True)):
        kept[1:-1, side] = ~inside | (sign * (2 * x[1:-1] - x[:-2] - x[2:]) < 0)
    row = place - number * (labels.shape[0] + 2)
    corners = np.stack([np.stack(sides, axis=1), np.stack([row, row], axis=1)], axis=2)[kept].astype(np.float64)
    outlines = shapely.linestrings(corners, indices=np.repeat(number, kept.sum(1)))
    return np.asarray(shapely.area(shapely.convex_hull(outlines)), np.float64)


def _row_ends(labels: Labels) -> tuple[NDArray[np.int64], ...]:
    """Return, for each object and row, a key, the object's index, and the columns of its first edge and last edge.

    Sorted by object and row. Keys of subsequent rows of an object differ by 1, those of different objects by more.
    """
    height, width = labels.shape
    flat = np.pad(labels, ((0, 0), (0, 1))).ravel()  # so that no run of equal values continues in the next row
    start = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    stop = np.append(start[1:], flat.size)
    found = flat[start] > 0
    start, stop = start[found], stop[found]
    row, number = start // (width + 1), flat[start].astype(np.int64) - 1
    key = number * (height + 2) + row
    order = np.argsort(key, kind="stable")  # runs of a row stay in the order of their columns
    key = key[order]
    new = np.flatnonzero(np.diff(key, prepend=-1))
    first, last = order[new], order[np.append(new[1:], order.size) - 1]
    return key[new], number[first], start[first] - row[first] * (width + 1), stop[last] - row[last] * (width + 1)


def stains(labels: Labels, count: int, pixels: NDArray[np.uint8]) -> dict[str, Floats]:
    """Measure the stains of the objects 1 to ``count`` of a label image.

    Stains are separated by the matrix of Ruifrok and Johnston (2001) as in `skimage.color.hed_from_rgb`, in optical
    density to base 10.

    Args:
        labels: (h, w).
        count: Number of objects.
        pixels: uint8 RGB (h, w, 3).

    Returns:
        Each float64 (count,): ``haematoxylin`` and ``eosin``, the mean densities; ``texture``, the standard deviation
        of the haematoxylin density.
    """
    places = np.flatnonzero(labels)
    number = labels.ravel()[places] - 1
    colours = pixels.reshape(-1, 3).take(places, axis=0)  # three times as fast as an index
    amount = np.bincount(number, minlength=count)
    haematoxylin, eosin = (
        sum((DENSITY * share).astype(np.float32)[colours[:, c]] for c, share in enumerate(hed_from_rgb[:, stain]))
        for stain in (0, 1)
    )
    mean = np.bincount(number, haematoxylin, count) / amount
    spread = np.bincount(number, (haematoxylin - mean[number]) ** 2, count) / amount
    return {
        "haematoxylin": mean,
        "eosin": np.bincount(number, eosin, count) / amount,
        "texture": np.sqrt(spread),
    }
