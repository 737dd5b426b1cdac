"""Drawing on slide thumbnails: overlays, scale bars, legends and layout.

Overlays are drawn on a thumbnail with known µm per pixel. A level-0 position is divided by the exact scale of the
thumbnail and rounded once, so an overlay is at most half a pixel off. Class colours are those of Okabe and Ito (2008),
which can be distinguished with common colour deficiencies; scores use matplotlib's viridis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib import colormaps, font_manager
from PIL import Image, ImageDraw, ImageFont

from histomake.base.files import atomic_file
from histomake.base.records.record import Quarantined
from histomake.base.units import Level0Pixels, Mpp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

    Pixels = NDArray[np.uint8]
    Colour = tuple[int, int, int]

Box = tuple[Level0Pixels, Level0Pixels, Level0Pixels, Level0Pixels]
"""A part of a slide: x, y, width and height in level-0 pixels."""

PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (90, 90, 90),
)
"""Okabe and Ito (2008). Blue and orange come first, because they are most visible on pink and violet tissue."""
GREY: Colour = (150, 150, 150)
RIGHT: Colour = (0, 158, 115)
MISSED: Colour = (240, 228, 66)
FALSE_ALARM: Colour = (213, 94, 0)
SCORE_MAP = "viridis"
DIFFERENCE_MAP = "PuOr_r"
"""Violet for low and orange for high values; they can be distinguished with common colour deficiencies."""
TEXT: Colour = (30, 30, 30)
FONT_PX = 15
WIDTH_PER_FONT = 72
"""Text grows with images that are wider than this many times FONT_PX, because they are displayed at a reduced size."""
MARGIN_PX = 12
MIN_WIDTH_PX = 420
OPACITY = 0.55
ORIGIN = Level0Pixels(0)


@dataclass(frozen=True)
class Thumbnail:
    """A slide, or a part of it, at low resolution.

    Attributes:
        pixels: uint8 (h, w, 3).
        mpp: µm per pixel.
        scale: Level-0 pixels per pixel.
        left: Position of the left edge in level-0 pixels.
        top: Position of the top edge in level-0 pixels.
    """

    pixels: Pixels
    mpp: Mpp
    scale: float
    left: Level0Pixels = ORIGIN
    top: Level0Pixels = ORIGIN

    def columns(self, x: NDArray) -> NDArray[np.int64]:
        """Convert level-0 positions along x to the nearest pixel boundaries of the thumbnail."""
        return np.rint((np.asarray(x) - self.left) / self.scale).astype(np.int64)

    def rows(self, y: NDArray) -> NDArray[np.int64]:
        """Convert level-0 positions along y to the nearest pixel boundaries of the thumbnail."""
        return np.rint((np.asarray(y) - self.top) / self.scale).astype(np.int64)

    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the level-0 positions of the centres of all columns and of all rows."""
        height, width = self.pixels.shape[:2]
        across, down = (np.arange(length, dtype=np.float64) + 0.5 for length in (width, height))
        return self.left + across * self.scale, self.top + down * self.scale


@dataclass(frozen=True)
class Patches:
    """Patches of one grid on one slide: x, y int (n,) level-0 top-left corners, ``span`` level-0 pixels wide."""

    x: NDArray
    y: NDArray
    span: float


def thumbnail(reader: SlideReader, mpp: Mpp) -> Thumbnail:
    """Read the slide at ``mpp``, or at its own resolution if that is coarser."""
    mpp = max(mpp, reader.mpp)
    return Thumbnail(reader.read_whole(mpp), mpp, mpp / reader.mpp)


def region(reader: SlideReader, box: Box, most_px: int) -> Thumbnail:
    """Read a part of a slide, ``box`` x, y, width and height in level-0 pixels, at most ``most_px`` wide and high."""
    x, y, width, height = box
    scale = max(1.0, max(width, height) / most_px)
    size = max(1, round(width / scale)), max(1, round(height / scale))
    mpp = Mpp(scale * reader.mpp)
    return Thumbnail(reader.read(x, y, size, mpp), mpp, scale, x, y)


