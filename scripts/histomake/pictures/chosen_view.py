"""Panels of the patches that an encoder sees: the scores that chose them, and the chosen patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.base.records.features import PatchChooser
from histomake.features.choice import GridPatches
from histomake.patch.grid import SlideGrid
from histomake.patch.nesting import patches_around
from histomake.pictures import canvas, panel
from histomake.pictures.findings import ChoosingScores, SlideFindings

if TYPE_CHECKING:
    from numpy.typing import NDArray


def chosen(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw the scores of all coarser patches, and the chosen patches in the colour of theirs; nothing if all are seen.

    Attention has no fixed scale, so its percentile in the slide is drawn.
    """
    described, choosing = findings.model.features, findings.choosing
    if choosing is None or described is None or described.chooser is None:
        return []
    scores, grid = _scores(choosing, described.chooser), SlideGrid.of_table(choosing.record)
    x, y = (choosing.predictions[name].to_numpy() for name in ("x", "y"))
    offset, edge = grid.middle
    coarse = canvas.Patches(x + offset, y + offset, edge)
    painted = canvas.paint_patches(
        thumb, thumb.pixels, coarse, canvas.score_colours(scores), opacity=panel.SCORE_OPACITY
    )
    shown = panel.panel(painted, thumb, f"{_name(described.chooser)}, {grid.grid.mpp:g} µm/px", {}, scale=("0", "1"))
    own = chosen_scores(findings, choosing, scores)
    least = f", scores from {np.nanmin(own):.2f}" if np.isfinite(own).any() else ""
    title = f"Chosen: {len(own):,} patches{least}"
    return [shown, panel.valued_patches(findings, thumb, own, title, ("0", "1"))]


def _scores(choosing: ChoosingScores, chooser: PatchChooser) -> NDArray[np.float64]:
    column = "percentile" if chooser.class_name is None else f"score_{chooser.class_name}"
    return choosing.predictions[column].to_numpy().astype(np.float64)


def _name(chooser: PatchChooser) -> str:
    of = "Attention (percentile)" if chooser.class_name is None else f"Score of {chooser.class_name}"
    return f"{of} by {chooser.task}"


def chosen_scores(
    findings: SlideFindings, choosing: ChoosingScores, scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scores of the coarser patches around the n predicted patches, float64 (n,); NaN without one."""
    fine = GridPatches.of(findings.predictions, findings.slide_grid.grid)
    coarse = GridPatches.of(choosing.predictions, SlideGrid.of_table(choosing.record).grid)
    parent = patches_around(coarse, fine, findings.reader.mpp)
    found = np.full(len(parent), np.nan)
    found[parent >= 0] = scores[parent[parent >= 0]]
    return found
