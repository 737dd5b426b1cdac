"""A pool of earlier translations, from which a critic learns so that it does not follow the last step alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

POOL_SIZE = 50


class ImagePool:
    """Up to ``size`` translated images (Shrivastava et al., CVPR 2017; size 50 in Zhu et al. 2017)."""

    def __init__(self, size: int = POOL_SIZE) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def exchange(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Return for each of ``images`` (n, 3, h, w) itself, or half of the time once the pool is full an earlier one.

        The image of an earlier step is replaced in the pool by the one it is returned for.
        """
        returned = []
        for image in images.detach().unbind():
            if len(self.images) < self.size:
                self.images.append(image.clone())
                returned.append(image)
            elif rng.random() < 0.5:
                place = int(rng.integers(self.size))
                returned.append(self.images[place])
                self.images[place] = image.clone()
            else:
                returned.append(image)
        return torch.stack(returned)

    def state(self) -> list[Tensor]:
        """The images, for a checkpoint."""
        return list(self.images)

    def restore(self, images: list[Tensor], device: torch.device) -> None:
        """Restore the images of a checkpoint."""
        self.images = [image.to(device) for image in images]