def class_colours(names: Sequence[str]) -> dict[str, Colour]:
    """Return a colour per class, the same in all images of these classes."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def score_colours(scores: NDArray, colour_map: str = SCORE_MAP) -> Pixels:
    """Convert scores in [0, 1] to colours, uint8 (n, 3)."""
    return (colormaps[colour_map](np.asarray(scores, float))[..., :3] * 255).round().astype(np.uint8)


def paint_patches(
    thumb: Thumbnail, pixels: Pixels, patches: Patches, colours: Pixels, *, opacity: float = OPACITY
) -> Pixels:
    """Blend a colour, uint8 (n, 3), over every patch; return new pixels."""
    painted, touched = pixels.copy(), np.zeros(pixels.shape[:2], bool)
    for box, colour in zip(boxes(thumb, patches), colours, strict=True):
        painted[box] = colour
        touched[box] = True
    return blend(pixels, painted, touched, opacity)


def boxes(thumb: Thumbnail, patches: Patches) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of every patch on the thumbnail, empty for patches outside."""
    left, top = thumb.columns(patches.x), thumb.rows(patches.y)
    right, bottom = thumb.columns(patches.x + patches.span), thumb.rows(patches.y + patches.span)
    edges = np.maximum(np.stack([top, bottom, left, right]), 0).T
    return ((slice(y0, y1), slice(x0, x1)) for y0, y1, x0, x1 in edges.tolist())


def covered(thumb: Thumbnail, patches: Patches) -> NDArray[np.bool_]:
    """Return which pixels of the thumbnail are in a patch, bool (h, w)."""
    found = np.zeros(thumb.pixels.shape[:2], bool)
    for box in boxes(thumb, patches):
        found[box] = True
    return found


def blend(pixels: Pixels, colour: Pixels, where: NDArray[np.bool_], opacity: float) -> Pixels:
    """Blend ``colour`` over ``pixels`` where ``where`` is true."""
    mixed = cv2.addWeighted(pixels, 1 - opacity, colour, opacity, 0)
    return np.where(where[..., None], mixed, pixels)


def spread(thumb: Thumbnail, labels: NDArray, downsample: tuple[float, float]) -> NDArray:
    """Resample a label image (y, x) to the thumbnail's pixels, by the label at each pixel's centre.

    A label covers ``downsample`` (x, y) level-0 pixels. Beyond the edges of the label image the nearest label is used.
    """
    x, y = thumb.centres()
    columns = np.clip((x / downsample[0]).astype(int), 0, labels.shape[1] - 1)
    rows = np.clip((y / downsample[1]).astype(int), 0, labels.shape[0] - 1)
    return labels[rows[:, None], columns]


def paint_labels(
    pixels: Pixels, labels: NDArray, colours: Mapping[int, Colour], *, fill: float = OPACITY / 2
) -> Pixels:
    """Blend a colour per label over an image of the same size, and draw its border; other labels are not drawn."""
    for value, colour in colours.items():
        here = labels == value
        pixels = blend(pixels, np.full_like(pixels, colour), here, fill)
        pixels = outline(pixels, here, colour)
    return pixels


