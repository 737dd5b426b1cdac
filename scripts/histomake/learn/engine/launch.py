"""Runs one function in several processes, one per GPU of the node, started by torchrun."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import msgspec
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

import histomake
from histomake.base.errors import HistomakeError
from histomake.base.files import write_json
from histomake.learn.engine import distributed

CALL = "launch.json"


class Call(msgspec.Struct):
    """A function of a module, and its arguments."""

    module: str
    function: str
    arguments: dict[str, object]


def launch(function: Callable[..., None], arguments: Mapping[str, object], *, folder: Path, processes: int) -> None:
    """Call ``function(**arguments)`` in ``processes`` processes that form one run and wait for them.

    Each process imports ``function``, which is defined at the top level of a module. ``arguments`` are JSON, passed in
    a file in ``folder``. Raises HistomakeError when a process fails; its log says why.
    """
    from torch.distributed.run import main

    call = Call(function.__module__, function.__qualname__, dict(arguments))
    write_json(folder / CALL, msgspec.to_builtins(call))
    options = ["--standalone", f"--nproc-per-node={processes}", "-m", __name__]
    before = os.environ.get("PYTHONPATH")
    library = str(Path(histomake.__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [library, before]))
    try:
        main([*options, str(folder / CALL)])
    except ChildFailedError as error:
        raise HistomakeError(f"training in {processes} processes failed; see the log above: {error}") from error
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _call(path: Path) -> None:
    """Run one process of a launched run."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    call = msgspec.json.decode(path.read_bytes(), type=Call)
    distributed.join()
    try:
        getattr(import_module(call.module), call.function)(**call.arguments)
    finally:
        distributed.leave()


if __name__ == "__main__":
    _call(Path(sys.argv[1]))
