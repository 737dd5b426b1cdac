"""Slides with one lesion each: real skin with a disc of real nuclei images, of a known share of the tissue's area."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from tests.bench.slides import DOWNSAMPLES, REGION, TILE, tile_pixels
from tests.demo import nuclei

RADIUS = 0.45
"""Radius of the tissue, as a share of the slide's edge; that of ``tile_pixels``."""


@dataclass(frozen=True)
class LesionSlide:
    """A square slide of ``side`` px whose lesion takes ``share`` of the tissue. No two slides share a lesion image."""

    name: str
    role: str
    share: float
    side: int
    number: int

    @property
    def radius(self) -> float:
        """Radius of the lesion in level-0 pixels."""
        return RADIUS * self.side * math.sqrt(self.share)

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
        skin, lesion = tifffile.imread(REGION), self._lesion()
        aside = slide.with_suffix(".partial")
        with tifffile.TiffWriter(aside, bigtiff=True) as writer:
            for index, downsample in enumerate(DOWNSAMPLES):
                edge = self.side // downsample
                writer.write(
                    self._tiles(skin, lesion, downsample),
                    shape=(edge, edge, 3),
                    dtype=np.uint8,
                    tile=(TILE, TILE),
                    photometric="rgb",
                    compression="jpeg",
                    compressionargs={"level": 80},
                    subfiletype=int(index > 0),
                    metadata=None,
                )
        aside.replace(slide)
        annotation.write_text(json.dumps(self._outline()))
        return slide, annotation

    def _lesion(self) -> np.ndarray:
        """Return an image that repeats without seams: the slide's own image of stained tissue, mirrored."""
        images = [path for path in sorted(nuclei.DATA.glob("*.png")) if nuclei.stain(path) != "pale"]
        image = np.asarray(Image.open(images[self.number]).convert("RGB"))
        row = np.concatenate([image, image[:, ::-1]], axis=1)
        return np.concatenate([row, row[::-1]])

    def _tiles(self, skin: np.ndarray, lesion: np.ndarray, downsample: int) -> Iterator[np.ndarray]:
        span, (x, y) = TILE * downsample, self.centre
        count = math.ceil(self.side // downsample / TILE)
        for row, column in product(range(count), range(count)):
            pixels = tile_pixels(skin, self.side, downsample, row, column)
            ys, xs = row * span + np.arange(span), column * span + np.arange(span)
            inside = (ys[:, None] - y) ** 2 + (xs[None, :] - x) ** 2 <= self.radius**2
            if inside.any():
                drawn = lesion[np.ix_(ys % lesion.shape[0], xs % lesion.shape[1])]
                share = inside.astype(np.float32)
                if downsample > 1:
                    drawn = cv2.resize(drawn, (TILE, TILE), interpolation=cv2.INTER_AREA)
                    share = cv2.resize(share, (TILE, TILE), interpolation=cv2.INTER_AREA)
                pixels = (pixels * (1 - share[..., None]) + drawn * share[..., None]).round().astype(np.uint8)
            yield pixels

    def _outline(self) -> dict:
        angles = np.linspace(0, 2 * np.pi, 181)
        x, y = self.centre
        ring = np.stack([x + self.radius * np.cos(angles), y + self.radius * np.sin(angles)], axis=1).round(1)
        ring[-1] = ring[0]
        geometry = {"type": "Polygon", "coordinates": [ring.tolist()]}
        properties = {"objectType": "annotation", "classification": {"name": "lesion", "color": [230, 159, 0]}}
        feature = {"type": "Feature", "geometry": geometry, "properties": properties}
        return {"type": "FeatureCollection", "features": [feature]}
