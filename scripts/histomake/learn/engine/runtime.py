"""Owns where and how numbers are computed: device, threads, mixed precision, and signals that end a job early."""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np
import torch
from torch import Tensor

from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.rng import MODEL, counter_rng
from histomake.config import Train

log = logging.getLogger(__name__)


class PreemptedError(HistomakeError):
    """The job was told to end; its state is saved and the next run goes on from there."""


@dataclass(frozen=True)
class Runtime:
    """device: cpu or cuda; dtype: of autocast, float32 for none; scaled: fp16 needs its loss scaled."""

    device: torch.device
    dtype: torch.dtype

    @property
    def scaled(self) -> bool:
        return self.dtype == torch.float16

    def autocast(self) -> torch.autocast:
        """Mixed precision for the forward pass; a no-op in float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def choose_runtime(precision: str, *, threads: int, index: int = 0) -> Runtime:
    """The GPU if there is one, else the CPU with ``threads`` threads; raises ConfigError for fp16 on a CPU."""
    torch.set_num_threads(max(1, threads))
    if torch.cuda.is_available():
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        torch.backends.cudnn.benchmark = True
        auto = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    else:
        device, auto = torch.device("cpu"), torch.float32
        if precision == "fp16":
            raise ConfigError("train.precision: fp16 needs a GPU; use auto, fp32 or bf16 on a CPU")
    dtypes = {"auto": auto, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return Runtime(device, dtypes[precision])


def default_workers(train: Train, threads: int) -> int:
    """Loader processes: as configured, else the job's threads less the one that trains."""
    return max(0, threads - 1) if train.workers is None else train.workers


def seed_step(seed: int, *, worker: int, step: int) -> None:
    """Fix torch's generators (dropout, drop path) for one step, so that no generator state needs saving."""
    torch.manual_seed(int(counter_rng(seed, worker=worker, step=step, stream=MODEL).integers(0, np.int64(2**62))))


class Interrupts:
    """Which signals have arrived. SIGUSR1 asks for a checkpoint; SIGTERM for a checkpoint and the end."""

    def __init__(self) -> None:
        self.save = False
        self.stop = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Only note the signal: the loop acts between two steps."""
        self.save = True
        self.stop = self.stop or number == signal.SIGTERM


@contextmanager
def catch_interrupts() -> Iterator[Interrupts]:
    """Note SIGTERM and SIGUSR1 instead of dying; outside the main thread, where none arrive, do nothing."""
    interrupts = Interrupts()
    try:
        previous = {n: signal.signal(n, interrupts.handle) for n in (signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:
        log.info("not in the main thread: signals are left alone")
        previous = {}
    try:
        yield interrupts
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def to_unit(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (n, h, w, c) → float (n, c, h, w) in [0, 1] on ``device``, channels last without a copy."""
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def standardise(images: Tensor, normalisation: dict[str, list[float]]) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel of float (n, 3 · views, h, w)."""
    views = images.shape[1] // 3
    mean, std = (_channel_values(tuple(normalisation[key]) * views, images.device) for key in ("mean", "std"))
    return (images - mean) / std


@functools.cache
def _channel_values(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(1, c, 1, 1), copied to the device once: a copy per step would wait for the GPU."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


NO_MEMORY = ("can't allocate memory", "out of memory", "CUDNN_STATUS_ALLOC_FAILED")
LOST_LOADER = "DataLoader worker"


@contextmanager
def advise_on_memory(advice: str) -> Iterator[None]:
    """Turn running out of memory into ``advice``: what was attempted, and what to change.

    A loader process that ended by itself was killed, and what kills one process of a job is the kernel or Slurm, for
    memory. torch may notice it at any moment, so it is told apart here.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first, *_ = str(error).splitlines() or [""]
        if LOST_LOADER in first:
            raise HistomakeError(
                f"a process that reads patches was killed, most likely because the job's memory was used up: give the "
                f"job more (mem_mb, --set-resources), or lower train.workers. ({first})"
            ) from error
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in first for words in NO_MEMORY):
            raise HistomakeError(f"out of memory {advice}. ({first})") from error
        raise
