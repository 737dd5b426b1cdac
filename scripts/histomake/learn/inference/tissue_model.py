"""Tissue detection with a trained segmentation network instead of thresholds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import batched, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from histomake.base.errors import ConfigError
from histomake.base.units import Mpp
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

    One of the task's classes must be ``tissue``, and its grid must have the mpp of tissue detection.

    Raises:
        ConfigError: the model has another kind, no such class, or was trained at another mpp.
    """
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
    trained = card.grid.mpp
    if abs(trained / mpp - 1) > SAME_MPP:
        raise ConfigError(f"tissue.model: {model_dir} was trained at {trained} µm/px; set tissue.mpp to it, not {mpp}")
    return lambda image: find_tissue(predictor, image)


def find_tissue(predictor: Predictor, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels bool (h, w) with ``tissue`` as most probable output; image: RGB uint8 (h, w, 3) at the model's mpp.

    Windows overlap by half and are blended, so that there are no seams between them.
    """
    size = predictor.card.grid.size
    height, width = image.shape[:2]
    step = size // 2
    rows, columns = (-(-max(length - size, 0) // step) * step + size for length in (height, width))
    padded = np.pad(image, ((0, rows - height), (0, columns - width), (0, 0)), constant_values=255)
    places = list(product(range(0, rows - size + 1, step), range(0, columns - size + 1, step)))
    device = predictor.runtime.device
    taper = window_weight(size, device=device)
    sums = torch.zeros(len(predictor.class_names), rows, columns, device=device)
    for some in batched(places, BATCH):
        windows = np.stack([padded[y : y + size, x : x + size] for y, x in some])
        for (y, x), scores in zip(some, predictor.probabilities(torch.from_numpy(windows)).float(), strict=True):
            sums[:, y : y + size, x : x + size] += scores * taper
    likeliest = sums[:, :height, :width].argmax(0).cpu().numpy()
    return likeliest == predictor.class_names.index(TISSUE)
