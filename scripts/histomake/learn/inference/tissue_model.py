"""Tissue detection with a trained segmentation network instead of thresholds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import batched, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from histomake.base.errors import ConfigError
from histomake.base.layout import DESCRIPTION
from histomake.base.records.segmenter_card import is_segmenter_card
from histomake.base.units import Mpp
from histomake.learn.inference.foreign_segmenter import load_segmenter
from histomake.learn.inference.predict import Predictor, load_model
from histomake.learn.inference.segment import window_weight
from histomake.target.kinds import LEARNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

TISSUE = "tissue"
BATCH = 16
SAME_MPP = 0.01


def tissue_model(model_dir: Path, *, mpp: Mpp, threads: int) -> Callable[[NDArray[np.uint8]], NDArray[np.bool_]]:
    """Return the ``segment`` function for `histomake.tissue.mask.presegment` from a model of a segmentation task.

    It is a model of a task with a class ``tissue``, or a network of someone else with a segmenter card. Its mpp must be
    that of tissue detection.

    Raises:
        ConfigError: the model has another kind, no such class, or was trained at another mpp.
    """
    if is_segmenter_card(model_dir / DESCRIPTION):
        segmenter = load_segmenter(model_dir, threads=threads)
        _compare_mpp(model_dir, segmenter.card.mpp, mpp)
        return lambda image: most_likely(segmenter.probabilities, image, size=segmenter.card.px, outputs=2) == 0
    predictor = load_model(model_dir, threads=threads)
    card = predictor.card
    if not LEARNED[card.kind].per_pixel or TISSUE not in predictor.class_names:
        raise ConfigError(
            f"tissue.model: {model_dir} is a {card.kind} model of {', '.join(predictor.class_names)}; "
            f"a segmentation model with a class {TISSUE!r} is needed"
        )
    if predictor.stain is not None:
        raise ConfigError(
            f"tissue.model: {model_dir} uses stain normalisation, which needs the tissue mask; train without it"
        )
    _compare_mpp(model_dir, card.grid.mpp, mpp)
    return lambda image: find_tissue(predictor, image)


def _compare_mpp(model_dir: Path, trained: float, mpp: Mpp) -> None:
    if abs(trained / mpp - 1) > SAME_MPP:
        raise ConfigError(f"tissue.model: {model_dir} was trained at {trained} µm/px; set tissue.mpp to it, not {mpp}")


def find_tissue(predictor: Predictor, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels bool (h, w) with ``tissue`` as most probable output; image: RGB uint8 (h, w, 3) at the model's mpp."""
    names = predictor.class_names
    found = most_likely(predictor.probabilities, image, size=predictor.card.grid.size, outputs=len(names))
    return found == names.index(TISSUE)


def most_likely(
    probabilities: Callable[[Tensor], Tensor], image: NDArray[np.uint8], *, size: int, outputs: int
) -> NDArray[np.int64]:
    """Most probable output of each pixel (h, w) of RGB uint8 (h, w, 3).

    ``probabilities``: of windows uint8 (n, size, size, 3), (n, outputs, size, size). Windows overlap by half and are
    blended, so that there are no seams between them.
    """
    height, width = image.shape[:2]
    step = size // 2
    rows, columns = (-(-max(length - size, 0) // step) * step + size for length in (height, width))
    padded = np.pad(image, ((0, rows - height), (0, columns - width), (0, 0)), constant_values=255)
    places = list(product(range(0, rows - size + 1, step), range(0, columns - size + 1, step)))
    taper = window_weight(size)
    sums = torch.zeros(outputs, rows, columns)
    for some in batched(places, BATCH):
        windows = np.stack([padded[y : y + size, x : x + size] for y, x in some])
        for (y, x), scores in zip(some, probabilities(torch.from_numpy(windows)).float().cpu(), strict=True):
            sums[:, y : y + size, x : x + size] += scores * taper
    likeliest: NDArray[np.int64] = sums[:, :height, :width].argmax(0).numpy()
    return likeliest
