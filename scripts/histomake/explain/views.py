"""Owns the views of one slide that a pathologist reads: tissue and quality, prediction, confidence, truth and error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from histomake import figures
from histomake.annotation.model import Annotation
from histomake.annotation.raster import rasterise
from histomake.files import atomic_file
from histomake.quality import BLUR, FOLD, NAMES, PEN, ArtefactMap
from histomake.tissue import TissueMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

VIEWS = ("prediction", "confidence", "truth", "tissue")
ARTEFACTS = {PEN: (0, 114, 178), BLUR: (230, 159, 0), FOLD: (204, 121, 167)}
TISSUE = (0, 158, 115)


@dataclass(frozen=True)
class SlideFindings:
    """All that is known of one slide and drawn on it.

    meta: metadata of the slide's patch table; predictions: as predict_slide makes them; classes: the model's, in
    order; threshold: from which the second of two classes is called.
    """

    reader: SlideReader
    meta: dict[str, Any]
    predictions: pa.Table
    classes: list[str]
    threshold: float
    tissue: TissueMask
    artefacts: ArtefactMap
    annotation: Annotation

    @property
    def patches(self) -> figures.Patches:
        span = self.meta["grid"]["size"] * self.meta["grid"]["mpp"] / self.meta["mpp"]
        return figures.Patches(self.predictions["x"].to_numpy(), self.predictions["y"].to_numpy(), span)

    @property
    def scores(self) -> NDArray[np.float32]:
        """Scores (n, classes)."""
        return np.stack([self.predictions[f"score_{name}"].to_numpy() for name in self.classes], axis=1)

    def names(self, column: str) -> NDArray[np.object_]:
        """``predicted`` or ``label`` of every patch; None where there is none."""
        return np.array(self.predictions[column].cast(pa.string()).to_pylist(), dtype=object)


def draw_views(findings: SlideFindings, *, mpp: float, out: dict[str, Path]) -> None:
    """Draw every view of `VIEWS` at ``mpp`` µm per pixel and write it as PNG to its path."""
    thumb = figures.thumbnail(findings.reader, mpp)
    painters = {"prediction": prediction, "confidence": confidence, "truth": truth, "tissue": tissue}
    for view in VIEWS:
        write_png(figures.headed(painters[view](findings, thumb), _heading(findings, thumb)), out[view])


def draw_quarantine(entry: dict[str, Any], out: dict[str, Path]) -> None:
    """Write, in place of every view, a card that says why the slide has none."""
    lines = [f"{entry['slide_id']} is in quarantine: {entry['reason']}", entry["detail"], entry["remedy"]]
    for view in VIEWS:
        write_png(figures.card(lines), out[view])


def write_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write a picture, atomically."""
    with atomic_file(path) as aside:
        Image.fromarray(pixels).save(aside, format="PNG")


def _heading(findings: SlideFindings, thumb: figures.Thumbnail) -> str:
    grid = findings.meta["grid"]
    return (
        f"{findings.meta['slide_id']} at {thumb.mpp:.3g} µm/px; patches of {grid['size'] * grid['mpp']:g} µm "
        f"read at {grid['mpp']:g} µm/px"
    )


def prediction(findings: SlideFindings, thumb: figures.Thumbnail) -> NDArray[np.uint8]:
    """Every patch in the colour of its predicted class."""
    colours = figures.class_colours(findings.classes)
    names = findings.names("predicted")
    painted = _classes_painted(findings, thumb, names, colours)
    legend = {f"{name} ({(names == name).sum():,} patches)": colours[name] for name in findings.classes}
    return figures.with_legend(figures.with_scale_bar(painted, thumb.mpp), "Predicted class of every patch", legend)


def _classes_painted(
    findings: SlideFindings,
    thumb: figures.Thumbnail,
    names: NDArray[np.object_],
    colours: dict[str, figures.Colour],
) -> NDArray[np.uint8]:
    known = np.array([name is not None for name in names], bool)
    patches = findings.patches
    chosen = figures.Patches(patches.x[known], patches.y[known], patches.span)
    paint = np.array([colours[name] for name in names[known]], np.uint8).reshape(-1, 3)
    return figures.paint_patches(thumb, thumb.pixels, chosen, paint)


