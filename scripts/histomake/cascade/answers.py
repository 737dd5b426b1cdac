"""Sources of a cascade's probabilities: networks that read a slide block by block, or stored maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import batched
from typing import TYPE_CHECKING

import numpy as np
import torch

from histomake.base.errors import HistomakeError
from histomake.base.windows import Window
from histomake.cascade.levels import Level, read_window
from histomake.cascade.net import PixelNetwork, probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

GPU_BATCH = 16
CPU_BATCH = 1
"""Blocks per forward pass on a CPU. One block uses all cores; activations of more blocks would not fit the caches."""

READERS = 2


def best_device(threads: int) -> torch.device:
    """Return the GPU if there is one, set to full float32, so that dense and patch-wise evaluation agree there too."""
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # torch sets it when imported
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda")


@dataclass(frozen=True)
class NetworkAnswers:
    """Probabilities from the networks of a cascade, in eval mode.

    Every block of a level is computed at the full block size of the level and, on a GPU, in batches of constant size.
    The probability of a pixel then is identical, bit for bit, whichever other pixels are computed, so a simulated
    cascade equals a deployed one.
    """

    reader: SlideReader
    networks: Mapping[int, PixelNetwork]
    block: int
    device: torch.device

    def of(self, level: Level, windows: Sequence[Window]) -> Iterator[NDArray[np.float32]]:
        """Yield p1 and p2 of the pixels of each window (blocks of the level's grid): float32 (2, height, width)."""
        net = self.networks[level.number]
        batch = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        # Two batches are read while one is computed; decoding releases the interpreter lock.
        with ThreadPoolExecutor(READERS) as pool:
            ahead: list[tuple[tuple[Window, ...], list]] = []
            for group in batched(windows, batch):
                ahead.append((group, [pool.submit(self._read, net, level, w) for w in group]))
                if len(ahead) > READERS:
                    yield from self._compute(net, *ahead.pop(0), batch)
            for group, pending in ahead:
                yield from self._compute(net, group, pending, batch)

    def _read(self, net: PixelNetwork, level: Level, window: Window) -> NDArray[np.uint8]:
        full = Window(window.y, window.x, *level.block_shape(self.block))
        pixels = read_window(self.reader, level, full.grown(net.centre, net.field - 1 - net.centre))
        return np.ascontiguousarray(pixels)

    @torch.inference_mode()
    def _compute(
        self, net: PixelNetwork, group: Sequence[Window], pending: list, batch: int
    ) -> Iterator[NDArray[np.float32]]:
        pixels = np.stack([p.result() for p in pending])
        if len(group) < batch:
            pixels = np.concatenate([pixels, np.zeros((batch - len(group), *pixels.shape[1:]), np.uint8)])
        found = probabilities(net.dense(torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)))
        for values, window in zip(found[: len(group), 1:].cpu().numpy(), group, strict=True):
            if not np.isfinite(values).all():
                # No comparison with a threshold holds for such a number, so the pixels would count as rejected.
                raise HistomakeError(
                    f"slide {self.reader.slide_id}: probabilities at x={window.x} y={window.y} of a level "
                    "are not finite, so its network cannot be used. Train it again"
                )
            yield values[:, : window.height, : window.width]


@dataclass(frozen=True)
class StoredAnswers:
    """Precomputed probabilities of whole levels: level number → p1 and p2, (2, height, width)."""

    maps: Mapping[int, NDArray[np.float32]]

    def of(self, level: Level, windows: Sequence[Window]) -> Iterable[NDArray[np.float32]]:
        """Return the part of the stored maps in each window."""
        return (self.maps[level.number][:, *window.slices] for window in windows)


@torch.inference_mode()
def patch_by_patch(
    reader: SlideReader, level: Level, net: PixelNetwork, pixels: Sequence[tuple[int, int]], *, batch: int
) -> NDArray[np.float32]:
    """Compute probabilities (n, 3) of single (y, x) pixels, one patch each: the naive way, used as the reference."""
    before, after, cell = net.centre, net.field - 1 - net.centre, net.stride
    answers = []
    for group in batched(pixels, batch):
        inside = [(y % cell, x % cell) for y, x in group]
        patches = [
            read_window(reader, level, Window(y - dy, x - dx, cell, cell).grown(before, after))
            for (y, x), (dy, dx) in zip(group, inside, strict=True)
        ]
        logits = net.patchwise(torch.from_numpy(np.stack(patches)).to(net.mean.device).permute(0, 3, 1, 2))
        rows, columns = np.transpose(inside)
        answers.append(probabilities(logits).cpu().numpy()[np.arange(len(group)), :, rows, columns])
    return np.concatenate(answers)
