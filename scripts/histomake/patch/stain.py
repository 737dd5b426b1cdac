"""Owns stain normalisation: a slide's colours are learned once, from its own tissue, and brought to a reference's.

Per slide and not per patch: a patch of mere fat or of mere lymphocytes has neither both stains nor the slide's spread
of colours, and would be bent until it looked like an average patch.
"""

from __future__ import annotations

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

_DENSITY = -np.log((np.arange(256) + 1) / LIGHT).astype(np.float32)


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

    def apply(self, patch: np.ndarray, slide_id: str) -> np.ndarray:
        """One patch uint8 (h, w, 3) of a slide in ``slides``, in the reference's colours.

        What is nearly glass stays nearly as it is: neither method says anything about unstained pixels. A slide whose
        colours are not known is left as it is.
        """
        colours = self.slides[slide_id]
        if colours is None:
            return patch
        change = self._macenko if self.method == "macenko" else self._reinhard
        stained = np.minimum((255 - patch.min(axis=2, keepdims=True)) / np.float32(255 - GLASS), 1)
        changed = stained * change(patch, colours) + (1 - stained) * patch
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8)

    def _macenko(self, patch: np.ndarray, colours: Colours) -> np.ndarray:
        """Amounts of the slide's two stains, scaled to the reference's strength, mixed from the reference's stains."""
        gain = np.asarray(self.reference["strong"]) / np.asarray(colours["strong"])
        mixing = np.asarray(self.reference["stains"]) @ np.diag(gain) @ np.linalg.pinv(np.asarray(colours["stains"]))
        return LIGHT * np.exp(-(_DENSITY[patch] @ mixing.T.astype(np.float32)))

    def _reinhard(self, patch: np.ndarray, colours: Colours) -> np.ndarray:
        """Mean and spread of each axis of CIELAB."""
        lab = cv2.cvtColor(patch.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        mean, std, to_mean, to_std = (
            np.asarray(values, np.float32)
            for values in (colours["mean"], colours["std"], self.reference["mean"], self.reference["std"])
        )
        return 255 * cv2.cvtColor((lab - mean) * (to_std / std) + to_mean, cv2.COLOR_LAB2RGB)
