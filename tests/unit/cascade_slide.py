"""A small slide for tests of the cascade: dark discs on bright glass, with ground truth and networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from array_reader import ArrayReader
from histomake.cascade.fields import Field
from histomake.cascade.levels import Level, levels_of
from histomake.cascade.net import RadhicalNet
from histomake.cascade.train import train_level
from histomake.cascade.truth import MaskNuclei, Truth
from histomake.config import CascadeNetwork, CascadeTrain

SCALES = (1.0, 0.5, 0.25, 0.1)
MPP = 0.5


class DiscReader(ArrayReader):
    """An `ArrayReader` that counts the pixels read."""

    slide_id = "discs"

    def __init__(self, image: np.ndarray, mpp: float = MPP) -> None:
        super().__init__(image, mpp)
        self.reads: list[tuple[int, int, float]] = []

    def read(self, x, y, size, mpp):
        self.reads.append((x, y, mpp))
        return super().read(x, y, size, mpp)


def discs(height: int, width: int, *, number: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (h, w, 3) of dark discs in its upper left quarter, and their numbers (h, w)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width]
    for i in range(number):
        cy, cx, radius = rng.uniform(8, height / 2), rng.uniform(8, width / 2), rng.uniform(5, 9)
        labels[((y - cy) ** 2 + (x - cx) ** 2 < radius**2) & (labels == 0)] = i + 1
    image = np.where(labels[..., None] > 0, (90, 40, 120), (240, 238, 242)) + rng.normal(0, 4, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), labels


def levels(height: int, width: int) -> list[Level]:
    """Return the default levels of a slide at 0.5 µm/px."""
    return levels_of(width=width, height=height, mpp=MPP, finest_mpp=MPP, scales=SCALES)


def truth_of(labels: np.ndarray) -> Truth:
    """Return the discs as ground truth."""
    return Truth(MaskNuclei(labels, 1, binary=False), levels(*labels.shape)[0], 1.0)


def random_networks(seed: int = 0) -> dict[int, RadhicalNet]:
    """Return untrained networks whose probabilities are spread over [0, 1]."""
    torch.manual_seed(seed)
    networks = {number: RadhicalNet().eval() for number in range(1, len(SCALES) + 1)}
    for net in networks.values():
        torch.nn.init.normal_(net.answer.weight, std=1.0)
    return networks


def disc_field(seed: int) -> Field:
    """Return a slide to train on."""
    image, labels = discs(144, 160, seed=seed)
    return Field(f"discs{seed}", DiscReader(image), levels(144, 160), truth_of(labels))


def train_discs(output: Path, settings: dict[str, Any], slides: int = 1, level: int = 1) -> dict[str, Any]:
    """Train one level on discs into ``output``; return its description."""
    places = {"output": output, "state": state_of(output)}
    fields, config = [disc_field(seed) for seed in range(slides)], CascadeTrain(**settings)
    return train_level(fields, level, network=CascadeNetwork(), config=config, **places, seed=0, threads=1)


def state_of(output: Path) -> Path:
    """Return the checkpoint folder of the run that writes ``output``."""
    return output.with_name(f"{output.name}.state")
