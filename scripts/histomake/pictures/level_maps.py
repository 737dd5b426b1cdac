"""Image of a cascade on one slide: the nuclei found, and the pixels computed, accepted or rejected at every level."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import zarr

from histomake.base.records.nuclei import NucleiRecord
from histomake.base.units import Mpp
from histomake.cascade.run import ACCEPTED, COMPUTED, REJECTED
from histomake.pictures import canvas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

COLOURS = {COMPUTED: canvas.PALETTE[1], ACCEPTED: canvas.PALETTE[0], REJECTED: (226, 228, 232)}
NAMES = {COMPUTED: "computed", ACCEPTED: "accepted", REJECTED: "rejected"}
OUTLINE = (0, 158, 115)
PANEL_PX = 760
"""Longest edge of a panel."""
FINER = 2
"""Arrays are read at this multiple of the drawn resolution: enough for averaging, without reading whole slides."""


def level_maps(reader: SlideReader, store: Path, record: NucleiRecord) -> NDArray[np.uint8]:
    """Draw the slide with nuclei outlined, and one map per level, coarsest first; uint8 (h, w, 3).

    ``store`` is the output of `histomake.cascade.infer.segment_slide`, and ``record`` its return value.
    """
    thumb = canvas.thumbnail(reader, Mpp(reader.mpp * max(reader.width, reader.height) / PANEL_PX))
    panels = [_nuclei(thumb, zarr.open_array(store / "labels", mode="r"), record.nuclei)]
    for level in reversed(record.levels):
        states = zarr.open_array(store / f"state{level.level}", mode="r")
        drawn = canvas.with_scale_bar(_states(thumb, states), thumb.mpp)
        legend = {f"{name} ({getattr(level, name):.1%})": COLOURS[state] for state, name in NAMES.items()}
        panels.append(canvas.with_legend(drawn, f"Level {level.level}, {level.mpp:.3g} µm/px", legend))
    heading = f"{record.slide_id} at {thumb.mpp:.3g} µm/px; {record.saved:.1%} of pixel evaluations saved"
    return canvas.headed(canvas.in_rows(panels, 2), heading)


def _nuclei(thumb: canvas.Thumbnail, labels: zarr.Array, count: int) -> NDArray[np.uint8]:
    height, width = thumb.pixels.shape[:2]
    found = _coarsely(labels, width) > 0
    mask = cv2.resize(found.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_AREA) > 127
    outlined = canvas.outline(thumb.pixels, mask, OUTLINE, width=1)
    legend = {f"nuclei found ({count:,})": OUTLINE}
    return canvas.with_legend(canvas.with_scale_bar(outlined, thumb.mpp), "Slide", legend)


def _states(thumb: canvas.Thumbnail, state: zarr.Array) -> NDArray[np.uint8]:
    """Draw the states of a level at the size of the thumbnail; colours are averaged over pixels."""
    height, width = thumb.pixels.shape[:2]
    values = _coarsely(state, width)
    palette = np.array([COLOURS[number] for number in sorted(COLOURS)], np.uint8)
    way = cv2.INTER_AREA if values.shape[1] > width else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(palette[values], (width, height), interpolation=way), np.uint8)


def _coarsely(array: zarr.Array, width: int) -> NDArray:
    step = max(1, array.shape[1] // (FINER * width))
    return np.asarray(array[::step, ::step])
