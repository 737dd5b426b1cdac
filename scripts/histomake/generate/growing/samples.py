"""Samples of a trained generator, a function of its weights and a seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_directory, sha256_file
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.generator_card import GeneratorCard
from histomake.base.rng import counter_rng
from histomake.generate.growing.networks import GrowingGenerator
from histomake.generate.growing.phase_pictures import TILE_PX, captioned, tiled, write_marked
from histomake.generate.signed import from_signed
from histomake.learn.engine.runtime import choose_runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 16
ROWS, COLUMNS = 6, 12


class GeneratedImages:
    """Images by number: the same seed gives the same images, however many are asked for."""

    def __init__(self, folder: Path, *, seed: int, threads: int) -> None:
        """Load the generator in a folder. Raises HistomakeError if its weights are not those of its card."""
        self.card, self.seed = GeneratorCard.read(folder / DESCRIPTION), seed
        if sha256_file(folder / WEIGHTS) != self.card.weights_sha256:
            raise HistomakeError(f"{folder / WEIGHTS} are not the weights that {DESCRIPTION} describes; train again")
        self.device = choose_runtime("fp32", threads=threads).device
        card = self.card
        network = GrowingGenerator(
            card.sizes,
            latent=card.latent,
            features=card.network["features"],
            most=card.network["most"],
            labels=len(card.labels),
        )
        network.load_state_dict(load_file(folder / WEIGHTS))
        self.network = network.to(self.device).eval()

    def label(self, number: int) -> int:
        """Label of an image: labels take turns; 0 without labels."""
        return number % max(len(self.card.labels), 1)

    @torch.inference_mode()
    def images(self, count: int) -> NDArray[np.uint8]:
        """The first ``count`` images, uint8 (count, size, size, 3), at the largest size."""
        size = self.card.sizes[-1]
        parts = [self._batch(range(n, min(n + BATCH, count)), size) for n in range(0, count, BATCH)]
        return np.concatenate(parts)

    def _batch(self, numbers: range, size: int) -> NDArray[np.uint8]:
        latents = np.stack([counter_rng(self.seed, step=n).standard_normal(self.card.latent) for n in numbers])
        labels = None
        if self.card.labels:
            labels = torch.tensor([self.label(n) for n in numbers], device=self.device)
        given = torch.from_numpy(latents).float().to(self.device)
        return from_signed(self.network(given, labels, size=size))


def draw_grid(samples: GeneratedImages, path: Path) -> None:
    """Write the first samples as one picture; with labels, the images of a column have the same one."""
    labels = max(len(samples.card.labels), 1)
    columns = max(COLUMNS // labels, 1) * labels
    tile = max(TILE_PX, min(samples.card.sizes[-1], 2 * TILE_PX))
    write_marked(captioned(tiled(list(samples.images(ROWS * columns)), columns=columns, tile=tile)), path)


def write_samples(samples: GeneratedImages, folder: Path, *, count: int) -> None:
    """Write samples as single PNG files, named by number, and by the label's number in the card if there is one."""
    images = samples.images(count)
    with atomic_directory(folder) as aside:
        for number, image in enumerate(images):
            suffix = f"_label{samples.label(number)}" if samples.card.labels else ""
            write_marked(image, aside / f"{number:06d}{suffix}.png")
