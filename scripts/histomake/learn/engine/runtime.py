"""Where and how numbers are computed: device, threads, mixed precision, memory, and signals that end a job early."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np
import torch

from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.rng import MODEL, counter_rng

log = logging.getLogger(__name__)


class PreemptedError(HistomakeError):
    """The job was asked to stop. Its state is saved, and the next run continues from it."""


@dataclass(frozen=True)
class Runtime:
    """device: cpu or cuda; dtype: of autocast, float32 for none; scaled: whether the loss is scaled, as fp16 needs."""

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
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = True
        auto = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    else:
        device, auto = torch.device("cpu"), torch.float32
        if precision == "fp16":
            raise ConfigError("train.precision: fp16 needs a GPU; use auto, fp32 or bf16 on a CPU")
    dtypes = {"auto": auto, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return Runtime(device, dtypes[precision])


def default_workers(configured: int | None, threads: int) -> int:
    """Number of loader processes: as configured, else the job's threads but the one that trains."""
    return max(0, threads - 1) if configured is None else configured


def seed_step(seed: int, *, worker: int, step: int) -> None:
    """Seed torch's generators (dropout, drop path) for one step, so that no generator state needs saving."""
    torch.manual_seed(int(counter_rng(seed, worker=worker, step=step, stream=MODEL).integers(0, np.int64(2**62))))


class Interrupts:
    """Which signals have arrived. SIGUSR1 asks for a checkpoint; SIGTERM for a checkpoint and the end."""

    def __init__(self) -> None:
        self.save = False
        self.stop = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Record the signal; the loop acts on it between two steps."""
        self.save = True
        self.stop = self.stop or number == signal.SIGTERM


@contextmanager
def catch_interrupts() -> Iterator[Interrupts]:
    """Record SIGTERM and SIGUSR1 instead of ending; outside the main thread, where none arrive, do nothing."""
    interrupts = Interrupts()
    try:
        previous = {n: signal.signal(n, interrupts.handle) for n in (signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:
        log.info("not in the main thread: signals keep their handlers")
        previous = {}
    try:
        yield interrupts
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


NO_MEMORY = ("can't allocate memory", "out of memory", "CUDNN_STATUS_ALLOC_FAILED")
LOST_LOADER = "DataLoader worker"


@contextmanager
def advise_on_memory(advice: str) -> Iterator[None]:
    """Raise HistomakeError with ``advice``, what was attempted and what to change, when memory runs out.

    A loader process that ends by itself was killed, and the kernel or Slurm kill one process of a job for its memory.
    torch may report that at any moment, so it is recognised here.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first, *_ = str(error).splitlines() or [""]
        if LOST_LOADER in first:
            raise HistomakeError(
                f"a loader process was killed, most likely because the job ran out of memory: give the job more "
                f"(mem_mb, --set-resources), or lower train.workers. ({first})"
            ) from error
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in first for words in NO_MEMORY):
            raise HistomakeError(f"out of memory {advice}. ({first})") from error
        raise
