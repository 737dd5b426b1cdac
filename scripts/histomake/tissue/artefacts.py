"""Detection of artefacts: pen marks, out-of-focus tissue and tissue folds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from histomake.base.files import atomic_file
from histomake.base.records.quality import Appearance, QualityRecord
from histomake.base.records.record import Quarantined
from histomake.base.units import Level0Pixels, Mpp
from histomake.config import Quality
from histomake.tissue.appearance import measure_appearance
from histomake.tissue.ink import find_glass, find_ink, find_padding, whiten
from histomake.tissue.mask import TissueMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

    Bools = NDArray[np.bool_]

NONE, PEN, BLUR, FOLD = range(4)
NAMES = {PEN: "pen", BLUR: "blur", FOLD: "fold"}

TILE = 2048  # edge in pixels at blur_mpp of the parts that are read at once
MARGIN = 8  # pixels around a tile that the filters need
FOCUS_UM = 100.0  # edge of the window over which sharpness is averaged: a few cells
MIN_ARTEFACT_UM2 = 10_000.0
# Ratio of fine to coarse energy that in-focus tissue reaches at least. Used as a reference if a whole slide is blurred.
TYPICAL_SHARPNESS = 2.0
# A fold is at least half again as dense as usual for its colour, and clearly denser than tissue varies.
MIN_FOLD_EXCESS, FOLD_SPREADS = 0.4, 2.5
FOLD_WIDTH_UM, FOLD_SMOOTH_UM, COLOUR_BINS = 40.0, 10.0, 16
DENSE_QUANTILE = 0.6


@dataclass(frozen=True)
class ArtefactMap:
    """Artefact labels, uint8 (h, w), at the scale of the tissue mask: 0 none, 1 pen, 2 blur, 3 fold."""

    labels: NDArray[np.uint8]
    record: QualityRecord

    def save(self, png: Path | str, json: Path | str) -> None:
        """Write the labels as a 2-bit palette PNG, then the record."""
        save_labels(self.labels, png)
        self.record.write(json)

    @classmethod
    def load(cls, png: Path | str, json: Path | str) -> ArtefactMap:
        """Read the files written by `save`. Raises SlideError if the slide is in quarantine."""
        record = QualityRecord.read_usable(json)
        with Image.open(png) as image:
            return cls(np.asarray(image, np.uint8), record)


def save_labels(labels: NDArray[np.uint8], png: Path | str) -> None:
    """Write artefact labels as a palette PNG that shows them in colour."""
    image = Image.fromarray(labels, mode="P")
    image.putpalette([255, 255, 255, 0, 120, 255, 255, 170, 0, 200, 0, 160])
    with atomic_file(png) as aside:
        image.save(aside, format="PNG", optimize=True, bits=2)


def save_no_quality(outcome: Quarantined, png: Path | str, json: Path | str) -> None:
    """Write a quarantine entry as the record, and an empty map in place of the slide's artefacts."""
    save_labels(np.zeros((1, 1), np.uint8), png)
    outcome.write(json)


def assess(reader: SlideReader, tissue: TissueMask, config: Quality) -> ArtefactMap:
    """Detect pen, blur and folds at the scale of the tissue mask. Where they overlap, pen precedes fold and blur.

    Pen is also marked outside tissue, because the tissue mask excludes ink. Shares in the record refer to tissue and
    ink together. Pen and folds are detected in brightfield only; a fluorescence slide is checked for focus only. A
    slide coarser than twice ``blur_mpp`` does not resolve cells and is not checked for focus: its ``sharpness`` is
    null.
    """
    mpp = tissue.record.mpp
    labels = np.zeros(tissue.mask.shape, np.uint8)
    sharpness, appearance = None, None
    if reader.mpp <= 2 * config.blur_mpp:
        sharpness, blurred = _blur(reader, tissue, config)
        labels[blurred] = BLUR
    if tissue.record.mode == "brightfield":
        image = reader.read_whole(mpp)
        padding = find_padding(image)
        glass = find_glass(image, padding)
        image = whiten(image, padding, glass)
        if config.fold and mpp <= FOLD_WIDTH_UM / 2:
            labels[_folds(image, tissue.mask, mpp)] = FOLD
        if config.pen:
            labels[find_ink(image, mpp) & ~padding] = PEN
        appearance = measure_appearance(image, tissue.mask, labels != NONE, glass)
    return ArtefactMap(labels, _record(tissue, labels, sharpness, appearance))


def _record(
    tissue: TissueMask, labels: NDArray[np.uint8], sharpness: float | None, appearance: Appearance | None
) -> QualityRecord:
    on_tissue = tissue.mask | (labels == PEN)
    shares = {name: round(float((labels[on_tissue] == label).mean()), 6) for label, name in NAMES.items()}
    return QualityRecord(
        slide_id=tissue.record.slide_id,
        mpp=tissue.record.mpp,
        sharpness=None if sharpness is None else round(sharpness, 4),
        shares=shares,
        clean_share=round(1 - sum(shares.values()), 6),
        appearance=appearance,
    )


