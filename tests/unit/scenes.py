"""Synthetic slides with real tissue: background, stains, scanner effects and artefacts at known positions."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import openslide
from skimage.color import hed2rgb, rgb2hed

MPP = 2.0
GLASS = (243, 243, 243)
INKS = {"green": (25, 130, 70), "blue": (35, 55, 165), "black": (28, 28, 34), "red": (205, 25, 40)}
DATA = Path(__file__).resolve().parent.parent / "data"


@cache
def cmu() -> np.ndarray:
    """Return CMU-1-Small-Region at 2 µm per pixel: skin, RGB uint8 (742, 555, 3)."""
    with openslide.OpenSlide(DATA / "slides" / "CMU-1-Small-Region.svs") as slide:
        image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    return cv2.resize(image, (555, 742), interpolation=cv2.INTER_AREA)


def glass(height: int, width: int) -> np.ndarray:
    """Return empty glass with sensor noise."""
    noise = np.random.default_rng(0).normal(0, 1.5, (height, width, 3))
    return np.clip(np.add(GLASS, noise), 0, 255).astype(np.uint8)


def two_pieces(tissue: np.ndarray | None = None) -> np.ndarray:
    """Place two copies of CMU-1, or of ``tissue``, far apart on glass, 3.2 mm square."""
    piece = cmu() if tissue is None else tissue
    slide = glass(1600, 1600)
    for y, x, flip in ((100, 150, 1), (800, 850, -1)):
        slide[y : y + piece.shape[0], x : x + piece.shape[1]] = piece[::flip]
    return slide


def large_piece() -> np.ndarray:
    """Return one large piece with glass around it, mirrored from the dense part of CMU-1: 2.8 by 3.8 mm."""
    part = cmu()[330:742, 200:440]
    part = np.hstack([part, part[:, ::-1]])
    part = np.hstack([np.vstack([part, part[::-1]])] * 3)
    slide = glass(1400, 1900)
    slide[250 : 250 + part.shape[0], 200 : 200 + part.shape[1]] = part
    return slide


def faint(image: np.ndarray, stain: float) -> np.ndarray:
    """Reduce the stain to the share ``stain``."""
    return (255 - (255 - image.astype(float)) * stain).astype(np.uint8)


def immunostained(image: np.ndarray) -> np.ndarray:
    """Remove eosin, halve haematoxylin, and add brown DAB where eosin was strongest."""
    stains = rgb2hed(image)
    eosin = np.clip(stains[..., 1], 0, None)
    positive = cv2.GaussianBlur(eosin, (0, 0), 8) > np.percentile(eosin, 85)
    made = np.dstack([stains[..., 0] * 0.45, np.zeros_like(eosin), eosin * 0.9 * positive])
    return (hed2rgb(made) * 255).clip(0, 255).astype(np.uint8)


def frozen(image: np.ndarray) -> np.ndarray:
    """Imitate a frozen section: greyer, softer, and full of ice-crystal holes."""
    grey = image.mean(axis=2, keepdims=True)
    soft = cv2.GaussianBlur((grey + (image - grey) * 0.35).astype(np.uint8), (0, 0), 1.2)
    pattern = cv2.GaussianBlur(np.random.default_rng(1).random(image.shape[:2]).astype(np.float32), (0, 0), 2.5)
    holes = pattern > np.percentile(pattern, 85)
    soft[holes] = (soft[holes] * 0.3 + 243 * 0.7).astype(np.uint8)
    return soft


def unscanned_border(image: np.ndarray, margin: int) -> np.ndarray:
    """Add a black border, as scanners do that fill unscanned areas with black."""
    return cv2.copyMakeBorder(image, *[margin] * 4, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def coverslip(image: np.ndarray) -> np.ndarray:
    """Draw the grey edges of a coverslip across the slide, 36 and 24 µm wide."""
    slide = image.copy()
    cv2.line(slide, (1500, 0), (1470, 1599), (150, 152, 158), 18, cv2.LINE_AA)
    cv2.line(slide, (0, 1560), (1599, 1545), (175, 175, 170), 12, cv2.LINE_AA)
    return slide


def stitched(image: np.ndarray) -> np.ndarray:
    """Add brightness steps of up to 14 grey levels between scan strips and rows."""
    slide = image.astype(int)
    for i, step in enumerate((0, -6, 4, -9, 5, -3, 0, -7)):
        slide[:, i * 200 : (i + 1) * 200] += (step, step - 1, step + 1)
    for i, step in enumerate((0, -3, 2, -4)):
        slide[i * 400 : (i + 1) * 400] += step
    return slide.clip(0, 255).astype(np.uint8)


def tinted(image: np.ndarray) -> np.ndarray:
    """Apply a yellowish illumination."""
    return (image * (1.0, 0.97, 0.85)).clip(0, 255).astype(np.uint8)


def _stroke(shape: tuple[int, ...], start: tuple[int, int], end: tuple[int, int], width: int) -> np.ndarray:
    """Return the opacity of a soft-edged stroke, float (h, w, 1)."""
    line = np.zeros(shape[:2], np.uint8)
    cv2.line(line, start, end, 255, width, cv2.LINE_AA)
    return cv2.GaussianBlur(line, (0, 0), 2)[..., None] / 255


def inked(
    image: np.ndarray, colour: str, start: tuple[int, int], end: tuple[int, int], *, width: int = 160, opacity: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a pen stroke, ``width`` x 2 µm wide, that darkens the image; return the image and its mask, bool (h, w)."""
    stroke = _stroke(image.shape, start, end, width)
    passed = 1 - stroke * opacity * (1 - np.divide(INKS[colour], 255))
    return (image * passed).clip(0, 255).astype(np.uint8), stroke[..., 0] > 0.5


def defocused(
    image: np.ndarray, centre: tuple[int, int], radius: int, sigma_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Blur a disc; return the image and the mask of the disc."""
    disc = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(disc, centre, radius, 1, -1)
    soft = cv2.GaussianBlur(image, (0, 0), sigma_um / MPP)
    return np.where(disc[..., None] > 0, soft, image), disc > 0


def folded(
    image: np.ndarray, start: tuple[int, int], end: tuple[int, int], *, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fold a strip: adjacent tissue adds its optical density; return the image and the mask of the strip."""
    strip = _stroke(image.shape, start, end, width)
    density = -np.log((image.astype(float) + 1) / 256)
    doubled = density + strip * np.roll(density, (37, 23), (0, 1))
    return (256 * np.exp(-doubled) - 1).clip(0, 255).astype(np.uint8), strip[..., 0] > 0.5
