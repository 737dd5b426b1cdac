"""Runs scripts of cheap jobs by forking them from one warm process, `histomake.planning.fork_server`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock

PER_SLIDE = ("convert.py", "annotate.py", "presegment.py", "quality.py", "tabulate_patches.py")
"""Scripts that take longer to start than to process a small image. None of them imports torch."""

ALONE = 4
"""Scripts that a run starts before it starts the server, which takes as long as two of them."""


class ScriptForks:
    """Starts the server when enough scripts were run, and runs further ones in forks of it. For many threads."""

    def __init__(self, scripts: Sequence[Path], *, alone: int = ALONE) -> None:
        self._scripts, self._left_alone, self._lock = list(map(str, scripts)), alone, Lock()
        self._requests: socket.socket | None = None

    def wanted(self) -> bool:
        """Whether the next script is to be run by this object, and not as a process like any other."""
        with self._lock:
            self._left_alone -= 1
            return self._left_alone < 0

    def run(
        self, script: str, environment: Mapping[str, str], watch: Callable[[int], AbstractContextManager[object]]
    ) -> int:
        """Run a script and return its exit status; minus the signal if it was killed, as far as that is known.

        ``environment`` is added to that of the server; ``watch`` is entered with the number of the job's process.
        """
        ours, theirs = socket.socketpair()
        with ours, ours.makefile("rb") as answers:
            with theirs:
                self._ask(json.dumps({"script": script, "environment": dict(environment)}).encode(), theirs)
            process = answers.readline()
            if not process:
                raise RuntimeError("the process that starts scripts has ended; run the workflow again")
            with watch(int(process)):
                status = answers.readline()
        return int(status) if status else -signal.SIGKILL

    def close(self) -> None:
        """End the server, if it was started; it also ends when this process does."""
        with self._lock:
            if self._requests is not None:
                self._requests.close()
                self._requests = None

    def _ask(self, message: bytes, answers: socket.socket) -> None:
        with self._lock:
            if self._requests is None:
                self._requests = self._start()
            socket.send_fds(self._requests, [message], [answers.fileno()])

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "histomake.planning.fork_server", str(theirs.fileno()), *self._scripts]
        # Libraries read the number of threads when they are imported, so it is the same for all scripts.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**os.environ, **single})
        return ours
