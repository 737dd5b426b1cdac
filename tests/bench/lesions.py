"""Slides with one lesion each: real skin with a disc of real nuclei, of a known share of the tissue's area.

Roles share no skin and no image of a lesion. Colours differ by slide. Half of the lesions are of high grade: the same
images at twice the size, so that grades differ in the size of nuclei and not in colour.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.bench.slides import DOWNSAMPLES, REGION, TILE, tile_pixels
from tests.demo import nuclei

RADIUS = 0.45
"""Radius of the tissue, as a share of the slide's edge; that of ``tile_pixels``."""

SKIN = {
    "train": (np.s_[600:1112, 976:1488], np.s_[1900:2412, 1100:1612], np.s_[2424:2936, 600:1112]),
    "val": (np.s_[1112:1624, 860:1372], np.s_[1400:1912, 780:1292]),
    "test": (np.s_[1912:2424, 580:1092], np.s_[2430:2942, 1120:1632]),
}
"""Parts of the skin for each role, with dermis and epidermis; slides take them in turn.

Mirrored, their edges divide the span of the coarsest tiles, so that tiles repeat.
"""

LARGER = 2
"""Size of nuclei of a high grade, in that of a low grade."""

COLOUR = (0.93, 1.07)
"""Range of the strength of each colour channel."""

QUALITY = 70


