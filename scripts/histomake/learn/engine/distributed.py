"""Owns training on several GPUs of one node: processes started by torchrun, and what they tell each other."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from histomake.base.errors import HistomakeError
from histomake.base.files import read_json, write_json
from histomake.learn.data.patch_index import SlideEntry

LAUNCH = "launch.json"


def rank() -> int:
    """Number of this process among those of the run; 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes share each step."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The GPU of this process."""
    return int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Each flag, true for all processes as soon as it is for one: they must act in the same step."""
    if size() == 1:
        return flags
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    shared = torch.tensor([int(flag) for flag in flags], device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in shared.tolist())


def from_first(value: Any) -> Any:
    """The first process's value, for all: a plain, small object. The others wait for it."""
    if size() == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def launch(folder: Path, job: dict[str, Any], *, processes: int) -> None:
    """Run ``python -m histomake.learn.engine.distributed`` in ``processes`` processes and wait for them.

    ``job``: arguments of ``train``, JSON but for the slide entries. Raises HistomakeError when one of them fails;
    its log says why.
    """
    from torch.distributed.run import main

    roles = {role: [_plain(entry) for entry in job[role]] for role in ("train", "val")}
    write_json(folder / LAUNCH, job | roles)
    arguments = ["--standalone", f"--nproc-per-node={processes}", "-m", "histomake.learn.engine.distributed"]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), before]))
    try:
        main([*arguments, str(folder / LAUNCH)])
    except torch.distributed.elastic.multiprocessing.errors.ChildFailedError as error:
        raise HistomakeError(f"training on {processes} processes failed; see the log above: {error}") from error
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _plain(entry: SlideEntry) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(entry).items()}


def _entry(plain: dict[str, Any]) -> SlideEntry:
    paths = {key: plain[key] and Path(plain[key]) for key in ("manifest", "table", "annotation")}
    return SlideEntry(**{**plain, **paths})


def _work(path: Path) -> None:
    """One process of a launched run."""
    import logging

    from histomake.config import Task
    from histomake.learn.train import fit

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    job = read_json(path)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        fit(
            Task.model_validate(job["task"]),
            train=[_entry(plain) for plain in job["train"]],
            val=[_entry(plain) for plain in job["val"]],
            output=Path(job["output"]),
            state=Path(job["state"]),
            seed=job["seed"],
            threads=job["threads"],
        )
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
