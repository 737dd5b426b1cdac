"""Owns stain normalisation: a slide's colours are learned once, from its own tissue, and brought to a reference's.

Per slide and not per patch: a patch of mere fat or of mere lymphocytes has neither both stains nor the slide's spread
of colours, and would be bent until it looked like an average patch.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any, Literal

import cv2
import numpy as np
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

Method = Literal["macenko", "reinhard"]
Colours = dict[str, Any]
"""What is learned of one slide, as plain numbers. macenko: ``stains`` (3, 2), optical densities of haematoxylin and
eosin in R, G, B, and ``strong`` (2,), their 99th percentiles; reinhard: ``mean`` (3,) and ``std`` (3,) in CIELAB."""

GLASS = 200
"""Pixels whose darkest channel is at least this are glass, from which no stain is learned."""

MIN_PIXELS = 2_000
"""Fewer stained pixels do not tell a slide's colours."""

LIGHT = 240.0
"""Grey level of unhindered light in torchstain's optical densities."""

CELLS = 64
CELL = 256 // CELLS
"""Levels of a channel that share a row of a slide's table of colours."""

OWN_TABLES = 64
SHARED_TABLES = 1_024
"""Tables kept, of 1.5 MB each, by a process for itself and by the processes of one training together."""


def learn_colours(method: Method, pixels: np.ndarray) -> Colours | None:
    """The colours of tissue ``pixels`` uint8 (…, 3) of one slide; None where too little is stained to tell.

    Macenko et al. 2009, Reinhard et al. 2001, both as torchstain fits them.
    """
    pixels = pixels.reshape(-1, 3)
    stained = pixels[pixels.min(axis=1) < GLASS]
    if len(stained) < MIN_PIXELS:
        return None
    normaliser = NumpyMacenkoNormalizer() if method == "macenko" else NumpyReinhardNormalizer()
    with np.errstate(all="ignore"):
        try:
            normaliser.fit(stained[None])
        except (np.linalg.LinAlgError, IndexError):
            return None
    names = ("HERef", "maxCRef") if method == "macenko" else ("target_means", "target_stds")
    values = [np.asarray(getattr(normaliser, name), np.float64) for name in names]
    spread = values[1]
    if not all(np.isfinite(value).all() for value in values) or (spread <= 0).any():
        return None
    return dict(zip(_keys(method), (value.tolist() for value in values), strict=True))


def _keys(method: Method) -> tuple[str, str]:
    return ("stains", "strong") if method == "macenko" else ("mean", "std")


def choose_reference(method: Method, slides: Mapping[str, Colours | None]) -> str | None:
    """The slide whose colours are nearest to the median of all: a real slide, for a mean of stains is none.

    None where no slide's colours are known.
    """
    known = {name: colours for name, colours in sorted(slides.items()) if colours is not None}
    if not known:
        return None
    vectors = np.stack([np.concatenate([np.ravel(c[key]) for key in _keys(method)]) for c in known.values()])
    distance = np.abs(vectors - np.median(vectors, axis=0)) / np.maximum(vectors.std(axis=0), 1e-6)
    return list(known)[int(distance.sum(axis=1).argmin())]