@dataclass(frozen=True)
class LesionSlide:
    """A square slide of ``side`` px whose lesion takes ``share`` of the tissue.

    image: number of the image that the lesion repeats. number: of the slide, for its colour and the lesion's place.
    """

    name: str
    role: str
    share: float
    high: bool
    image: int
    number: int
    side: int

    @property
    def radius(self) -> float:
        """Radius of the lesion in level-0 pixels."""
        return RADIUS * self.side * math.sqrt(self.share)

    @property
    def _skin(self) -> tuple[slice, slice]:
        return SKIN[self.role][self.image % len(SKIN[self.role])]

    @cached_property
    def centre(self) -> tuple[float, float]:
        """Centre of the lesion as x, y in level-0 pixels; the lesion lies inside the tissue."""
        rng = np.random.default_rng(self.number)
        distance = rng.uniform(0, 0.9) * (RADIUS * self.side - self.radius)
        angle = rng.uniform(0, 2 * math.pi)
        return self.side / 2 + distance * math.cos(angle), self.side / 2 + distance * math.sin(angle)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write the slide and its annotation unless they exist; return both paths."""
        slide, annotation = folder / f"{self.name}.tif", folder / f"{self.name}.geojson"
        if slide.exists() and annotation.exists():
            return slide, annotation
        strength = np.random.default_rng([self.number, 1]).uniform(*COLOUR, 3)
        skin = _coloured(tifffile.imread(REGION)[self._skin], strength)
        lesion = _coloured(self._lesion(), strength)
        finest, middle, coarsest = DOWNSAMPLES
        half = self._level(skin, lesion, middle)
        smallest = cv2.resize(half, (self.side // coarsest,) * 2, interpolation=cv2.INTER_AREA)
        aside = slide.with_suffix(".partial")
        with tifffile.TiffWriter(aside, bigtiff=True) as writer:
            write_level(writer, self.side, _encoded_once(self._tiles(skin, lesion, finest)), first=True)
            write_level(writer, half.shape[0], map(_encoded, _cut(half)))
            write_level(writer, smallest.shape[0], map(_encoded, _cut(smallest)))
        aside.replace(slide)
        annotation.write_text(json.dumps(self._outline()))
        return slide, annotation

    def _lesion(self) -> np.ndarray:
        """Return an image that repeats without seams: the slide's own image of stained tissue, mirrored."""
        image = np.asarray(Image.open(lesion_images()[self.image]).convert("RGB"))
        if self.high:
            image = cv2.resize(image, None, fx=LARGER, fy=LARGER, interpolation=cv2.INTER_CUBIC)
        row = np.concatenate([image, image[:, ::-1]], axis=1)
        return np.concatenate([row, row[::-1]])

    def _tiles(self, skin: np.ndarray, lesion: np.ndarray, downsample: int) -> Iterator[tuple[np.ndarray, bool]]:
        """Yield the pixels of each tile of a level, and whether they are those of an earlier tile."""
        span, known = TILE * downsample, dict[tuple[int, ...], np.ndarray]()
        repeats = [max(1, 2 * length // span) for length in skin.shape[:2]]
        for row, column in product(range(math.ceil(self.side / span)), repeat=2):
            near, far = self._distances(row, column, span, (self.side / 2, self.side / 2))
            plain = self._distances(row, column, span, self.centre)[0] > self.radius
            key: tuple[int, ...] = (row, column, span)
            if near > RADIUS * self.side:
                key = ()
            elif plain and far < RADIUS * self.side:
                key = (row % repeats[0], column % repeats[1])
            if repeated := key in known:
                pixels = known[key]
            else:
                pixels = self._tile(skin, lesion, downsample, row, column)
                if len(key) < 3:
                    known[key] = pixels
            yield pixels, repeated

    def _level(self, skin: np.ndarray, lesion: np.ndarray, downsample: int) -> np.ndarray:
        """Pixels of a whole level, uint8 (edge, edge, 3)."""
        count = math.ceil(self.side / (TILE * downsample))
        level = np.empty((count, TILE, count, TILE, 3), np.uint8)
        for number, (pixels, _) in enumerate(self._tiles(skin, lesion, downsample)):
            level[number // count, :, number % count] = pixels
        edge = self.side // downsample
        return level.reshape(count * TILE, count * TILE, 3)[:edge, :edge]

    @staticmethod
    def _distances(row: int, column: int, span: int, centre: tuple[float, float]) -> tuple[float, float]:
        """Smallest and largest distance of the pixels of a tile from a point, in level-0 pixels."""
        ends = [(column * span, (column + 1) * span), (row * span, (row + 1) * span)]
        near = [max(low - c, 0, c - high) for (low, high), c in zip(ends, centre, strict=True)]
        far = [max(abs(low - c), abs(high - c)) for (low, high), c in zip(ends, centre, strict=True)]
        return math.hypot(*near), math.hypot(*far)

    def _tile(self, skin: np.ndarray, lesion: np.ndarray, downsample: int, row: int, column: int) -> np.ndarray:
        """Pixels of a tile, uint8 (TILE, TILE, 3)."""
        span, (x, y) = TILE * downsample, self.centre
        pixels = tile_pixels(skin, self.side, downsample, row, column)
        ys, xs = row * span + np.arange(span), column * span + np.arange(span)
        inside = (ys[:, None] - y) ** 2 + (xs[None, :] - x) ** 2 <= self.radius**2
        if not inside.any():
            return pixels
        drawn = lesion[np.ix_(ys % lesion.shape[0], xs % lesion.shape[1])]
        share = inside.astype(np.float32)
        if downsample > 1:
            drawn = cv2.resize(drawn, (TILE, TILE), interpolation=cv2.INTER_AREA)
            share = cv2.resize(share, (TILE, TILE), interpolation=cv2.INTER_AREA)
        return (pixels * (1 - share[..., None]) + drawn * share[..., None]).round().astype(np.uint8)

    def _outline(self) -> dict:
        angles = np.linspace(0, 2 * np.pi, 181)
        x, y = self.centre
        ring = np.stack([x + self.radius * np.cos(angles), y + self.radius * np.sin(angles)], axis=1).round(1)
        ring[-1] = ring[0]
        geometry = {"type": "Polygon", "coordinates": [ring.tolist()]}
        properties = {"objectType": "annotation", "classification": {"name": "lesion", "color": [230, 159, 0]}}
        feature = {"type": "Feature", "geometry": geometry, "properties": properties}
        return {"type": "FeatureCollection", "features": [feature]}


def lesion_images() -> list[Path]:
    """Images of stained tissue without glass."""
    return [path for path in sorted(nuclei.DATA.glob("*.png")) if nuclei.stain(path) != "pale"]


def _coloured(pixels: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Pixels with the darkness of each channel times ``strength`` (3,)."""
    return np.clip(255 - (255 - pixels.astype(np.float32)) * strength, 0, 255).round().astype(np.uint8)


def write_level(writer: tifffile.TiffWriter, edge: int, tiles: Iterator[bytes], *, first: bool = False) -> None:
    """Write a level of ``edge`` px from its encoded tiles."""
    writer.write(
        tiles,
        shape=(edge, edge, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"outcolorspace": "ycbcr"},
        subsampling=(2, 2),
        subfiletype=int(not first),
        metadata=None,
    )


def _cut(level: np.ndarray) -> Iterator[np.ndarray]:
    """Tiles of a level, whose right and lower edges are filled with glass."""
    missing = -level.shape[0] % TILE
    filled = np.pad(level, ((0, missing), (0, missing), (0, 0)), constant_values=255)
    for row, column in product(range(0, len(filled), TILE), repeat=2):
        yield filled[row : row + TILE, column : column + TILE]


def _encoded_once(tiles: Iterator[tuple[np.ndarray, bool]]) -> Iterator[bytes]:
    """Encode tiles, those of an earlier tile's pixels once."""
    known: dict[int, bytes] = {}
    for pixels, repeated in tiles:
        if not repeated:
            known[id(pixels)] = _encoded(pixels)
        yield known[id(pixels)]


def _encoded(pixels: np.ndarray) -> bytes:
    stream = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(pixels), level=QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
    )
    return bytes(stream)
