"""Training samples of a cascade: points in annotated slides, their classes, and the crops around them.

Points are drawn per slide as in RADHicaL. Level 1: nucleus, the ring around nuclei (hard negatives), background.
Coarser levels: nothing, mixed, wholly nucleus, by the annotated share of the pixel. Only coordinates are stored; crops
are read from the store when a step needs them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy import ndimage

from histomake.base.errors import HistomakeError
from histomake.base.rng import counter_rng
from histomake.base.windows import Window
from histomake.cascade.fields import Field
from histomake.cascade.levels import Level, mirrored, read_window
from histomake.cascade.truth import Truth
from histomake.config import CascadeTrain
from histomake.learn.data.source import NEW, Room
from histomake.slide.reader import SlideReader

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

NOTHING, NUCLEUS, WHOLE = 0, 1, 2
"""Classes of a network; NUCLEUS means *mixed* above level 1, and WHOLE exists only there."""

BACKGROUND, INSIDE, THIRD, IGNORED = 0, 1, 2, -1
"""Kinds of points: THIRD is the ring around nuclei at level 1, and wholly nucleus above it."""

RING_PX = 3
WHOLLY = 0.99
FRAME_PX = 2048
FRAMES = 8
CACHED_PX, CACHED = 1_000_000, 512
"""Levels of at most CACHED_PX pixels are read once and kept in memory, up to CACHED of them: at most 1.5 GB."""

DARK_PERCENTILES = (5, 50)
DARK = 0.3
DARK_AREA_PX = 100
SAFE_WINDOW_PX = 50


@dataclass(frozen=True)
class Points:
    """Drawn points of one level, as arrays of length n: position in the list of fields, pixel of the level, kind."""

    field: NDArray[np.int32]
    y: NDArray[np.int32]
    x: NDArray[np.int32]
    kind: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.kind)


def class_of(kind: NDArray[np.int8], level: int) -> NDArray[np.int64]:
    """Return the class that the network learns for every kind of point; IGNORED stays."""
    return np.where(kind == THIRD, NOTHING if level == 1 else WHOLE, kind).astype(np.int64)


def kind_shares(config: CascadeTrain, level: int) -> NDArray[np.float32]:
    """Return the shares of the kinds (background, inside, third) in a sample, (3,)."""
    wanted = np.array([config.background if level == 1 else config.per_class, config.per_class, config.per_class])
    return (wanted / wanted.sum()).astype(np.float32)


def kinds(truth: Truth, level: Level, window: Window) -> NDArray[np.int8]:
    """Return the kind of every pixel of a window, int8 (height, width), as if the annotation were complete.

    The paper rounds the covered share to hundredths and so loses .99 itself; here wholly means above .99, and
    everything covered below that is mixed.
    """
    if level.number > 1:
        share = truth.coverage(level, window)
        return np.where(share > WHOLLY, THIRD, np.where(share > 0, INSIDE, BACKGROUND)).astype(np.int8)
    mask = (truth.labels(window.grown(RING_PX, RING_PX)) > 0).astype(np.uint8)
    near = cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=RING_PX)
    inner = (slice(RING_PX, -RING_PX), slice(RING_PX, -RING_PX))
    return np.where(mask[inner] > 0, INSIDE, np.where(near[inner] > 0, THIRD, BACKGROUND)).astype(np.int8)


def safe_background(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where an incompletely annotated image has no nucleus: no dark pixel in the 50 x 50 window around.

    Dark: below .3 of the red channel stretched between its 5th and 50th percentiles (on uint8, as the paper's code had
    it, only the very darkest 5 % passed), in pieces of at least 100 pixels, holes filled.

    Args:
        pixels: (h, w, 3) at level 1.
    """
    red = pixels[..., 0].astype(np.float32)
    low, high = np.percentile(red, DARK_PERCENTILES)
    dark = ndimage.binary_fill_holes((red - low) / max(high - low, 1e-6) < DARK)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8))
    large = np.zeros(count, bool)
    large[1:] = stats[1:, cv2.CC_STAT_AREA] >= DARK_AREA_PX
    return cv2.dilate(large[labels].astype(np.uint8), np.ones((SAFE_WINDOW_PX, SAFE_WINDOW_PX), np.uint8)) == 0


def draw_points(fields: Sequence[Field], number: int, config: CascadeTrain, *, seed: int) -> Points:
    """Draw the points of level ``number``: per slide and kind at most ``per_class`` (``background`` at level 1).

    Raises:
        HistomakeError: A class of the level has no point in any slide.
    """
    drawn = []
    for index, field in enumerate(fields):
        found = _candidates(field, field.levels[number - 1], config, counter_rng(seed, worker=number, step=index))
        rng = counter_rng(seed, worker=number, step=index, stream=1)
        for kind, places in found.items():
            limit = config.background if number == 1 and kind == BACKGROUND else config.per_class
            chosen = places[rng.permutation(len(places))[:limit]]
            drawn.append((np.full(len(chosen), index), chosen[:, 0], chosen[:, 1], np.full(len(chosen), kind)))
    field_of, y, x, kind_of = (np.concatenate(column) for column in zip(*drawn, strict=True))
    points = Points(field_of.astype(np.int32), y.astype(np.int32), x.astype(np.int32), kind_of.astype(np.int8))
    missing = [k for k in (BACKGROUND, INSIDE) if not (points.kind == k).any()]
    if missing:
        names = {BACKGROUND: "background", INSIDE: "nuclei"}
        slides = ", ".join(f.slide_id for f in fields)
        raise HistomakeError(
            f"level {number} has no {' and no '.join(names[k] for k in missing)} in the training slides ({slides}); "
            "annotate slides that have both"
        )
    return points


