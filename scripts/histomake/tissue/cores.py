"""Cores of a tissue microarray: where they are in the tissue mask, and their row and column in the grid."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.spatial import KDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Places = dict[tuple[int, int], list[int]]

LEAST_RESPONSE = 0.15
"""Smoothed tissue at the centre of a piece that may be a core; that of a whole core is 0.86."""
WINDOW = 1.1
"""Radius around a piece in which its centre of mass is taken, in radii of a core."""
MOST_TILT = 10.0
"""Largest rotation of the grid, in degrees."""
OFF = 0.3
"""A core is at most this far from its place in the grid, in distances between cores."""
MOST_STRAYS = 0.1
"""Share of pieces as large as cores that may lie off the grid."""
LEAST_FILLED = 0.4
"""Share of the places of the grid that have a core: of tissue that lies anyhow, fewer do."""
PITCHES = (1.02, 4.0)
"""Smallest and largest distance between the centres of neighbouring cores, in diameters."""
MOST_SKEW = 8.0
"""Largest deviation from a right angle between rows and columns, in degrees."""
REACH = 4
"""Places that may be missing between a core and the next one, and one."""
LARGEST = 0.8
"""Tissue of a core is at most this far from its centre, in diameters."""


class NoGridError(ValueError):
    """The tissue is no grid of cores; the message says why."""


@dataclass(frozen=True)
class Core:
    """A core: row and column from 0; centre x, y and diameter of the circle around its tissue, and area, in pixels."""

    row: int
    column: int
    x: float
    y: float
    diameter: float
    area: int

    @property
    def name(self) -> str:
        """Letters of the row and number of the column, as A1."""
        return core_name(self.row, self.column)


@dataclass(frozen=True)
class CoreGrid:
    """The cores of a slide, by row and column, and the grid: rows, columns, and rotation in degrees."""

    cores: list[Core]
    rows: int
    columns: int
    degrees: float

    @property
    def missing(self) -> list[str]:
        """Names of the places without a core."""
        there = {(core.row, core.column) for core in self.cores}
        places = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        return [core_name(*place) for place in places if place not in there]


@dataclass(frozen=True)
class _Lattice:
    """Places of a grid: origin and the steps to the next column and row, float64 (2,) each."""

    origin: Floats
    column: Floats
    row: Floats

    @classmethod
    def fit(cls, points: Floats, places: NDArray[np.int64]) -> _Lattice:
        """Least squares over points (n, 2) and their row and column (n, 2)."""
        known = np.column_stack([np.ones(len(places)), places[:, 1], places[:, 0]])
        origin, column, row = np.linalg.lstsq(known, points, rcond=None)[0]
        return cls(origin, column, row)

    def coordinates(self, points: Floats) -> Floats:
        """Row and column of points (n, 2), which need not be whole."""
        return np.linalg.solve(np.stack([self.row, self.column], axis=1), (points - self.origin).T).T


def core_name(row: int, column: int) -> str:
    """Name of a place: A1 is the first one of the first row; AA follows Z."""
    letters = ""
    row += 1
    while row:
        row, last = divmod(row - 1, 26)
        letters = chr(ord("A") + last) + letters
    return f"{letters}{column + 1}"


def find_cores(mask: NDArray[np.bool_], *, diameter: float) -> CoreGrid:
    """Find the cores of a tissue microarray, and their places in the grid.

    Pieces of tissue as large as cores are found by smoothing. Steps to their neighbours give the grid, which may be
    rotated by up to `MOST_TILT` degrees and lack cores. Pieces at one place are one core that is broken.

    Args:
        mask: tissue, bool (h, w).
        diameter: of a core, in pixels; that of each core may differ.

    Raises:
        NoGridError: there are fewer than two rows or columns, or pieces as large as cores lie off the grid.
    """
    centres = _pieces(mask, diameter)
    if len(centres) < 4:
        raise NoGridError(f"{len(centres)} pieces of tissue are as large as a core; a grid has at least 4")
    lattice = _grown(centres, _steps(centres, diameter))
    places, lattice = _settled(centres, lattice)
    _check(lattice, places, len(centres), diameter)
    top, left = (min(place[axis] for place in places) for axis in (0, 1))
    rows, columns = (1 + max(place[axis] for place in places) - low for axis, low in ((0, top), (1, left)))
    if min(rows, columns) < 2:
        raise NoGridError(f"the cores have {rows} row(s) and {columns} column(s); a grid has at least 2 of each")
    if len(places) < LEAST_FILLED * rows * columns:
        raise NoGridError(f"{len(places)} cores on a grid of {rows} x {columns} places are too few")
    cores = sorted(_measured(mask, lattice, places, diameter), key=lambda core: (core.row, core.column))
    found = [Core(c.row - top, c.column - left, c.x, c.y, c.diameter, c.area) for c in cores]
    return CoreGrid(found, rows, columns, float(np.degrees(np.arctan2(lattice.column[1], lattice.column[0]))))


def _pieces(mask: NDArray[np.bool_], diameter: float) -> Floats:
    """Centres of mass, x and y, of pieces of tissue about as large as a core, float64 (n, 2)."""
    radius = diameter / 2
    smooth = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), radius / 2, borderType=cv2.BORDER_CONSTANT)
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(radius / 2) + 1,) * 2)
    peaks = (smooth >= cv2.dilate(smooth, around) - 1e-6) & (smooth > LEAST_RESPONSE)
    _, _, _, middles = cv2.connectedComponentsWithStats(peaks.astype(np.uint8), connectivity=8)
    found: list[Floats] = []
    for middle in middles[1:]:
        centre = _centre_of_mass(mask, middle, WINDOW * radius)
        if centre is not None and all(np.hypot(*(centre - other)) > radius / 2 for other in found):
            found.append(centre)
    return np.array(found).reshape(-1, 2)


def _centre_of_mass(mask: NDArray[np.bool_], place: Floats, radius: float) -> Floats | None:
    """Centre of the tissue in a circle that follows it; None where there is none."""
    for _ in range(10):
        x0, y0 = (max(0, int(value - radius)) for value in place)
        part = mask[y0 : int(place[1] + radius) + 2, x0 : int(place[0] + radius) + 2]
        y, x = np.nonzero(part)
        inside = np.hypot(x + x0 - place[0], y + y0 - place[1]) <= radius
        if not inside.any():
            return None
        before, place = place, np.array([x[inside].mean() + x0, y[inside].mean() + y0])
        if np.abs(place - before).max() < 0.05:
            break
    return place


def _steps(centres: Floats, diameter: float) -> tuple[Floats, Floats]:
    """Median steps to the next core to the right and below."""
    _, near = KDTree(centres).query(centres, k=min(9, len(centres)))
    vectors = centres[near[:, 1:]] - centres[:, None]
    found = []
    for axis in (0, 1):
        along, across = vectors[..., axis], np.abs(vectors[..., 1 - axis])
        # Cores that are shifted against each other deviate more than the grid is rotated.
        fits = (along >= 0.8 * diameter) & (across < np.tan(np.radians(2 * MOST_TILT)) * along)
        first = [vectors[i, row][np.argmin(along[i, row])] for i, row in enumerate(fits) if row.any()]
        if not first:
            raise NoGridError("the cores are not in rows and columns")
        found.append(np.median(first, axis=0))
    return found[0], found[1]


def _grown(centres: Floats, steps: tuple[Floats, Floats]) -> _Lattice:
    """A grid that is grown from each core to its neighbours; of all beginnings the one that reaches most cores."""
    tree, best, reached = KDTree(centres), dict[int, tuple[int, int]](), set[int]()
    for start in range(len(centres)):
        if start in reached:
            continue
        places = _reach(tree, centres, steps, start)
        reached |= set(places)
        best = max(best, places, key=len)
    numbers = list(best)
    known = np.array([best[i] for i in numbers])
    if min(np.ptp(known, axis=0)) < 1:
        raise NoGridError("the cores are not in rows and columns")
    return _Lattice.fit(centres[numbers], known)


def _reach(tree: KDTree, centres: Floats, steps: tuple[Floats, Floats], start: int) -> dict[int, tuple[int, int]]:
    """Row and column of the cores that are reached from one, over places that lack a core."""
    off = OFF * min(np.hypot(*step) for step in steps)
    places, queue = {start: (0, 0)}, deque([start])
    while queue:
        one = queue.popleft()
        row, column = places[one]
        for down, right in _directions():
            for count in range(1, REACH + 1):
                expected = centres[one] + count * (right * steps[0] + down * steps[1])
                distance, other = tree.query(expected)
                if distance <= off:
                    if other not in places:
                        places[int(other)] = row + count * down, column + count * right
                        queue.append(int(other))
                    break
    return places


def _directions() -> Iterator[tuple[int, int]]:
    yield from ((0, 1), (1, 0), (0, -1), (-1, 0))


def _settled(centres: Floats, lattice: _Lattice) -> tuple[Places, _Lattice]:
    """Pieces by row and column, and the grid that is fitted to them."""
    for _ in range(5):
        coordinates = lattice.coordinates(centres)
        whole = np.rint(coordinates).astype(np.int64)
        near = np.abs(coordinates - whole).max(axis=1) <= OFF
        lattice = _Lattice.fit(centres[near], whole[near])
    places: Places = {}
    for number in np.flatnonzero(near):
        places.setdefault((int(whole[number, 0]), int(whole[number, 1])), []).append(int(number))
    return places, lattice


def _check(lattice: _Lattice, places: Places, pieces: int, diameter: float) -> None:
    """Raise NoGridError for a grid that no microarray has."""
    strays = pieces - sum(map(len, places.values()))
    if strays > MOST_STRAYS * pieces:
        raise NoGridError(f"{strays} of {pieces} pieces of tissue as large as a core lie off the grid of the others")
    for what, step in (("columns", lattice.column), ("rows", lattice.row)):
        pitch = float(np.hypot(*step)) / diameter
        if not PITCHES[0] <= pitch <= PITCHES[1]:
            raise NoGridError(f"the {what} are {pitch:.2g} diameters of a core apart")
    turned = np.degrees([np.arctan2(lattice.column[1], lattice.column[0]), np.arctan2(-lattice.row[0], lattice.row[1])])
    if np.abs(turned).max() > MOST_TILT or abs(turned[0] - turned[1]) > MOST_SKEW:
        raise NoGridError(f"rows and columns are turned by {turned[0]:.1f} and {turned[1]:.1f} degrees")


def _measured(mask: NDArray[np.bool_], lattice: _Lattice, places: Places, diameter: float) -> Iterator[Core]:
    """Centre, diameter and area of each core: of the tissue nearer to its place than to that of any other."""
    steps = float(np.hypot(*lattice.column)), float(np.hypot(*lattice.row))
    reach = min(LARGEST * diameter, 0.75 * max(steps))
    for row, column in places:
        x, y = lattice.origin + column * lattice.column + row * lattice.row
        x0, y0 = max(0, int(x - reach)), max(0, int(y - reach))
        rows, columns = np.nonzero(mask[y0 : int(y + reach) + 2, x0 : int(x + reach) + 2])
        points = np.column_stack([columns + x0, rows + y0]).astype(np.float64)
        own = (np.rint(lattice.coordinates(points)) == (row, column)).all(axis=1)
        own &= np.hypot(points[:, 0] - x, points[:, 1] - y) <= reach
        if own.any():
            (middle_x, middle_y), radius = cv2.minEnclosingCircle(points[own].astype(np.float32))
            # Places of pixels are their corners; a pixel is as wide as one.
            yield Core(row, column, middle_x + 0.5, middle_y + 0.5, 2 * radius + 1, int(own.sum()))
