"""Whole slides in another stain: windows with margins and the slide's own statistics, so that no tile can be seen.

Instance normalisation with the statistics of each window makes neighbouring windows differ. The statistics are
therefore measured once, on windows spread over the slide's tissue, and fixed for all of it (as thumbnail instance
normalisation, Chen et al., AAAI 2022). A window is read with the margin that its pixels depend on, so it has the pixels
that the whole slide would have as one image; windows need not overlap or be blended.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from histomake.base.errors import HistomakeError
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.transfer_card import TransferCard
from histomake.generate.networks import STEP, StainGenerator
from histomake.generate.objective import BACKWARD, FORWARD
from histomake.generate.signed import from_signed, to_signed
from histomake.learn.engine.runtime import Runtime
from histomake.model.transfer import read_weights, require_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLED_WINDOWS = 16
"""Windows of tissue from which the statistics of a slide are measured."""

Read = Callable[[int, int, int, int], "NDArray[np.uint8]"]
"""Pixels of a box (x, y, width, height) at the transfer's resolution; white outside the slide."""


def load_generator(folder: Path, card: TransferCard, direction: str, runtime: Runtime) -> StainGenerator:
    """The generator of a direction, ``forward`` or ``backward``, in eval mode.

    Raises HistomakeError if the weights are not those that the card states.
    """
    network = StainGenerator(**card.generator)
    require_digest(folder / WEIGHTS, card.weights_sha256)
    weights = read_weights(folder / WEIGHTS)
    own = {name.removeprefix(f"{direction}."): w for name, w in weights.items() if name.startswith(f"{direction}.")}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise HistomakeError(f"{folder / WEIGHTS} does not fit {folder / DESCRIPTION}: {error}") from error
    return network.to(runtime.device).eval()


def direction_of(side: int) -> str:
    """The generator that changes the stain of a side: 0, ``from``, or 1, ``to``."""
    return (FORWARD, BACKWARD)[side]


def side_of(direction: str) -> int:
    """The inverse of `direction_of`."""
    return (FORWARD, BACKWARD).index(direction)


class SlideTranslator:
    """Translates boxes of one slide by one generator, as parts of one image."""

    def __init__(self, generator: StainGenerator, read: Read, *, runtime: Runtime) -> None:
        self.generator, self.read, self.runtime = generator, read, runtime

    @torch.inference_mode()
    def measure(self, windows: NDArray[np.uint8]) -> None:
        """Fix the statistics of all layers to those of ``windows`` uint8 (n, h, w, 3) together."""
        for norm in self.generator.norms():
            norm.joint = True
        self.generator(to_signed(torch.from_numpy(windows), self.runtime.device))
        for norm in self.generator.norms():
            norm.joint = False

    def translate(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels uint8 (height, width, 3) of a box whose corner is a multiple of STEP."""
        if x % STEP or y % STEP:
            raise ValueError(f"the corner ({x}, {y}) of a window is no multiple of {STEP}, so windows would not fit")
        margin = self.generator.margin
        padded = [-(-length // STEP) * STEP + 2 * margin for length in (width, height)]
        pixels = self.read(x - margin, y - margin, *padded)
        return self.apply(pixels[None])[0, margin : margin + height, margin : margin + width]

    @torch.inference_mode()
    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Translate images uint8 (n, h, w, 3) that end at their edges; h and w are multiples of STEP."""
        with self.runtime.autocast():
            return from_signed(self.generator(to_signed(torch.from_numpy(images), self.runtime.device)))
