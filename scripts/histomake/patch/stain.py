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
        """One patch uint8 (h, w, 3) in the reference's colours; unchanged where too little of it is stained."""
        try:
            result = self._normaliser.normalize(patch, **OPTIONS[self.method])
        except (np.linalg.LinAlgError, ValueError, IndexError):
            # Macenko's plane is undefined on a patch without stain.
            return patch
        image = np.asarray(result[0] if isinstance(result, tuple) else result)
        return np.clip(np.nan_to_num(image, nan=255.0), 0, 255).astype(np.uint8)
