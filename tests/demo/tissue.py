"""Composition of the demo slides: real skin and nuclei-rich tissue on glass, with ground-truth masks.

Light that passes through two objects is attenuated by both. Tissue is therefore stored as *transmittance* (uint8, 255
is clear) and placed on the glass by multiplication, so that cut edges, tears and background need no outline.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile

SOURCE_MPP = 0.499
SKIN_CLEAR = 240
"""Grey level of empty glass in CMU-1; brighter pixels are clear."""
NUCLEI_FROM = np.array([[178, 159, 208], [92, 58, 158]])
NUCLEI_TO = np.array([[226, 176, 206], [104, 64, 126]])
"""Two anchor colours (cytoplasm, nucleus; RGB) that map the violet nuclei images to the pink and blue of H&E."""
MASK_SCALE = 8
"""Ground-truth masks have one pixel per 8 x 8 slide pixels."""
CLASSES = {"skin": 1, "nuclei": 2}

NUCLEAR_DIAMETER = {
    "2246874c8b5b": 15.3,
    "2dd3356f2dcf": 16.9,
    "3934a094e853": 14.5,
    "3bfa8b3b01fd": 17.0,
    "4d14a3629b6a": 18.1,
    "5c6eb9a47852": 21.6,
    "5ef4442e5b8b": 14.8,
    "65c8527c16a0": 13.9,
    "6c67b78e8164": 13.7,
    "708eb41a3fc8": 16.2,
    "9fb32aba1c2f": 14.8,
    "a31deaf0ac27": 22.3,
    "a7f6194ddbea": 21.1,
    "ad473063dab4": 12.5,
    "ae570a676961": 14.5,
    "cbca32daaae3": 15.7,
    "cbff60361ded": 15.7,
    "e49fc2b4f1f3": 21.7,
    "f952cc653760": 12.4,
}
"""Median nuclear diameter of each nuclei image in its own pixels, because the images have no mpp."""
NUCLEAR_DIAMETER_UM = 7.5


@dataclass(frozen=True)
class Sources:
    """The raw tissue as transmittance at SOURCE_MPP: uint8 (h, w, 3)."""

    skin: np.ndarray
    nuclei: list[np.ndarray]


@dataclass(frozen=True)
class Stain:
    """Preparation of one patient's slide: gain of optical density per channel, and colour of the glass."""

    gain: tuple[float, float, float]
    glass: tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """One composed slide: pixels uint8 (h, w, 3) and the class mask uint8 (h/8, w/8)."""

    pixels: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Place:
    """Position of one piece of tissue on the slide, in slide pixels."""

    kind: str
    x: int
    y: int
    width: int
    height: int

    def box(self, scale: int) -> tuple[slice, slice]:
        """Return the index of the piece in an array that is ``scale`` times smaller than the slide."""
        rows = slice(self.y // scale, (self.y + self.height) // scale)
        return rows, slice(self.x // scale, (self.x + self.width) // scale)


def load_sources(data: Path) -> Sources:
    """Read CMU-1-Small-Region and the nuclei images under ``data`` (tests/data)."""
    with tifffile.TiffFile(data / "slides" / "CMU-1-Small-Region.svs") as tiff:
        skin = tiff.pages[0].asarray()
    clear = np.clip(np.arange(256) * (255 / SKIN_CLEAR), 0, 255).astype(np.uint8)
    strip = cv2.LUT(skin, clear)
    nuclei = [_nuclei_image(data / "nuclei" / f"{name}.png", px) for name, px in NUCLEAR_DIAMETER.items()]
    return Sources(skin=np.concatenate([strip, strip[::-1]]), nuclei=nuclei)


def _nuclei_image(path: Path, diameter: float) -> np.ndarray:
    """Read one nuclei image, recolour it channel by channel between the anchors and resample it to SOURCE_MPP."""
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    levels = np.log(np.maximum(np.arange(256), 1) / 255)
    table = np.empty((256, 1, 3), np.uint8)
    for channel in range(3):
        old, new = np.log(NUCLEI_FROM[:, channel] / 255), np.log(NUCLEI_TO[:, channel] / 255)
        slope = (new[1] - new[0]) / (old[1] - old[0])
        table[:, 0, channel] = np.clip(np.exp(new[0] + slope * (levels - old[0])) * 255, 0, 255)
    scale = NUCLEAR_DIAMETER_UM / SOURCE_MPP / diameter
    return cv2.resize(cv2.LUT(pixels, table), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def smooth_noise(rng: np.random.Generator, height: int, width: int, grain: int) -> np.ndarray:
    """Return smooth noise of about unit variance, float32 (height, width), with structures of ``grain`` pixels."""
    coarse = rng.standard_normal((height // grain + 3, width // grain + 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def nuclei_sheet(rng: np.random.Generator, images: list[np.ndarray], size: int) -> np.ndarray:
    """Cover a square with rotated and mirrored images, joined along irregular seams.

    Each image has a weight at each pixel: the distance to its own border plus smooth noise. A steep softmax of the
    weights gives seams a few pixels wide, so adjacent textures join without ghosting.
    """
    total = np.zeros((size, size, 3), np.float32)
    weight = np.full((size, size, 1), 1e-20, np.float32)
    step = 110
    for y in range(-step, size, step):
        for x in range(-step, size, step):
            image = np.rot90(images[rng.integers(len(images))], rng.integers(4))
            image = image[:, ::-1] if rng.random() < 0.5 else image
            _lay(total, weight, image, _contest(rng, *image.shape[:2]), y=y + rng.integers(40), x=x + rng.integers(40))
    return np.clip(total / weight, 0, 255).astype(np.uint8)


def _contest(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    rows = np.minimum(np.arange(height), np.arange(height)[::-1])[:, None]
    columns = np.minimum(np.arange(width), np.arange(width)[::-1])[None, :]
    inside = np.minimum(rows, columns).astype(np.float32)
    score = inside + 12 * smooth_noise(rng, height, width, 48)
    return np.exp(np.clip(score, -40, 160) / 4 - 20)[..., None]


def _lay(total: np.ndarray, weight: np.ndarray, image: np.ndarray, contest: np.ndarray, *, y: int, x: int) -> None:
    height, width = total.shape[:2]
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + image.shape[0], height), min(x + image.shape[1], width)
    if bottom <= top or right <= left:
        return
    part = (slice(top - y, bottom - y), slice(left - x, right - x))
    total[top:bottom, left:right] += image[part] * contest[part]
    weight[top:bottom, left:right] += contest[part]


def warp(
    rng: np.random.Generator, image: np.ndarray, *, size: tuple[int, int], centre: tuple[float, float], scale: float
) -> np.ndarray:
    """Cut ``size`` (height, width) out of ``image`` around ``centre`` (x, y), tilted, magnified and slightly bent."""
    height, width = size
    tilt = np.deg2rad(rng.uniform(-12, 12))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = (y - height / 2) / scale, (x - width / 2) / scale
    flip = rng.choice([-1, 1])
    bend = 30.0
    map_x = centre[0] + flip * (x * np.cos(tilt) - y * np.sin(tilt)) + bend * smooth_noise(rng, height, width, 500)
    map_y = centre[1] + x * np.sin(tilt) + y * np.cos(tilt) + bend * smooth_noise(rng, height, width, 500)
    return cv2.remap(
        image,
        map_x.astype(np.float32),
        map_y.astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(255, 255, 255),
    )


def fade(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Clear the tissue where ``inside`` (float32, distance to the cut in pixels, positive inside) is negative."""
    alpha = np.clip(inside / 5 + 0.5, 0, 1)[..., None]
    return (255 - (255 - image) * alpha).astype(np.uint8)


def skin_piece(rng: np.random.Generator, skin: np.ndarray, *, size: tuple[int, int], scale: float) -> np.ndarray:
    """Return a strip of skin: one end as in the biopsy, the other end and all protruding sides torn off."""
    height, width = size
    middle = height / scale / 2 + rng.uniform(-60, 150)
    piece = warp(rng, skin, size=size, centre=(1200, middle), scale=scale * rng.uniform(0.95, 1.05))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    inside = np.minimum(np.minimum(y, height - y) - 90, np.minimum(x, width - x) - 50)
    torn = 40 * smooth_noise(rng, height, width, 150) + 6 * smooth_noise(rng, height, width, 14)
    piece = fade(piece, inside + torn)
    return piece[::-1] if rng.random() < 0.5 else piece


def nuclei_piece(rng: np.random.Generator, sheet: np.ndarray, *, size: tuple[int, int], scale: float) -> np.ndarray:
    """Return an irregular piece of nuclei-rich tissue with a ragged outline and a few lumens."""
    height, width = size
    middle = sheet.shape[0] / 2
    piece = warp(rng, sheet, size=size, centre=(middle, middle), scale=scale)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    radius = np.hypot((y - height / 2) / (height / 2), (x - width / 2) / (width / 2))
    inside = (0.74 - radius) * min(height, width) / 2
    inside += 70 * smooth_noise(rng, height, width, 330) + 22 * smooth_noise(rng, height, width, 80)
    lumens = 40 * (1.9 - smooth_noise(rng, height, width, 170))
    ragged = 5 * smooth_noise(rng, height, width, 12)
    thickness = 1 + 0.12 * smooth_noise(rng, height, width, 400)[..., None]
    uneven = np.clip(255 - (255 - piece) * thickness, 0, 255)
    return fade(uneven, np.minimum(inside, lumens) + ragged)


def compose(
    rng: np.random.Generator,
    sources: Sources,
    *,
    stain: Stain,
    mpp: float,
    width: int,
    height: int,
    nuclei: bool = True,
) -> Picture:
    """Place skin, and nuclei-rich tissue if ``nuclei``, side by side on glass, rotate the slide and stain it.

    ``width`` and ``height`` are in pixels at ``mpp`` and multiples of 64.
    """
    scale = SOURCE_MPP / mpp
    clear = np.full((height, width, 3), 255, np.uint8)
    mask = np.zeros((height // MASK_SCALE, width // MASK_SCALE), np.uint8)
    chosen = [sources.nuclei[i] for i in rng.choice(len(sources.nuclei), 7, replace=False)]
    sheet = nuclei_sheet(rng, chosen, int(2600 / max(scale, 1)) + 200)
    for place in _places(rng, width, height, scale) if nuclei else _skin_places(rng, width, height, scale):
        cut, tissue = (skin_piece, sources.skin) if place.kind == "skin" else (nuclei_piece, sheet)
        piece = cut(rng, tissue, size=(place.height, place.width), scale=scale)
        clear[place.box(1)] = cv2.multiply(clear[place.box(1)], piece, scale=1 / 255)
        mask[place.box(MASK_SCALE)][outline(piece)] = CLASSES[place.kind]
    turns = int(rng.integers(4))
    pixels = _stained(rng, np.ascontiguousarray(np.rot90(clear, turns)), stain)
    return Picture(pixels=pixels, mask=np.ascontiguousarray(np.rot90(mask, turns)))


def _places(rng: np.random.Generator, width: int, height: int, scale: float) -> list[Place]:
    """Return columns of skin and of nuclei-rich tissue in random order; boxes are multiples of the mask scale."""
    strips = int(rng.integers(1, 3)) if width > 4600 * scale else 1
    widths = {"skin": _whole(min(1600 * scale, 0.5 * width) * rng.uniform(0.95, 1.1))}
    widths["nuclei"] = _whole(width - strips * widths["skin"])
    places, left = [], 0
    for kind in rng.permutation(["nuclei"] + ["skin"] * strips):
        w = widths[kind]
        if kind == "skin":
            places.append(_skin_place(rng, left, w, height, scale))
        else:
            cut = _whole(height * rng.uniform(0.38, 0.62))
            places += [Place("nuclei", left, 0, w, cut), Place("nuclei", left, cut, w, height - cut)]
        left += w
    return places


def _skin_places(rng: np.random.Generator, width: int, height: int, scale: float) -> list[Place]:
    """Return as many columns of skin as fit; boxes are multiples of the mask scale."""
    strip = _whole(min(1600 * scale, 0.5 * width) * rng.uniform(0.95, 1.0))
    return [_skin_place(rng, left, strip, height, scale) for left in range(0, width - strip + 1, strip)]


def _skin_place(rng: np.random.Generator, left: int, width: int, height: int, scale: float) -> Place:
    """Return a box of skin of random height and place within its column."""
    h = _whole(min(height * rng.uniform(0.72, 0.95), 3700 * scale))
    return Place("skin", left, _whole(rng.uniform(0.02, 0.98) * (height - h)), width, h)


def _whole(length: float) -> int:
    return int(length) // MASK_SCALE * MASK_SCALE


def outline(piece: np.ndarray) -> np.ndarray:
    """Return the outline an annotator would draw, bool (h/8, w/8): small gaps are closed, specks removed."""
    height, width = piece.shape[:2]
    small = cv2.resize(piece, (width // MASK_SCALE, height // MASK_SCALE), interpolation=cv2.INTER_AREA)
    dense = (cv2.GaussianBlur(small, (0, 0), 3).min(axis=2) < 225).astype(np.uint8)
    closed = cv2.morphologyEx(dense, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15)))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed)
    large = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] > 1500]
    return np.isin(labels, large)


def _stained(rng: np.random.Generator, transmittance: np.ndarray, stain: Stain) -> np.ndarray:
    """Scale the optical density per channel, and add glass and sensor noise."""
    levels = np.maximum(np.arange(256), 1) / 255
    table = np.stack([levels**gain * glass for gain, glass in zip(stain.gain, stain.glass, strict=True)], axis=-1)
    pixels = cv2.LUT(transmittance, np.clip(table, 0, 255).astype(np.uint8)[:, None, :])
    height, width = pixels.shape[:2]
    grain = rng.normal(0, 1.2, (512, 512))
    noise = np.tile(np.rint(grain).astype(np.int16), (height // 512 + 1, width // 512 + 1))[:height, :width, None]
    return np.clip(pixels.astype(np.int16) + noise, 0, 255).astype(np.uint8)
