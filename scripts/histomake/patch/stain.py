"""Owns stain normalisation of patches as they are read, to a reference fitted on training patches."""

from __future__ import annotations

from typing import Any

import numpy as np
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

REFERENCE = {
    "macenko": ("HERef", "maxCRef"),
    "reinhard": ("target_means", "target_stds"),
}
"""What torchstain's normalisers learn from a reference image."""

OPTIONS = {"macenko": {"stains": False}, "reinhard": {}}


GLASS = 200
"""Pixels whose darkest channel is at least this are glass."""

MIN_STAINED = 0.02
"""Smallest share of stained pixels from which a patch's own stains can be told."""


class StainNormaliser:
    """Macenko et al. 2009 or Reinhard et al. 2001, by torchstain."""

    def __init__(self, method: str) -> None:
        self.method = method
        self._normaliser = NumpyMacenkoNormalizer() if method == "macenko" else NumpyReinhardNormalizer()

    def fit(self, patches: np.ndarray) -> None:
        """Take the colours of ``patches`` uint8 (n, h, w, 3), seen as one image, for the reference."""
        self._normaliser.fit(patches.reshape(-1, patches.shape[2], 3))

    @property
    def reference(self) -> dict[str, Any]:
        """What was fitted, as plain numbers."""
        return {name: np.asarray(getattr(self._normaliser, name)).tolist() for name in REFERENCE[self.method]}

    @classmethod
    def from_reference(cls, method: str, reference: dict[str, Any]) -> StainNormaliser:
        """A normaliser with a reference that was fitted before."""
        normaliser = cls(method)
        for name in REFERENCE[method]:
            setattr(normaliser._normaliser, name, np.array(reference[name]))
        return normaliser

    def apply(self, patch: np.ndarray) -> np.ndarray:
        """One patch uint8 (h, w, 3) in the reference's colours; unchanged where too little of it is stained.

        On glass neither method is defined: there is no plane of two stains and no spread of colours.
        """
        if (patch.min(axis=2) < GLASS).mean() < MIN_STAINED:
            return patch
        result = self._normaliser.normalize(patch, **OPTIONS[self.method])
        return np.asarray(result[0] if isinstance(result, tuple) else result, np.uint8)
