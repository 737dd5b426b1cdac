"""Communication between the processes of a run. With a single process, nothing is sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 32 << 20
"""Gradients are exchanged in buckets of about this size: many small messages would cost more than their bytes."""


def rank() -> int:
    """Number of this process within the run; 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes that share each step."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The GPU of this process."""
    return int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0


def join() -> None:
    """Join the run that torchrun started. CPU tensors are exchanged over gloo, so that the GPU is not involved."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def leave() -> None:
    """Leave the run."""
    dist.destroy_process_group()


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Return each flag, true if it is true in any process, so that all processes act in the same step."""
    if size() == 1:
        return flags
    shared = torch.tensor([int(flag) for flag in flags])
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in shared.tolist())


def from_first[T](value: T) -> T:
    """Return the first process's value in all processes, which wait for it. It must be small and picklable."""
    if size() == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def to_first[T](value: T) -> list[T]:
    """Return the values of all processes in the first one, and an empty list in the others."""
    if size() == 1:
        return [value]
    gathered: list[T | None] | None = [None] * size() if rank() == 0 else None
    dist.gather_object(value, gathered, dst=0)
    return gathered or []  # type: ignore[return-value]


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    if size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over all processes.

    The parameters that have a gradient must be the same in every process. Unlike DistributedDataParallel this works
    for any number of networks and backward passes per step, but does not overlap with the backward pass.
    """
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    waiting = []
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        waiting.append((dist.all_reduce(flat, async_op=True), flat, bucket))
    for work, flat, bucket in waiting:
        work.wait()
        flat /= size()
        for gradient, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Group adjacent tensors of one type into buckets of at most BUCKET_BYTES, or of one larger tensor."""
    for _, same in groupby(tensors, lambda tensor: (tensor.dtype, tensor.device)):
        bucket: list[Tensor] = []
        for tensor in same:
            if bucket and sum(t.nbytes for t in [*bucket, tensor]) > BUCKET_BYTES:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket
