"""Batches whose tiles are decoded on the GPU: loader processes read encoded tiles, and no pixel passes main memory.

A batch is a block of neighbouring patches (`patch.blocks`). Its tiles are decoded in one call, each once, and patches
are cut from them, while the network computes the batch before. What cannot be decoded on the device is decoded on the
CPU, with one line in the log: all batches of a slide whose first batch does not look as on the CPU, and a batch with a
damaged tile, which then fails as it does without a GPU.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from histomake.base.errors import SlideError
from histomake.config.section import Decode
from histomake.learn.data.device_jpeg import (
    MOST_LEVELS,
    DeviceDecodeError,
    compare,
    decode_tiles,
    interpolate_chroma,
    interpolates,
    reduce_tiles,
    subsampling,
)
from histomake.learn.data.device_patches import Cut, cut_patches, plan_cut
from histomake.learn.data.loader import load_batches
from histomake.learn.data.source import NEW, BatchSource, Room, SlideSource, WithImages, needed
from histomake.slide.jpeg import Frame, read_frame
from histomake.slide.reader import SlideReader

log = logging.getLogger(__name__)

Decoder = Literal["cpu", "gpu"]
"""Where the tiles of patches were decoded."""

DEVICES = {"cuda"}
"""Types of devices that decode tiles."""

AT_ONCE = 128
"""Tiles that are decoded in one call."""

AHEAD = 2
"""Batches that are decoded before the network asks for them."""


class PatchStream[B](NamedTuple):
    """Batches in order, and where their tiles are decoded."""

    batches: Iterator[B]
    decoder: Decoder


@dataclass
class EncodedBatch:
    """The encoded tiles of a batch. data: uint8, one tile after another; ends: where each ends (t,); cuts: by view.

    ``unusual``: why the device should not decode the batch.
    """

    number: int
    data: Tensor
    ends: np.ndarray
    cuts: tuple[Cut, ...]
    unusual: str | None = None

    def files(self) -> list[Tensor]:
        """The tiles, views of ``data``."""
        starts = [0, *self.ends.tolist()[:-1]]
        return [self.data[start:end] for start, end in zip(starts, self.ends.tolist(), strict=True)]


class EncodedBatches(BatchSource[EncodedBatch]):
    """The tiles that the batches of another source need, encoded."""

    def __init__(self, source: SlideSource[Any], frames: Sequence[Frame]) -> None:
        self.source, self.frames = source, frames

    @property
    def room_bytes(self) -> int:
        """See BatchSource: the pixels of a batch take more than its tiles do, unless it has few patches far apart."""
        return self.source.room_bytes

    def prepare(self, number: int, room: Room = NEW) -> EncodedBatch:
        """See BatchSource."""
        reader = self.source.slide()
        cuts = tuple(plan_cut(reader, view) for view in self.source.views(number))
        nothing = torch.empty(0, dtype=torch.uint8)
        try:
            files = [reader.encoded_tiles(cut.level, cut.tiles()) for cut in cuts]
        except (SlideError, OSError, ValueError) as error:
            return EncodedBatch(number, nothing, np.zeros(0, np.int64), (), str(error))
        cuts = tuple(cut.numbered([f is not None for f in one]) for cut, one in zip(cuts, files, strict=True))
        present = [[file for file in one if file is not None] for one in files]
        for frame, one in zip(self.frames, present, strict=True):
            if unusual := next((reason for file in one if (reason := differs(file, frame))), None):
                return EncodedBatch(number, nothing, np.zeros(0, np.int64), (), unusual)
        flat = [file for one in present for file in one]
        return EncodedBatch(number, _joined(flat, room, self.room_bytes), np.cumsum([*map(len, flat)], dtype=int), cuts)


def _joined(files: Sequence[bytes], room: Room, most: int) -> Tensor:
    """Files one after another, in ``room`` if they fit."""
    shape = (sum(map(len, files)),)
    data = (room if needed(shape, np.uint8) <= most else NEW).array(shape, np.uint8)
    at = 0
    for file in files:
        data[at : at + len(file)] = np.frombuffer(file, np.uint8)
        at += len(file)
    return torch.from_numpy(data)


def differs(file: bytes, frame: Frame) -> str | None:
    """How a tile differs from the layout that was compared with the CPU's; None if it does not."""
    try:
        found = read_frame(file)
    except ValueError as error:
        return str(error)
    return None if found == frame else f"a tile is coded as {found}, others as {frame}"


class DeviceDecoder:
    """Turns encoded batches of a slide into pixels on a device.

    ``interpolated``: whether chroma is to be interpolated, because the device repeats its samples.
    """

    def __init__(self, reader: SlideReader, frames: Sequence[Frame], device: torch.device) -> None:
        self.reader, self.frames, self.device = reader, frames, device
        self.interpolated = False

    def images(self, batch: EncodedBatch) -> Tensor:
        """Pixels uint8 (n, size, size, 3 · views). Raises DeviceDecodeError if a tile cannot be decoded."""
        files, views = batch.files(), []
        for view, cut in enumerate(batch.cuts):
            count = int(cut.numbers.max()) + 1
            views.append(cut_patches(self._tiles(files[:count], view, cut), cut))
            files = files[count:]
        return views[0] if len(views) == 1 else torch.cat(views, dim=3)

    def _tiles(self, files: Sequence[Tensor], view: int, cut: Cut) -> Tensor:
        """Decoded and reduced tiles (t, 3, h, w)."""
        level = self.reader.levels[cut.level]
        height, width, _ = level.tile_shape
        factors = subsampling(self.frames[view])
        # A decoder on the CPU that reduces tiles has no chroma to interpolate before.
        interpolated = self.interpolated and cut.reduction == 1 and interpolates(self.frames[view])
        none = (0, 3, height // cut.reduction, width // cut.reduction)
        parts = [torch.empty(none, dtype=torch.uint8, device=self.device)]
        for first in range(0, len(files), AT_ONCE):
            tiles = decode_tiles(files[first : first + AT_ONCE], (height, width), self.device)
            if interpolated:
                tiles = interpolate_chroma(tiles, factors)
            parts.append(reduce_tiles(tiles, cut.reduction, factors))
        return torch.cat(parts)


@contextmanager
def read_batches[B: WithImages](
    source: SlideSource[B], *, workers: int, device: torch.device, decode: Decode
) -> Iterator[PatchStream[B]]:
    """All batches of a source in order, decoded on ``device`` if ``decode`` allows it and the pixels are alike.

    ``workers`` processes read encoded tiles, or decode them if the device does not; see `load_batches`.
    """
    numbers = range(len(source))
    decoder = None if decode == "cpu" else chosen_decoder(source, device)
    if isinstance(decoder, str):
        log.info("tiles are decoded on the CPU: %s", decoder)
    if not isinstance(decoder, DeviceDecoder):
        with load_batches(source, numbers, workers=workers) as batches:
            yield PatchStream(batches, "cpu")
        return
    with (
        load_batches(EncodedBatches(source, decoder.frames), numbers, workers=workers) as encoded,
        ThreadPoolExecutor(1) as thread,
    ):
        yield PatchStream(_ahead(source, encoded, decoder, thread), "gpu")


def chosen_decoder[B: WithImages](source: SlideSource[B], device: torch.device) -> DeviceDecoder | str:
    """The decoder on a device for the tiles of a source, or why there is none."""
    if device.type not in DEVICES:
        return "there is no GPU"
    if source.on_cpu_only:
        return source.on_cpu_only
    try:
        return checked_decoder(source, device)
    except (SlideError, OSError, ValueError) as error:
        # The CPU meets the same damage, and says what it is.
        return f"the first of them cannot be read ({error})"


def checked_decoder[B: WithImages](source: SlideSource[B], device: torch.device) -> DeviceDecoder | str:
    """A decoder with which the first batch looks as on the CPU, or why there is none.

    Raises SlideError, OSError or ValueError if the slide cannot be read.
    """
    reader = source.slide()
    frames: list[Frame] = []
    for view in source.views(0):
        cut = plan_cut(reader, view)
        codec = reader.levels[cut.level].coding.codec
        if codec != "jpeg":
            return f"the tiles are {codec}, not JPEG"
        file = next((file for file in reader.encoded_tiles(cut.level, cut.tiles()) if file is not None), None)
        if file is None:
            return "the first patches have no tile to compare"
        frames.append(read_frame(file))
        if (frames[-1].components, frames[-1].precision) != (3, 8):
            return f"the tiles have {frames[-1].components} components of {frames[-1].precision} bits, not 3 of 8"
    first = EncodedBatches(source, frames).prepare(0)
    return first.unusual or _settled(DeviceDecoder(reader, frames, device), first, source.prepare(0).images)


def _settled(decoder: DeviceDecoder, first: EncodedBatch, expected: Tensor) -> DeviceDecoder | str:
    """The decoder, with chroma interpolated if the first batch then looks as ``expected``; or why it never does."""
    found = []
    for interpolated in (False, True) if any(map(interpolates, decoder.frames)) else (False,):
        decoder.interpolated = interpolated
        try:
            agreement = compare(decoder.images(first), expected)
        except DeviceDecodeError as error:
            return f"the GPU does not decode them ({error})"
        if agreement.good:
            log.info(
                "tiles are decoded on the GPU: %.4f %% of the values of the first batch differ from the CPU's by more "
                "than %d grey levels, none by more than %d",
                100 * agreement.beyond,
                MOST_LEVELS,
                agreement.largest,
            )
            return decoder
        found.append(agreement)
    best = min(found)
    return (
        f"{100 * best.beyond:.2g} % of the values that the GPU decodes differ by more than {MOST_LEVELS} grey levels "
        f"from the CPU's, at most by {best.largest}"
    )


class _Decoded[B: WithImages](NamedTuple):
    """A batch, and the event of a GPU after which its pixels are there."""

    batch: B
    ready: torch.cuda.Event | None

    def arrived(self) -> B:
        """The batch, for use on the current stream."""
        images = self.batch.images
        if self.ready is not None and images.is_cuda:
            current = torch.cuda.current_stream(images.device)
            current.wait_event(self.ready)
            # Its memory belongs to the stream of the thread, which must not use it again too early.
            images.record_stream(current)
        return self.batch


def _ahead[B: WithImages](
    source: SlideSource[B], encoded: Iterator[EncodedBatch], decoder: DeviceDecoder, thread: ThreadPoolExecutor
) -> Iterator[B]:
    """Batches in order, AHEAD of which are decoded by a thread, on a GPU in a stream of its own."""
    stream = torch.cuda.Stream(decoder.device) if decoder.device.type == "cuda" else None

    def one() -> _Decoded[B] | None:
        with torch.no_grad(), torch.cuda.stream(stream):
            batch = next(encoded, None)
            if batch is None:
                return None
            return _Decoded(_decoded(source, batch, decoder), stream.record_event() if stream else None)

    waiting = deque(thread.submit(one) for _ in range(AHEAD))
    while (done := waiting.popleft().result()) is not None:
        waiting.append(thread.submit(one))
        yield done.arrived()


def _decoded[B: WithImages](source: SlideSource[B], batch: EncodedBatch, decoder: DeviceDecoder) -> B:
    """A batch with its pixels; those of the CPU where the device cannot decode it."""
    reason = batch.unusual
    if reason is None:
        try:
            return source.filled(batch.number, decoder.images(batch))
        except DeviceDecodeError as error:
            reason = str(error)
    log.info("batch %d is decoded on the CPU: %s", batch.number, reason)
    return source.prepare(batch.number)
