"""Images of the same latents at the end of each phase of a training, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from histomake.base.files import atomic_file
from histomake.generate.growing.schedule import Phase

if TYPE_CHECKING:
    from numpy.typing import NDArray

PHASES_PICTURE = "phases.png"

PICTURES = 12
"""Latents whose images are kept in each phase."""

TILE_PX = 96
"""Edge of an image in the pictures; smaller ones are enlarged by repeating pixels, larger ones reduced."""

GAP_PX = 4

CAPTION_PX = 22
"""Height of the strip below a sheet that says that its images are in silico."""

IN_SILICO = "in silico: made by a generator, not scanned"

type PhaseImages = dict[int, Tensor]
"""Images uint8 (n, size, size, 3) by the number of the phase."""


def write_phases(folder: Path, images: Mapping[int, Tensor], phases: Sequence[Phase]) -> None:
    """Write the images of all phases as one PNG, a row for each phase."""
    rows = [images[phase.number].numpy() for phase in phases if phase.number in images]
    sheet = tiled([image for row in rows for image in row], columns=PICTURES)
    write_marked(captioned(sheet), folder / PHASES_PICTURE)


def tiled(images: Sequence[NDArray[np.uint8]], *, columns: int, tile: int = TILE_PX) -> NDArray[np.uint8]:
    """Images uint8 (h, w, 3) of any sizes, shown at one size in rows on white."""
    rows = -(-len(images) // columns)
    step = tile + GAP_PX
    picture = np.full((rows * step - GAP_PX, columns * step - GAP_PX, 3), 255, np.uint8)
    for number, image in enumerate(images):
        method = Image.Resampling.NEAREST if len(image) <= tile else Image.Resampling.BOX
        top, left = number // columns * step, number % columns * step
        shown = np.asarray(Image.fromarray(image).resize((tile, tile), method))
        picture[top : top + tile, left : left + tile] = shown
    return picture


def captioned(sheet: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A sheet uint8 (h, w, 3) above a strip with IN_SILICO, which a screenshot or a copy as JPEG keeps too."""
    height, width, _ = sheet.shape
    picture = Image.new("RGB", (width, height + CAPTION_PX), "white")
    picture.paste(Image.fromarray(sheet))
    ImageDraw.Draw(picture).text((GAP_PX, height + 2), IN_SILICO, fill="black", font=ImageFont.load_default(14))
    return np.asarray(picture)


def write_marked(image: NDArray[np.uint8], path: Path) -> None:
    """Write an image as PNG whose text ``Description`` says that it is in silico."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", IN_SILICO)
    with atomic_file(path) as aside:
        Image.fromarray(image).save(aside, format="PNG", pnginfo=text)
