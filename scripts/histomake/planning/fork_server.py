"""The process that scripts of cheap jobs are forked from, so that each starts in milliseconds.

A script of a step per slide works for a tenth of a second on a small image, but takes a second to import its libraries.
This process imports them once, does nothing else, and forks for every request. A job remains a process of its own, with
its own log, sidecar and benchmark. It is started by `histomake.planning.forked_scripts`, as

    python -P -m histomake.planning.fork_server SOCKET IMPORTED...

where SOCKET is the number of an open socket, and IMPORTED is a script, ending in .py, or a module. A request is one
message: what to run as JSON, with a socket for the answers: the number of the job's process, then its exit status, each
in a line. The server ends when its socket closes.
"""

from __future__ import annotations

import ast
import importlib
import multiprocessing
import os
import random
import runpy
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

MESSAGE_BYTES = 1 << 16
LATE_IMPORTS = ("pandas", "pyarrow.pandas_compat", "snakemake.io", "snakemake.iocontainers", "snakemake.logging")
"""Imported by every script or, as pyarrow does with pandas, when it is used first."""


def main(arguments: list[str]) -> None:
    """Import what the scripts import, then serve requests until the other end of the socket is closed."""
    number, *imported = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted run ends this process by closing the socket
    modules = {name for name in imported if not name.endswith(".py")}
    modules.update(name for script in set(imported) - modules for name in imported_by(Path(script)))
    for name in sorted({*LATE_IMPORTS, *modules}):
        with suppress(ImportError, OSError):  # the script that needs it fails with the same error, in its own log
            importlib.import_module(name)
    context = multiprocessing.get_context("fork")
    with socket.socket(fileno=int(number)) as requests:
        while True:
            message, handles, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 1)
            if not message:
                return
            with socket.socket(fileno=handles[0]) as answers:
                # Starting a process also removes those that have ended.
                context.Process(target=_run, args=(msgspec.json.decode(message, type=Request), answers)).start()


def imported_by(script: Path) -> set[str]:
    """Modules that a script imports when it starts."""
    found: set[str] = set()
    for statement in ast.parse(script.read_text()).body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            found.add(statement.module)
        elif isinstance(statement, ast.Import):
            found.update(alias.name for alias in statement.names)
    return found


class Request(msgspec.Struct):
    """A script to run, and variables that are added to the environment."""

    script: str
    environment: dict[str, str]


def _run(request: Request, answers: socket.socket) -> None:
    """Run a script in this process, which was forked for it, as ``python SCRIPT`` would."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answers.sendall(f"{os.getpid()}\n".encode())
    os.environ.update(request.environment)
    tempfile.tempdir = None  # chosen again, from the environment
    random.seed()
    sys.argv = [request.script]
    status = 1
    try:
        runpy.run_path(request.script, run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    finally:
        answers.sendall(f"{status}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