def _candidates(
    field: Field, level: Level, config: CascadeTrain, rng: np.random.Generator
) -> dict[int, NDArray[np.int64]]:
    """Return all usable points of a slide's frames, by kind: int (n, 2) of (y, x)."""
    found: dict[int, list[NDArray[np.int64]]] = {BACKGROUND: [], INSIDE: [], THIRD: []}
    for window in _frames(field, level, config, rng):
        kind = kinds(field.truth, level, window)
        if not config.complete:
            kind[(kind == BACKGROUND) & ~_safe(field, level, window)] = IGNORED
        for value, places in found.items():
            places.append(np.argwhere(kind == value) + np.array(window[:2]))
    return {value: np.concatenate(places) for value, places in found.items()}


def _frames(field: Field, level: Level, config: CascadeTrain, rng: np.random.Generator) -> list[Window]:
    """Return the parts of a slide in which points are drawn, so that a gigapixel slide is not rasterised whole.

    Up to FRAMES with nuclei and, where annotation is complete, as many without.
    """
    factor = level.mpp / field.levels[0].mpp
    filled: list[Window] = []
    empty: list[Window] = []
    blocks = list(level.blocks(max(1, int(FRAME_PX / factor))))
    for i in rng.permutation(len(blocks)):
        window = blocks[i]
        target = filled if field.truth.coverage(level, window).any() else empty
        if len(target) < FRAMES:
            target.append(window)
        if len(filled) == FRAMES and (len(empty) == FRAMES or not config.complete):
            break
    return filled + empty if config.complete else filled


def _safe(field: Field, level: Level, window: Window) -> NDArray[np.bool_]:
    """Apply `safe_background` to a window of any level; it is decided at level 1."""
    finest = field.levels[0]
    factor = level.mpp / finest.mpp
    wide = Window(*(round(v * factor) for v in window))
    safe = safe_background(read_window(field.reader, finest, wide)).astype(np.float32)
    return cv2.resize(safe, (window.width, window.height), interpolation=cv2.INTER_AREA) >= 1


@dataclass(frozen=True)
class CropLayout:
    """Geometry of a training crop: ``edge`` pixels, labelled at ``places`` along both axes.

    The point stands at the middle place. The crop is read symmetric, so that it can be turned and flipped.
    """

    edge: int
    places: range

    @property
    def middle(self) -> int:
        """Index of the point in the crop."""
        return self.places[len(self.places) // 2]

    @property
    def read_edge(self) -> int:
        """Edge of the symmetric crop that is read; the network gets its first ``edge`` rows and columns."""
        return self.places[0] + self.places[-1] + 1


def read_batch(
    fields: Sequence[Field],
    points: Points,
    chosen: NDArray[np.int64],
    number: int,
    layout: CropLayout,
    *,
    complete: bool,
    rng: np.random.Generator,
    room: Room = NEW,
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Read crops uint8 (n, edge, edge, 3) around the chosen points, turned and flipped at random, and kinds (n, m, m).

    Both arrays are taken from ``room``.
    """
    m = len(layout.places)
    crops = room.array((len(chosen), layout.edge, layout.edge, 3), np.uint8)
    labels = room.array((len(chosen), m, m), np.int8)
    for crop, label, i in zip(crops, labels, chosen, strict=True):
        field = fields[points.field[i]]
        level = field.levels[number - 1]
        y, x = int(points.y[i]) - layout.middle, int(points.x[i]) - layout.middle
        pixels = _read(field.reader, level, Window(y, x, layout.read_edge, layout.read_edge))
        kind = _lattice(field, level, y, x, layout, complete=complete)
        kind[m // 2, m // 2] = points.kind[i]
        turns, flip = int(rng.integers(4)), slice(None, None, -1 if rng.integers(2) else 1)
        crop[:] = np.rot90(pixels, turns)[:, flip][: layout.edge, : layout.edge]
        label[:] = np.rot90(kind, turns)[:, flip]
    return crops, labels


def _lattice(field: Field, level: Level, y: int, x: int, layout: CropLayout, *, complete: bool) -> NDArray[np.int8]:
    """Return the kinds at the places of a crop with its corner at (y, x); IGNORED off the slide or if unknown."""
    places = layout.places
    span = places[-1] - places[0] + 1
    window = Window(y + places[0], x + places[0], span, span)
    grid = kinds(field.truth, level, window)[:: places.step, :: places.step].copy()
    rows, columns = (np.arange(start, start + span, places.step) for start in window[:2])
    grid[(rows < 0) | (rows >= level.height)] = IGNORED
    grid[:, (columns < 0) | (columns >= level.width)] = IGNORED
    if not complete:
        grid[grid == BACKGROUND] = IGNORED
    return grid


def _read(reader: SlideReader, level: Level, window: Window) -> NDArray[np.uint8]:
    """Apply `read_window`, in memory if the level is small."""
    if level.pixels > CACHED_PX:
        return read_window(reader, level, window)
    rows = mirrored(window.y, window.height, level.height)
    columns = mirrored(window.x, window.width, level.width)
    return _whole(reader, level)[np.ix_(rows, columns)]


def keep_in_memory(fields: Sequence[Field], number: int) -> None:
    """Read the small levels that are kept in memory, so that processes forked later share them."""
    for field in fields[:CACHED]:
        level = field.levels[number - 1]
        if level.pixels <= CACHED_PX:
            _whole(field.reader, level)


@lru_cache(maxsize=CACHED)
def _whole(reader: SlideReader, level: Level) -> NDArray[np.uint8]:
    return read_window(reader, level, Window(0, 0, level.height, level.width))
