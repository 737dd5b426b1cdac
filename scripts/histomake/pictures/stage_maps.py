"""Image of a patch cascade on one slide: the score of every patch, and which stage decided it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.units import Mpp, rescale
from histomake.cascade.patch_cascade import STATES
from histomake.cascade.patch_prediction import CascadePrediction
from histomake.pictures import canvas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

PANEL_PX = 760
"""Longest edge of a panel."""
MOST_COLOURS = len(canvas.PALETTE)


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
    decided = table["stage"].to_numpy().astype(int) - 1
    state = np.asarray(table["state"].to_pylist())
    named = {
        f"{task}, {name} ({((decided == number) & (state == name)).sum():,} patches)": (number, name)
        for number, task in enumerate(tasks)
        for name in STATES
        if ((decided == number) & (state == name)).any()
    }
    colours = {text: canvas.PALETTE[i % MOST_COLOURS] for i, text in enumerate(named)}
    painted = np.zeros((len(decided), 3), np.uint8)
    for text, (number, name) in named.items():
        painted[(decided == number) & (state == name)] = colours[text]
    levels = canvas.paint_patches(thumb, thumb.pixels, patches, painted)
    title = "Which stage decided which patch"
    panels.append(canvas.with_legend(canvas.with_scale_bar(levels, thumb.mpp), title, colours))
    return canvas.headed(canvas.in_rows(panels, 2), heading)
