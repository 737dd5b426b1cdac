"""Batches by number, and the memory that holds their arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from torch import Tensor

    from histomake.learn.data.device_patches import View
    from histomake.slide.reader import SlideReader

ALIGNMENT = 64
"""Bytes; arrays in a room begin on multiples of it."""


class Room:
    """Memory for the arrays of one batch: a part of ``memory`` (uint8), or new memory for each where it is None."""

    def __init__(self, memory: NDArray[np.uint8] | None = None) -> None:
        self._memory, self._used = memory, 0

    def array(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """An array whose values are still undefined. Raises ValueError when the memory is used up."""
        if self._memory is None:
            return np.empty(shape, dtype)
        start, self._used = self._used, self._used + needed(shape, dtype)
        if self._used > self._memory.nbytes:
            raise ValueError(f"the arrays of a batch need more than the {self._memory.nbytes} bytes of their room")
        values = self._memory[start : start + int(np.prod(shape)) * np.dtype(dtype).itemsize]
        return values.view(dtype).reshape(shape)


NEW = Room()
"""New memory for each array."""


def needed(shape: Sequence[int], dtype: DTypeLike) -> int:
    """Bytes that an array takes in a room."""
    return -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT


class BatchSource[B](ABC):
    """Batches by number. ``B`` is a dataclass, not frozen, whose tensors may be views of arrays of a room."""

    @property
    @abstractmethod
    def room_bytes(self) -> int:
        """Bytes that the largest batch takes from its room."""

    @abstractmethod
    def prepare(self, number: int, room: Room = NEW) -> B:
        """The batch with this number, a function of the number alone; its large arrays are taken from ``room``."""

    def __getitem__(self, number: int) -> B:
        return self.prepare(number)


class WithImages(Protocol):
    """A batch with pixels uint8 (n, h, w, 3 · views)."""

    images: Tensor


class SlideSource[B: WithImages](BatchSource[B]):
    """Batches of patches of one slide, whose pixels can also be decoded elsewhere (`device_reading`)."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def on_cpu_only(self) -> str | None:
        """The step on the way to a batch's pixels that is done on the CPU only, in words; None if there is none."""

    @abstractmethod
    def slide(self) -> SlideReader:
        """The reader of the slide."""

    @abstractmethod
    def views(self, number: int) -> Sequence[View]:
        """Where the patches of a batch lie, by view; the channels of all views are those of the batch."""

    @abstractmethod
    def filled(self, number: int, images: Tensor) -> B:
        """The batch with this number, with pixels uint8 (n, h, w, 3 · views) that were decoded elsewhere."""
