"""SHAP values of patches: the contribution of each pixel, or each square of pixels, to a network's output.

gradient: expected gradients (GradientExplainer; Lundberg and Lee 2017, Erion et al. 2021). partition: Owen values over
a hierarchy of squares (PartitionExplainer), which needs only the network's outputs and no gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = 50
"""Gradients averaged per patch. The additivity error decreases with the square root of their number."""
CELLS = 16
"""Squares along a patch edge, for partition, deletion and insertion. Single pixels hardly affect a network."""
PARTITION_EVALUATIONS = 300
"""Sets of squares evaluated per patch, each with every background patch."""
PARTITION_BACKGROUND = 8
"""Maximum number of background patches with partition, whose cost is proportional to it."""


class Margin(nn.Module):
    """The explained value, float (n, c): per class, its logit minus the log-sum-exp of the other logits.

    Probabilities saturate, and so do their gradients. ``independent`` outputs (multi-label, regression) and single
    outputs are explained as they are. Outputs per pixel are averaged over the pixels.
    """

    def __init__(self, network: nn.Module, *, independent: bool = False) -> None:
        super().__init__()
        self.network, self.independent = network, independent

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images).float()
        if logits.ndim == 4:
            logits = logits.mean((2, 3))
        if self.independent or logits.shape[1] == 1:
            return logits
        others = torch.stack([torch.cat([logits[:, :i], logits[:, i + 1 :]], 1) for i in range(logits.shape[1])], 1)
        return logits - torch.logsumexp(others, 2)


def explain(
    margin: Margin, images: Tensor, base: Tensor, *, seed: int, samples: int = SAMPLES, method: str = "gradient"
) -> NDArray[np.float32]:
    """SHAP values float32 (n, classes, channels, h, w) of normalised images (n, 3, h, w) against a background.

    ``method``: "gradient" or "partition"; the values of partition are constant within a square and have one channel.
    """
    return _partition(margin, images, base) if method == "partition" else _gradient(margin, images, base, seed, samples)


def _gradient(margin: Margin, images: Tensor, base: Tensor, seed: int, samples: int) -> NDArray[np.float32]:
    """Expected gradients. Of two classes only one is computed: the margin of the other is its negative."""
    from shap import GradientExplainer  # takes seconds to import

    with torch.no_grad():
        mirrored = margin(images[:1]).shape[1] == 2 and not margin.independent
    explained = _Only(margin, 1) if mirrored else margin
    values = GradientExplainer(explained, base, batch_size=32).shap_values(images, nsamples=samples, rseed=seed)
    maps = np.moveaxis(np.asarray(values, np.float32), -1, 1)
    return np.concatenate([-maps, maps], axis=1) if mirrored else maps


class _Only(nn.Module):
    """One output of a network, as a column."""

    def __init__(self, network: nn.Module, column: int) -> None:
        super().__init__()
        self.network, self.column = network, column

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[:, self.column : self.column + 1]


def _partition(margin: Margin, images: Tensor, base: Tensor) -> NDArray[np.float32]:
    """Owen values. A left-out square is filled from each background patch in turn; the outputs are averaged."""
    import shap  # takes seconds to import

    number = cell_numbers(*images.shape[2:]).to(images.device)
    members = torch.bincount(number.ravel(), minlength=CELLS * CELLS).cpu().numpy()
    masker = shap.maskers.Image(np.zeros((CELLS, CELLS, 1)))
    maps = []
    for image in images:

        @torch.no_grad()
        def evaluate(shown: NDArray, image: Tensor = image) -> NDArray[np.float64]:
            found = []
            for cells in torch.from_numpy(shown.reshape(len(shown), -1) > 0).to(image.device):
                filled = torch.where(cells[number][None, None], image[None], base)
                found.append(margin(filled).double().mean(0))
            return torch.stack(found).cpu().numpy()

        explainer = shap.PartitionExplainer(evaluate, masker)
        every = np.ones((1, CELLS, CELLS, 1))
        values = explainer(every, max_evals=PARTITION_EVALUATIONS, batch_size=16, silent=True).values
        per_pixel = values.reshape(CELLS * CELLS, -1) / members[:, None]
        maps.append(per_pixel[number.cpu().numpy()].transpose(2, 0, 1)[:, None])
    return np.stack(maps).astype(np.float32)


def cell_numbers(height: int, width: int) -> Tensor:
    """Number of the square, of CELLS x CELLS in row-major order, that contains each pixel: int64 (height, width)."""
    rows, columns = torch.arange(height) * CELLS // height, torch.arange(width) * CELLS // width
    return rows[:, None] * CELLS + columns[None]
