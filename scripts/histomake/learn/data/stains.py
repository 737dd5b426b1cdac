"""Estimate the stain colours of slides from their tissue patches, and cache them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.errors import HistomakeError, SlideError
from histomake.base.records.stains import StainRecord
from histomake.base.units import Mpp, rescale
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from histomake.patch.grid import SlideGrid
from histomake.patch.stain import Colours, Method, StainNormaliser, choose_reference, learn_colours
from histomake.slide.reader import open_slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

STAIN_MPP = Mpp(2.0)
"""Resolution in µm per pixel for estimating colours. Nuclei are still separate from their surroundings."""

STAIN_PATCHES = 64
"""Number of tissue patches, spread evenly over a slide, for estimating its colours."""

COLOURS = "stains.json"


def tissue_pixels(entry: SlideEntry) -> NDArray[np.uint8]:
    """Pixels (n, 3) of up to STAIN_PATCHES usable patches of a slide, at STAIN_MPP or the grid's coarser mpp."""
    table, record = usable_patches(entry)
    if not table.num_rows:
        return np.zeros((0, 3), np.uint8)
    rows = np.unique(np.linspace(0, table.num_rows - 1, STAIN_PATCHES).astype(int))
    grid = SlideGrid.of_table(record).grid
    mpp = max(STAIN_MPP, grid.mpp)
    edge = max(1, round(rescale(grid.size, grid.mpp, mpp)))
    places = zip(table["x"].to_numpy()[rows].tolist(), table["y"].to_numpy()[rows].tolist(), strict=True)
    with open_slide(entry.manifest) as reader:
        return reader.read_many(list(places), edge, mpp).reshape(-1, 3)


def learn_slide(stain: StainNormaliser, entry: SlideEntry) -> Colours | None:
    """A slide's colours; estimated now if ``stain`` does not have them yet."""
    if entry.slide_id not in stain.slides:
        stain.slides[entry.slide_id] = _learn(stain.method, entry)
    return stain.slides[entry.slide_id]


def _learn(method: Method, entry: SlideEntry) -> Colours | None:
    colours = learn_colours(method, tissue_pixels(entry))
    if colours is None:
        log.warning("slide %s: too little stained tissue to estimate its colours; it is not normalised", entry.slide_id)
    return colours


def fit_normaliser(
    method: Method, entries: Sequence[SlideEntry], *, reference_from: Sequence[SlideEntry], memory: Path, threads: int
) -> StainNormaliser:
    """Build a normaliser with the colours of ``entries`` and a reference from ``reference_from``.

    Colours are cached in the folder ``memory``. Raises HistomakeError if no slide has colours or one cannot be read.
    """
    kept = memory / COLOURS
    known = StainRecord.read(kept) if kept.is_file() else None
    slides: dict[str, Colours | None] = known.slides if known is not None and known.method == method else {}
    unknown = list({entry.slide_id: entry for entry in entries if entry.slide_id not in slides}.values())
    with ThreadPoolExecutor(max(1, threads)) as pool:
        try:
            slides |= zip([e.slide_id for e in unknown], pool.map(lambda e: _learn(method, e), unknown), strict=True)
        except (SlideError, OSError) as error:
            raise HistomakeError(f"stain normalisation: the colours of a slide cannot be estimated: {error}") from error
    chosen = choose_reference(method, {entry.slide_id: slides[entry.slide_id] for entry in reference_from})
    if chosen is None or (reference := slides[chosen]) is None:
        raise HistomakeError("stain normalisation: no training slide has enough stained tissue to be the reference")
    log.info("stain normalisation (%s): the reference is slide %s", method, chosen)
    StainRecord(method=method, reference=chosen, slides=slides).write(kept)
    return StainNormaliser(method, reference=reference, slides=slides)
