"""Picture of the cores of a tissue microarray."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw

from histomake.base.records.core_table import CoreTableRecord
from histomake.base.units import Mpp
from histomake.pictures import canvas

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

CIRCLE = canvas.PALETTE[0]
NAME_SHARE = 0.25
"""Height of a name in the picture, as a share of the core's diameter."""


def cores_view(reader: SlideReader, cores: pa.Table, record: CoreTableRecord, *, mpp: Mpp) -> NDArray[np.uint8]:
    """Draw the slide at ``mpp`` µm per pixel, with a circle around each core and its name."""
    thumb = canvas.thumbnail(reader, mpp)
    pixels, size = thumb.pixels.copy(), 1000 * record.core_mm / thumb.mpp
    rows = cores.to_pylist()
    for core in rows:
        centre = round(core["x"] / thumb.scale), round(core["y"] / thumb.scale)
        cv2.circle(pixels, centre, round(core["diameter_um"] / 2 / thumb.mpp), CIRCLE, 2, cv2.LINE_AA)
    image = Image.fromarray(pixels)
    draw, face = ImageDraw.Draw(image), canvas.font(max(8, round(NAME_SHARE * size)))
    for core in rows:
        place = core["x"] / thumb.scale, core["y"] / thumb.scale
        draw.text(place, core["core"], canvas.TEXT, face, anchor="mm", stroke_width=2, stroke_fill="white")
    named = canvas.with_scale_bar(np.asarray(image), thumb.mpp)
    return canvas.headed(named, f"{record.slide_id}: {len(rows)} cores on {record.rows} x {record.columns} places")
