"""Owns loader processes: batches prepared ahead of their use, and the memory through which pixels come.

Pixels go through slots of shared memory that are made once and used again and again: the training process copies
nothing, maps nothing and unpickles a few numbers a batch. Sent one by one as shared tensors, as DataLoader does by
itself, batches of 64 patches cost a fast GPU a quarter of its time, most of it spent waiting for Python's lock.
"""

from __future__ import annotations

import mmap
import signal
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from histomake.learn.data.batches import Batch, BatchDataset
from histomake.patch.augment import Parameters

PREFETCH = 4
"""Batches that each loader process keeps ready, or fewer: see MOST_READY."""

MOST_READY = 32
"""Batches that many processes together keep ready, at two each or more: their memory is made before the first."""

HELD = 3
"""Batches whose pixels stay as they are: the one in use and those that a GPU may not have copied yet."""


class Slots:
    """Room for ``count`` batches of a dataset, shared with processes that are forked later.

    Anonymous memory and not /dev/shm, of which containers have 64 MB.
    """

    def __init__(self, dataset: BatchDataset, count: int) -> None:
        pixels, masks = dataset.pixel_shape, dataset.mask_shape
        sizes = [int(np.prod(pixels)), 2 * int(np.prod(masks)) if masks else 0]
        stride = -(-sum(sizes) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.room = np.frombuffer(mmap.mmap(-1, max(1, count) * stride), np.uint8).reshape(max(1, count), stride)
        self.pixels = self.room[:, : sizes[0]].reshape(-1, *pixels)
        self.masks = self.room[:, sizes[0] : sum(sizes)].view(np.int16).reshape(-1, *masks) if masks else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Page-locked for a while, so that a GPU copies from the slots while it computes."""
        address = self.room.ctypes.data
        cuda = torch.cuda.cudart() if torch.cuda.is_available() else None
        if cuda is not None:
            torch.cuda.check_error(int(cuda.cudaHostRegister(address, self.room.nbytes, 0)))
        try:
            yield
        finally:
            if cuda is not None:
                torch.cuda.synchronize()
                torch.cuda.check_error(int(cuda.cudaHostUnregister(address)))


class _Prepared(Dataset):
    """What a loader process sends: batches without their pixels, which it has put into a slot; nothing is a tensor."""

    def __init__(self, dataset: BatchDataset, slots: Slots, first: int) -> None:
        self.dataset, self.slots, self.first = dataset, slots, first

    def slot(self, step: int) -> int:
        return (step - self.first) % len(self.slots.pixels)

    def __getitem__(self, step: int) -> Batch:
        slot = self.slot(step)
        batch = self.dataset.prepare(step, self.slots.pixels[slot])
        target = batch.target.numpy()
        if self.slots.masks is not None:
            self.slots.masks[slot, : len(target)] = target
            target = None
        parameters = batch.parameters and {
            name: value.numpy() if isinstance(value, torch.Tensor) else value
            for name, value in vars(batch.parameters).items()
        }
        return replace(batch, images=None, target=target, parameters=parameters)

    def attach(self, batch: Batch) -> Batch:
        """The batch as tensors, in the process that asked for it; pixels are views of the slot."""
        slot, count = self.slot(batch.step), len(batch.index)
        target = self.slots.masks[slot, :count] if batch.target is None else batch.target
        parameters = batch.parameters and Parameters(
            **{
                name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
                for name, value in batch.parameters.items()
            }
        )
        images = torch.from_numpy(self.slots.pixels[slot, :count])
        return replace(batch, images=images, target=torch.from_numpy(target), parameters=parameters)


@contextmanager
def load_batches(dataset: BatchDataset, steps: range, *, workers: int) -> Iterator[Iterator[Batch]]:
    """Batches ``steps`` of ``dataset`` in order, prepared by ``workers`` processes that end with the context.

    Pixels and masks of a batch are there until HELD further batches have been asked for, then it has none: copy what is
    to be kept. What a GPU was told to do with them is waited for.
    """
    batches = _load(dataset, steps, workers) if workers else map(dataset.prepare, steps)
    try:
        yield batches
    finally:
        if workers:
            batches.close()


def _load(dataset: BatchDataset, steps: range, workers: int) -> Generator[Batch]:
    ready = max(2, min(PREFETCH, MOST_READY // workers))
    slots = Slots(dataset, min(len(steps), workers * ready + HELD))
    prepared = _Prepared(dataset, slots, steps.start)
    loader = DataLoader(
        prepared,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=ready,
        multiprocessing_context="fork",
        worker_init_fn=_leave_signals,
        collate_fn=_as_it_is,
    )
    arriving = iter(loader)
    try:
        # Locked after the fork: the processes' own view of the memory stays ordinary.
        with slots.locked():
            yield from _attached(arriving, prepared)
    finally:
        # Not left to the garbage collector: an error on its way holds the iterator, and its processes ignore the
        # signal with which Python ends what is left at its exit. The job would hang.
        arriving._shutdown_workers()


def _attached(arriving: Iterator[Batch], prepared: _Prepared) -> Iterator[Batch]:
    held: deque[tuple[Batch, torch.cuda.Event | None]] = deque()
    for sent in arriving:
        batch = prepared.attach(sent)
        yield batch
        held.append((batch, _passed()))
        if len(held) == HELD:
            _let_go(*held.popleft())


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _passed() -> torch.cuda.Event | None:
    """A mark behind all that the GPU has been told to do so far."""
    if not torch.cuda.is_available():
        return None
    event = torch.cuda.Event()
    event.record()
    return event


def _let_go(batch: Batch, used: torch.cuda.Event | None) -> None:
    """Give a batch's slot back once the GPU has copied it. Who kept the batch finds no pixels in it, not another's."""
    if used is not None:
        used.synchronize()
    batch.images, batch.target = batch.images[:0], batch.target[:0]


def _leave_signals(_worker: int) -> None:
    """Slurm signals every process of a job; only the training process answers, and it ends its loaders itself."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
