"""Image of a patch cascade on one slide: the score of every patch, and which stage decided it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from histomake.base.units import Mpp, rescale
from histomake.cascade.patch_prediction import CascadePrediction
from histomake.pictures import canvas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

PANEL_PX = 760
"""Longest edge of a panel."""


def stage_maps(
    reader: SlideReader, found: CascadePrediction, class_name: str, tasks: Sequence[str]
) -> NDArray[np.uint8]:
    """Draw the slide with the score of every patch, and with the stage that decided it; uint8 (h, w, 3).

    ``tasks``: of all stages, coarsest first.
    """
    thumb = canvas.thumbnail(reader, Mpp(reader.mpp * max(reader.width, reader.height) / PANEL_PX))
    table, finest = found.table, found.stages[-1].patches
    heading = f"{found.record.slide_id} at {thumb.mpp:.3g} µm/px; {found.record.saved:.1%} of pixels not read"
    if finest is None:
        drawn = canvas.with_scale_bar(thumb.pixels, thumb.mpp)
        return canvas.headed(canvas.with_legend(drawn, "No usable patch", {}), heading)
    patches = canvas.Patches(finest.x, finest.y, rescale(finest.size, finest.mpp, reader.mpp))
    scores = canvas.paint_patches(thumb, thumb.pixels, patches, canvas.score_colours(table["score"].to_numpy()))
    panels = [
        canvas.with_legend(canvas.with_scale_bar(scores, thumb.mpp), f"Score of {class_name}", {}, scale=("0", "1"))
    ]
    names, number = deciders(table, tasks)
    palette = np.array([canvas.PALETTE[i % len(canvas.PALETTE)] for i in range(len(names))], np.uint8)
    legend = {
        f"{name} ({(number == i).sum():,} patches)": canvas.PALETTE[i % len(canvas.PALETTE)]
        for i, name in enumerate(names)
    }
    painted = palette[number]
    levels = canvas.paint_patches(thumb, thumb.pixels, patches, painted)
    title = "Which stage decided which patch"
    panels.append(canvas.with_legend(canvas.with_scale_bar(levels, thumb.mpp), title, legend))
    return canvas.headed(canvas.in_rows(panels, 2), heading)


def deciders(table: pa.Table, tasks: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Name every way in which a patch can be decided, and return the number of that of each patch, int64 (n,).

    The names are those of the cascade and not of the slide, so that colours mean the same on all slides.
    """
    ways = [(number, state) for number in range(len(tasks) - 1) for state in ("rejected", "accepted")]
    ways.append((len(tasks) - 1, "computed"))
    stage, state = table["stage"].to_numpy() - 1, np.asarray(table["state"].to_pylist(), object)
    found = np.full(table.num_rows, len(ways) - 1, np.int64)
    for position, (number, name) in enumerate(ways):
        found[(stage == number) & (state == name)] = position
    return [f"{tasks[number]}, {name}" for number, name in ways], found