def outline(pixels: Pixels, mask: NDArray[np.bool_], colour: Colour, *, width: int = 2) -> Pixels:
    """Draw the border of a mask as a line ``width`` pixels wide."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(pixels.copy(), contours, -1, colour, width), np.uint8)


def font(size: int = FONT_PX) -> ImageFont.FreeTypeFont:
    """Return the font of all images, DejaVu Sans, which is part of matplotlib and contains µ."""
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def with_scale_bar(pixels: Pixels, mpp: Mpp) -> Pixels:
    """Add a scale bar below the image, with a round length of about a fifth of its width."""
    length_um = round_length(pixels.shape[1] * mpp / 5)
    bar = round(length_um / mpp)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    strip = Image.new("RGB", (pixels.shape[1], FONT_PX + 13), "white")
    draw = ImageDraw.Draw(strip)
    draw.rectangle((0, 7, bar - 1, FONT_PX + 1), fill=TEXT)
    draw.text((bar + 8, 4), text, fill=TEXT, font=font())
    return np.concatenate([pixels, np.asarray(strip)])


def round_length(length: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above ``length``."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9)))


def with_legend(
    pixels: Pixels,
    title: str,
    entries: Mapping[str, Colour],
    *,
    scale: tuple[str, str] | None = None,
    colour_map: str = SCORE_MAP,
) -> Pixels:
    """Add a title above the image and a legend below it.

    ``entries`` maps texts to colours. ``scale`` are the texts at 0 and 1 of a colour bar of ``colour_map``.
    """
    width = max(pixels.shape[1], MIN_WIDTH_PX)
    canvas = np.full((pixels.shape[0], width, 3), 255, np.uint8)
    canvas[:, : pixels.shape[1]] = pixels
    size = max(FONT_PX, width // WIDTH_PER_FONT)
    parts = [_strip([(None, title)], width, size=size), canvas]
    if entries:
        parts.append(_strip([(colour, text) for text, colour in entries.items()], width, size=size))
    if scale:
        parts.append(_colour_bar(scale, width, colour_map))
    return np.concatenate(parts)


def headed(pixels: Pixels, heading: str) -> Pixels:
    """Add a heading above the image."""
    return np.concatenate([_strip([(None, heading)], pixels.shape[1], size=FONT_PX + 2), pixels])


def _strip(items: Sequence[tuple[Colour | None, str]], width: int, *, size: int = FONT_PX) -> Pixels:
    """Draw items of text, each after a swatch of its colour, with line breaks at ``width``."""
    face = font(size)
    line_height, x, y = size + 10, MARGIN_PX, 6
    image = Image.new("RGB", (width, line_height * (len(items) + 1) * 3), "white")
    draw = ImageDraw.Draw(image)
    for colour, text in items:
        swatch = size + 6 if colour else 0
        for line in _wrapped(text, face, width - 2 * MARGIN_PX - swatch):
            length = swatch + int(face.getlength(line))
            if x > MARGIN_PX and x + length > width - MARGIN_PX:
                x, y = MARGIN_PX, y + line_height
            if colour:
                draw.rectangle((x, y + 2, x + size - 1, y + size + 1), fill=colour, outline=TEXT)
            draw.text((x + swatch, y), line, fill=TEXT, font=face)
            x += length + 2 * MARGIN_PX
    return np.asarray(image)[: y + line_height + 2]


def _wrapped(text: str, face: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and face.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _colour_bar(texts: tuple[str, str], width: int, colour_map: str) -> Pixels:
    strip = np.full((FONT_PX + 14, width, 3), 255, np.uint8)
    image = Image.fromarray(strip)
    draw = ImageDraw.Draw(image)
    left = MARGIN_PX + int(font().getlength(texts[0])) + 8
    length = min(240, width - left - int(font().getlength(texts[1])) - 2 * MARGIN_PX - 8)
    draw.text((MARGIN_PX, 4), texts[0], fill=TEXT, font=font())
    draw.text((left + length + 8, 4), texts[1], fill=TEXT, font=font())
    bar = np.broadcast_to(score_colours(np.linspace(0, 1, length), colour_map), (FONT_PX, length, 3))
    image.paste(Image.fromarray(np.ascontiguousarray(bar)), (left, 6))
    return np.asarray(image)


def beside(pictures: Sequence[Pixels], gap: int = 16) -> Pixels:
    """Arrange images in a row on white, aligned at the top."""
    height = max(picture.shape[0] for picture in pictures)
    parts = []
    for picture in pictures:
        column = np.full((height, picture.shape[1] + gap, 3), 255, np.uint8)
        column[: picture.shape[0], : picture.shape[1]] = picture
        parts.append(column)
    return np.concatenate(parts, axis=1)[:, :-gap]


def in_rows(pictures: Sequence[Pixels], columns: int, gap: int = 16) -> Pixels:
    """Arrange images in rows of at most ``columns`` on white."""
    rows = [beside(pictures[start : start + columns], gap) for start in range(0, len(pictures), columns)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, gap), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)[:-gap]


def card(lines: Sequence[str], *, width: int = 720) -> Pixels:
    """Return a white image with text, used in place of an image that cannot be drawn."""
    return np.concatenate([_strip([(None, line)], width, size=FONT_PX + 2 * (i == 0)) for i, line in enumerate(lines)])


def quarantine_card(entry: Quarantined) -> Pixels:
    """Return an image with the reason why a quarantined slide has no images."""
    return card([f"{entry.slide_id} is in quarantine: {entry.reason}", entry.detail, entry.remedy])


def as_jpeg(pixels: Pixels, *, quality: int) -> bytes:
    """Encode pixels uint8 RGB (h, w, 3) as a JPEG file, for a browser."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return encoded.tobytes()


def write_picture(pixels: Pixels, path: Path) -> None:
    """Write an image atomically, as PNG or as JPEG by its name; JPEG has no chroma subsampling, to keep text sharp."""
    options = {"format": "JPEG", "quality": 90, "subsampling": 0} if path.suffix == ".jpg" else {"format": "PNG"}
    with atomic_file(path) as aside:
        Image.fromarray(pixels).save(aside, **options)