def confidence(findings: SlideFindings, thumb: figures.Thumbnail) -> NDArray[np.uint8]:
    """The score of the second of two classes, beside how sure the model is of its choice.

    With more classes the first picture is the largest score. Sureness is 1 - entropy / log(classes).
    """
    scores = findings.scores
    two = scores.shape[1] == 2
    value = scores[:, 1] if two else scores.max(axis=1, initial=0)
    what = f"Score of {findings.classes[1]}, called from {findings.threshold:.2f}" if two else "Largest score"
    entropy = -(scores * np.log(np.clip(scores, 1e-9, 1))).sum(axis=1) / np.log(scores.shape[1])
    panels = [
        (value, what, ("0", "1")),
        (1 - entropy, "How sure: 1 − entropy of the scores", ("undecided", "certain")),
    ]
    drawn = []
    for values, title, ends in panels:
        painted = figures.paint_patches(
            thumb, thumb.pixels, findings.patches, figures.score_colours(values), opacity=0.75
        )
        drawn.append(figures.with_legend(figures.with_scale_bar(painted, thumb.mpp), title, {}, scale=ends))
    return figures.beside(drawn)


def truth(findings: SlideFindings, thumb: figures.Thumbnail) -> NDArray[np.uint8]:
    """What annotators drew, what the model says, and where the two differ."""
    colours = figures.class_colours(findings.classes)
    drawn = figures.paint_labels(
        thumb,
        thumb.pixels,
        annotated_labels(findings.annotation, thumb),
        {findings.annotation.class_names.index(c) + 1: colours[c] for c in _shown_classes(findings)},
        downsample=(thumb.scale, thumb.scale),
    )
    predicted = _classes_painted(findings, thumb, findings.names("predicted"), colours)
    legend = {name: colours[name] for name in findings.classes}
    panels = [
        (drawn, "Annotated", legend),
        (predicted, "Predicted", legend),
        _errors(findings, thumb),
    ]
    return figures.beside([figures.with_legend(figures.with_scale_bar(p, thumb.mpp), t, e) for p, t, e in panels])


def _shown_classes(findings: SlideFindings) -> list[str]:
    return [name for name in findings.classes if name in findings.annotation.class_names]


def annotated_labels(annotation: Annotation, thumb: figures.Thumbnail) -> NDArray[np.uint8]:
    """The annotation on the thumbnail's pixels: 0 unlabelled, i + 1 ``annotation.class_names[i]``."""
    height, width = thumb.pixels.shape[:2]
    return rasterise(annotation, 0, 0, max(height, width), thumb.scale)[:height, :width]


def _errors(
    findings: SlideFindings, thumb: figures.Thumbnail
) -> tuple[NDArray[np.uint8], str, dict[str, figures.Colour]]:
    """The error map. With two classes misses and false alarms of the second differ in colour."""
    label, predicted = findings.names("label"), findings.names("predicted")
    known = np.array([name is not None for name in label], bool)
    if not known.any():
        return thumb.pixels, "Errors: no patch of this slide has a label", {}
    right = label == predicted
    kinds = np.where(right, "right", "wrong").astype(object)
    legend = {"right": figures.RIGHT, "wrong": figures.FALSE_ALARM}
    if len(findings.classes) == 2:
        positive = findings.classes[1]
        missed, alarm = f"{positive} missed", f"{positive} called where it is not"
        kinds[~right & (label == positive)], kinds[~right & (label != positive)] = missed, alarm
        legend = {"right": figures.RIGHT, missed: figures.MISSED, alarm: figures.FALSE_ALARM}
    kinds[~known] = None
    painted = _classes_painted(findings, thumb, kinds, legend)
    counted = {f"{name}: {(kinds == name).sum():,}": colour for name, colour in legend.items()}
    share = right[known].mean()
    return painted, f"Errors: {share:.1%} of {known.sum():,} labelled patches are right", counted


def tissue(findings: SlideFindings, thumb: figures.Thumbnail) -> NDArray[np.uint8]:
    """Where tissue was found and where it is spoilt."""
    mask, artefacts = findings.tissue, findings.artefacts
    downsample = (mask.downsample_x, mask.downsample_y)
    painted = figures.paint_labels(thumb, thumb.pixels, mask.mask.astype(np.uint8), {1: TISSUE}, downsample=downsample)
    painted = figures.paint_labels(thumb, painted, artefacts.labels, ARTEFACTS, downsample=downsample)
    shares = artefacts.record["shares"]
    legend = {f"tissue, {mask.record['area_mm2']:.2f} mm²": TISSUE}
    legend |= {f"{NAMES[kind]} ({shares[NAMES[kind]]:.1%})": colour for kind, colour in ARTEFACTS.items()}
    bare = figures.with_legend(figures.with_scale_bar(thumb.pixels, thumb.mpp), "Slide", {})
    found = figures.with_legend(figures.with_scale_bar(painted, thumb.mpp), "Tissue and what spoils it", legend)
    return figures.beside([bare, found])