def _blur(reader: SlideReader, tissue: TissueMask, config: Quality) -> tuple[float, Bools]:
    """Return the median sharpness of the slide's tissue, and the mask of out-of-focus tissue."""
    fine, coarse = _energies(reader, tissue, config.blur_mpp)
    window = max(1, round(FOCUS_UM / tissue.record.mpp)) | 1
    fine, coarse = (
        np.asarray(cv2.blur(np.where(tissue.mask, energy, 0), (window, window)), np.float32)
        for energy in (fine, coarse)
    )
    sharpness = np.divide(fine, coarse, out=np.zeros_like(fine), where=coarse > 0)
    median = float(np.median(sharpness[tissue.mask]))
    blurred = tissue.mask & (sharpness < config.blur_sharpness * max(median, TYPICAL_SHARPNESS))
    return median, _without_specks(blurred, MIN_ARTEFACT_UM2 / tissue.record.mpp**2)


def _energies(reader: SlideReader, tissue: TissueMask, mpp: Mpp) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the energy of the Laplacian at ``mpp`` and at twice ``mpp``, averaged per pixel of the tissue mask.

    Defocus removes energy from the fine scale first. The ratio of both scales therefore distinguishes blur from
    tissue with little structure (fat, mucus); plain Laplacian variance (Pech-Pacheco et al., 2000) does not.
    """
    mpp = max(mpp, reader.mpp)
    factor = max(1, round(tissue.record.mpp / mpp))
    mpp = Mpp(tissue.record.mpp / factor)
    height, width = tissue.mask.shape
    fine, coarse = np.zeros((2, height, width), np.float32)
    cells = TILE // factor
    for top in range(0, height, cells):
        for left in range(0, width, cells):
            rows, columns = slice(top, min(top + cells, height)), slice(left, min(left + cells, width))
            if tissue.mask[rows, columns].any():
                parts = _tile_energies(reader, rows, columns, factor=factor, mpp=mpp)
                fine[rows, columns], coarse[rows, columns] = parts
    return fine, coarse


def _tile_energies(
    reader: SlideReader, rows: slice, columns: slice, *, factor: int, mpp: Mpp
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    height, width = rows.stop - rows.start, columns.stop - columns.start
    scale = mpp / reader.mpp
    x, y = (Level0Pixels(round((start * factor - MARGIN) * scale)) for start in (columns.start, rows.start))
    rgb = reader.read(x, y, (width * factor + 2 * MARGIN, height * factor + 2 * MARGIN), mpp)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    edge = cv2.Laplacian(grey, cv2.CV_32F)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    half = MARGIN // 2
    broad = cv2.Laplacian(cv2.pyrDown(grey), cv2.CV_32F)[half:-half, half:-half]
    fine, coarse = (
        np.asarray(cv2.resize(response**2, (width, height), interpolation=cv2.INTER_AREA), np.float32)
        for response in (edge, broad)
    )
    return fine, coarse


def _folds(image: NDArray[np.uint8], mask: Bools, mpp: Mpp) -> Bools:
    """Detect folded tissue: far denser than tissue of the same colour on the same slide.

    In a fold two layers add their optical densities: the stain colour stays the same and its amount doubles.
    Thresholds on darkness and saturation alone (Palokangas et al., 2007) confuse epidermis and lymphoid tissue with
    folds, because these are dense too; but they have a colour of their own. Thin dark lines (keratin, cell borders)
    are removed by morphological opening.
    """
    smooth = np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.5, FOLD_SMOOTH_UM / mpp)), np.uint8)
    excess, dense, spread = _density_excess(smooth, mask)
    limit = max(MIN_FOLD_EXCESS, FOLD_SPREADS * spread)
    radius = max(1, round(FOLD_WIDTH_UM / 2 / mpp))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    core = cv2.morphologyEx(((excess > limit) & dense).astype(np.uint8), cv2.MORPH_OPEN, disk).astype(bool)
    core = _without_specks(core, MIN_ARTEFACT_UM2 / mpp**2)
    near = cv2.dilate(core.astype(np.uint8), disk).astype(bool)
    return core | (near & (excess > limit / 2))


def _density_excess(image: NDArray[np.uint8], mask: Bools) -> tuple[NDArray[np.float32], Bools, float]:
    """Compare the optical density of each tissue pixel with the median density of pixels of the same colour.

    Returns the log ratio, the mask of pixels in the denser part of the slide, and the robust spread of the log ratio.
    The mask is needed because muscle beside fat is dense for its colour without being a fold.

    Colour is the ratio of red to green optical density, which orders haematoxylin before eosin, in bins with equal
    numbers of pixels.
    """
    density = -np.log((image[mask].astype(np.float32) + 1) / 256)
    colour = density[:, 0] / np.maximum(density[:, 1], 0.02)
    amount = np.log(np.maximum(density.sum(axis=1), 0.02))
    bins = np.searchsorted(np.quantile(colour, np.linspace(0, 1, COLOUR_BINS + 1)[1:-1]), colour)
    usual = np.array([np.median(amount[bins == i]) if (bins == i).any() else 0 for i in range(COLOUR_BINS)])
    deviation = amount - usual[bins]
    excess = np.zeros(mask.shape, np.float32)
    excess[mask] = deviation
    dense = np.zeros(mask.shape, bool)
    dense[mask] = amount > np.quantile(amount, DENSE_QUANTILE)
    return excess, dense, 1.4826 * float(np.median(np.abs(deviation)))


def _without_specks(mask: Bools, min_px: float) -> Bools:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_px
    keep[0] = False
    return keep[labels]