class StainNormaliser:
    """Brings patches of slides to ``reference``; ``slides``: what is learned of each, by its id."""

    def __init__(
        self, method: Method, *, reference: Colours, slides: Mapping[str, Colours | None] | None = None
    ) -> None:
        self.method, self.reference = method, reference
        self.slides: dict[str, Colours | None] = dict(slides or {})
        self._own: dict[str, np.ndarray] = {}
        self._shared: dict[str, tuple[np.ndarray, np.ndarray]] | None = None

    def share(self) -> None:
        """Make room for the known slides' tables in memory that processes forked from now on share.

        Whoever needs a slide first fills its table in; two at once write the same. In a shuffled batch every patch may
        be of another slide, and a table takes longer than the patch's own pixels.
        """
        known = [name for name, colours in sorted(self.slides.items()) if colours is not None][:SHARED_TABLES]
        cells = CELLS**3 * 3
        tables = np.frombuffer(mmap.mmap(-1, max(1, len(known)) * cells * 2), np.int16).reshape(-1, CELLS**3, 3)
        filled = np.frombuffer(mmap.mmap(-1, max(1, len(known))), np.uint8)
        self._shared = {name: (tables[i], filled[i : i + 1]) for i, name in enumerate(known)}

    def apply(self, patch: np.ndarray, slide_id: str) -> np.ndarray:
        """One patch uint8 (h, w, 3) of a slide in ``slides``, in the reference's colours.

        What is nearly glass stays nearly as it is: neither method says anything about unstained pixels. A slide whose
        colours are not known is left as it is. As a slide's change depends on a pixel's colour alone, it is looked up
        in a table of its shift at every CELLth level, within about one grey level of computing it.
        """
        colours = self.slides[slide_id]
        if colours is None:
            return patch
        shifts = self._shifts(slide_id, colours)
        if shifts is None:
            return np.clip(np.rint(self.change(patch.astype(np.float32), colours)), 0, 255).astype(np.uint8)
        red, green, blue = (patch[..., channel] // CELL for channel in range(3))
        cell = (red.astype(np.int32) * CELLS + green) * CELLS + blue
        return np.clip(patch + shifts[cell], 0, 255).astype(np.uint8)

    def _shifts(self, slide_id: str, colours: Colours) -> np.ndarray | None:
        """The slide's table; None of slides for which there is no shared room, the same in every process."""
        if self._shared is not None:
            if slide_id not in self._shared:
                return None
            table, filled = self._shared[slide_id]
            if not filled[0]:
                table[:] = self._table(colours)
                filled[0] = 1
            return table
        if slide_id not in self._own:
            if len(self._own) >= OWN_TABLES:
                self._own.pop(next(iter(self._own)))
            self._own[slide_id] = self._table(colours)
        return self._own[slide_id]

    def _table(self, colours: Colours) -> np.ndarray:
        """How far each cell of colours moves, int16 (CELLS³, 3)."""
        centres = (np.arange(CELLS) * CELL + (CELL - 1) / 2).astype(np.float32)
        cube = np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), axis=-1).reshape(1, -1, 3)
        return np.rint(self.change(cube, colours) - cube)[0].astype(np.int16)

    def change(self, pixels: np.ndarray, colours: Colours) -> np.ndarray:
        """Pixels float32 (h, w, 3) in 0 to 255 of a slide with ``colours``, in the reference's colours."""
        changed = (self._macenko if self.method == "macenko" else self._reinhard)(pixels, colours)
        stained = np.minimum((255 - pixels.min(axis=2, keepdims=True)) / np.float32(255 - GLASS), 1)
        return stained * changed + (1 - stained) * pixels

    def _macenko(self, pixels: np.ndarray, colours: Colours) -> np.ndarray:
        """Amounts of the slide's two stains, scaled to the reference's strength, mixed from the reference's stains."""
        gain = np.asarray(self.reference["strong"]) / np.asarray(colours["strong"])
        mixing = np.asarray(self.reference["stains"]) @ np.diag(gain) @ np.linalg.pinv(np.asarray(colours["stains"]))
        density = -np.log((pixels + 1) / LIGHT)
        return LIGHT * np.exp(-(density @ mixing.T.astype(np.float32)))

    def _reinhard(self, pixels: np.ndarray, colours: Colours) -> np.ndarray:
        """Mean and spread of each axis of CIELAB."""
        lab = cv2.cvtColor(pixels / np.float32(255), cv2.COLOR_RGB2LAB)
        mean, std, to_mean, to_std = (
            np.asarray(values, np.float32)
            for values in (colours["mean"], colours["std"], self.reference["mean"], self.reference["std"])
        )
        return 255 * cv2.cvtColor((lab - mean) * (to_std / std) + to_mean, cv2.COLOR_LAB2RGB)
