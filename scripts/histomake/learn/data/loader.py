"""Loader processes: batches prepared in advance, and the shared memory that transfers their arrays.

Large arrays go through slots of shared memory that are allocated once and reused: the training process copies nothing,
maps nothing and unpickles a few numbers per batch. Sent one by one as shared tensors, which is DataLoader's own way,
batches of 64 patches cost a fast GPU a quarter of its time, most of it spent waiting for Python's lock.
"""

from __future__ import annotations

import mmap
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from histomake.learn.data.source import BatchSource, Room

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREFETCH = 4
"""Batches that each loader process keeps ready, or fewer: see MOST_READY."""

MOST_READY = 32
"""Batches that many processes together keep ready, at two each or more: their memory is allocated before the first."""

HELD = 3
"""Batches whose arrays stay valid: the one in use and those that a GPU may not have copied yet."""


class Slots:
    """Room for ``count`` batches of a source, shared with processes that are forked later.

    Anonymous memory instead of /dev/shm, of which containers have 64 MB.
    """

    def __init__(self, source: BatchSource[Any], count: int) -> None:
        stride = -(-max(1, source.room_bytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = np.frombuffer(mmap.mmap(-1, max(1, count) * stride), np.uint8).reshape(max(1, count), stride)

    def __getitem__(self, position: int) -> NDArray[np.uint8]:
        """The slot of the ``position``-th batch."""
        return self.memory[position % len(self.memory)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Page-lock the slots for a while, so that a GPU copies from them while it computes."""
        address = self.memory.ctypes.data
        cuda = torch.cuda.cudart() if torch.cuda.is_available() else None
        if cuda is not None:
            torch.cuda.check_error(int(cuda.cudaHostRegister(address, self.memory.nbytes, 0)))
        try:
            yield
        finally:
            if cuda is not None:
                torch.cuda.synchronize()
                torch.cuda.check_error(int(cuda.cudaHostUnregister(address)))


@dataclass(frozen=True)
class _InSlot:
    """Placeholder for a tensor whose values lie in the batch's slot."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _Sent:
    """Placeholder for a tensor that is sent as an array: pickled tensors would open files in shared memory."""

    values: NDArray[Any]


def _pack(value: Any, slot: NDArray[np.uint8]) -> Any:
    """``value`` without its tensors, also those of nested dataclasses."""
    if isinstance(value, Tensor):
        array = value.numpy()
        offset = array.ctypes.data - slot.ctypes.data
        if 0 <= offset < slot.nbytes and array.flags.c_contiguous:
            return _InSlot(offset, array.shape, array.dtype.str)
        return _Sent(array)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _pack(getattr(value, f.name), slot) for f in fields(value)})
    return value


def _unpack(value: Any, slot: NDArray[np.uint8]) -> Any:
    """The inverse of `_pack`; tensors in the slot are views of it."""
    if isinstance(value, _InSlot):
        count = int(np.prod(value.shape)) * np.dtype(value.dtype).itemsize
        return torch.from_numpy(slot[value.offset : value.offset + count].view(value.dtype).reshape(value.shape))
    if isinstance(value, _Sent):
        return torch.from_numpy(value.values)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _unpack(getattr(value, f.name), slot) for f in fields(value)})
    return value


class _Prepared(Dataset[Any]):
    """What a loader process sends: batches without their tensors, some of which it has put into a slot."""

    def __init__(self, source: BatchSource[Any], slots: Slots, first: int) -> None:
        self.source, self.slots, self.first = source, slots, first

    def __getitem__(self, number: int) -> Any:
        slot = self.slots[number - self.first]
        return _pack(self.source.prepare(number, Room(slot)), slot)


@contextmanager
def load_batches[B](source: BatchSource[B], numbers: range, *, workers: int) -> Iterator[Iterator[B]]:
    """Batches ``numbers`` of ``source`` in order, prepared by ``workers`` processes that live as long as the context.

    They begin at once, before the first batch is asked for. The tensors of a batch are valid until HELD further batches
    have been asked for, then they are empty: copy what is to be kept. Copies to a GPU that were asked for by then are
    waited for.
    """
    if not workers:
        yield map(source.prepare, numbers)
        return
    ready = max(2, min(PREFETCH, MOST_READY // workers))
    slots = Slots(source, min(len(numbers), workers * ready + HELD))
    loader = DataLoader(
        _Prepared(source, slots, numbers.start),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=ready,
        multiprocessing_context="fork",
        worker_init_fn=_ignore_signals,
        collate_fn=_as_it_is,
    )
    arriving = iter(loader)
    try:
        # Locked after the fork: the processes' own view of the memory stays ordinary.
        with slots.locked():
            yield _attached(arriving, slots)
    finally:
        # Not left to the garbage collector: a propagating exception holds the iterator, and its processes ignore the
        # signal with which Python ends remaining processes at exit. The job would hang.
        arriving._shutdown_workers()  # type: ignore[attr-defined]


def _attached[B](arriving: Iterator[B], slots: Slots) -> Iterator[B]:
    held: deque[tuple[B, NDArray[np.uint8], torch.cuda.Event | None]] = deque()
    for position, sent in enumerate(arriving):
        batch: B = _unpack(sent, slots[position])
        yield batch
        held.append((batch, slots[position], _passed()))
        if len(held) == HELD:
            _let_go(*held.popleft())


def _as_it_is[B](batch: B) -> B:
    return batch


def _passed() -> torch.cuda.Event | None:
    """An event behind all work that the GPU has been given so far."""
    if not torch.cuda.is_available():
        return None
    event = torch.cuda.Event()
    event.record()
    return event


def _let_go(batch: Any, slot: NDArray[np.uint8], used: torch.cuda.Event | None) -> None:
    """Free a batch's slot once the GPU has copied it. Code that kept the batch then finds it empty."""
    if used is not None:
        used.synchronize()
    for each in fields(batch):
        value = getattr(batch, each.name)
        if isinstance(value, Tensor) and 0 <= value.data_ptr() - slot.ctypes.data < slot.nbytes:
            setattr(batch, each.name, value[:0])


def _ignore_signals(_worker: int) -> None:
    """Slurm signals every process of a job; only the training process answers, and it ends its loaders itself."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
