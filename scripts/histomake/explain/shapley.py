"""Owns SHAP values of patches: how much each pixel, or each square of pixels, adds to what a network answers.

gradient: expected gradients (GradientExplainer; Lundberg and Lee 2017, Erion et al. 2021). partition: Owen values over
a hierarchy of squares (PartitionExplainer), which asks nothing of the network but answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = 50
"""Gradients averaged per patch; the additivity error falls with their square root."""
CELLS = 16
"""Squares along an edge, of partition and of deletion and insertion: single pixels would be noise to the network."""
PARTITION_ANSWERS = 300
"""Sets of squares of a patch that are tried, each against every background patch."""
PARTITION_BACKGROUND = 8
"""Background patches at most when every one multiplies the work."""


class Margin(nn.Module):
    """What is explained, float (n, c): per class, its logit less the log-sum of the others'.

    Probabilities saturate, and their gradients with them. Outputs that do not compete (``independent``: several labels,
    regression) and single ones are explained as they are; networks that answer per pixel are averaged over pixels.
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

    ``method``: gradient, or partition, whose values are of whole squares and have one channel.
    """
    return _partition(margin, images, base) if method == "partition" else _gradient(margin, images, base, seed, samples)


def _gradient(margin: Margin, images: Tensor, base: Tensor, seed: int, samples: int) -> NDArray[np.float32]:
    """Of two classes only one is explained: the margin of the other is its negative."""
    from shap import GradientExplainer  # takes seconds to import

    with torch.no_grad():
        mirrored = margin(images[:1]).shape[1] == 2 and not margin.independent
    explained = _Only(margin, 1) if mirrored else margin
    values = GradientExplainer(explained, base, batch_size=32).shap_values(images, nsamples=samples, rseed=seed)
    maps = np.moveaxis(np.asarray(values, np.float32), -1, 1)
    return np.concatenate([-maps, maps], axis=1) if mirrored else maps


class _Only(nn.Module):
    """One output of a network, kept as a column."""

    def __init__(self, network: nn.Module, column: int) -> None:
        super().__init__()
        self.network, self.column = network, column

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[:, self.column : self.column + 1]


def _partition(margin: Margin, images: Tensor, base: Tensor) -> NDArray[np.float32]:
    """A square that is left out is filled from each background patch in turn, and the answers are averaged."""
    import shap  # takes seconds to import

    number = cell_numbers(*images.shape[2:]).to(images.device)
    members = torch.bincount(number.ravel(), minlength=CELLS * CELLS).cpu().numpy()
    masker = shap.maskers.Image(np.zeros((CELLS, CELLS, 1)))
    maps = []
    for image in images:

        @torch.no_grad()
        def answers(shown: NDArray, image: Tensor = image) -> NDArray[np.float64]:
            found = []
            for cells in torch.from_numpy(shown.reshape(len(shown), -1) > 0).to(image.device):
                filled = torch.where(cells[number][None, None], image[None], base)
                found.append(margin(filled).double().mean(0))
            return torch.stack(found).cpu().numpy()

        explainer = shap.PartitionExplainer(answers, masker)
        every = np.ones((1, CELLS, CELLS, 1))
        values = explainer(every, max_evals=PARTITION_ANSWERS, batch_size=16, silent=True).values
        per_pixel = values.reshape(CELLS * CELLS, -1) / members[:, None]
        maps.append(per_pixel[number.cpu().numpy()].transpose(2, 0, 1)[:, None])
    return np.stack(maps).astype(np.float32)


def cell_numbers(height: int, width: int) -> Tensor:
    """Which of the CELLS x CELLS squares, in reading order, each pixel lies in: int64 (height, width)."""
    rows, columns = torch.arange(height) * CELLS // height, torch.arange(width) * CELLS // width
    return rows[:, None] * CELLS + columns[None]
