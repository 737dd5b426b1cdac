"""Runs scripts of cheap jobs by forking them from a warm process, `histomake.planning.fork_server`."""

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

PER_SLIDE = (
    "convert.py",
    "annotate.py",
    "presegment.py",
    "quality.py",
    "tabulate_patches.py",
    "features.py",
    "cells.py",
    "draw_graph.py",
    "overview.py",
    "views.py",
    "export_qupath.py",
    "slide_page.py",
)
"""Scripts that take longer to start than to process a small image. None of them imports torch when it starts: jobs of
features that another job has made need none."""

PER_COHORT = (
    *("split.py", "leakage.py", "training_cohort.py", "quarantine.py", "score.py", "model_card.py"),
    *("catalog.py", "lineage.py", "outliers.py", "front_page.py"),
)
"""Scripts with a job per cohort, task or model, which import what those of a slide do. After a new slide, starting them
would take longer than most of them work."""

PER_PREDICTION = ("predict_slide.py", "predict_features.py", "predict_bag.py", "predict_pixel_bag.py")
"""Scripts that take longer to import torch than to predict a small slide. They have a server of their own."""

PER_GRAPH = ("predict_graph.py",)
"""The same with the library of networks on graphs, whose import takes as long again."""

LIBRARIES_OF_PICTURES = (
    *("imagecodecs._deflate", "imagecodecs._jpeg8", "imagecodecs._zlib", "imagecodecs.zarr"),
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.PpmImagePlugin"),
)
"""Imported by imagecodecs, zarr and Pillow when the first store or picture is read or written."""

LIBRARIES_OF_NETWORKS = ("timm",)
"""Imported by scripts of predictions where they build a network."""


class ScriptForks:
    """Starts the server when enough scripts were run, and runs further ones in forks of it. For many threads.

    The server imports what ``scripts`` import, and the other ``modules``. ``alone`` scripts run without it, because to
    start it takes longer than a script.
    """

    def __init__(self, scripts: Sequence[Path], *, modules: Sequence[str] = (), alone: int) -> None:
        self._imported, self._left_alone, self._lock = [*map(str, scripts), *modules], alone, Lock()
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
        command = [sys.executable, "-P", "-m", "histomake.planning.fork_server", str(theirs.fileno()), *self._imported]
        # Libraries read the number of threads when they are imported, so it is the same for all scripts.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**os.environ, **single})
        return ours


def script_forks(folder: Path) -> list[tuple[list[Path], ScriptForks]]:
    """The scripts that are forked, each list with what runs them; ``folder`` is that of the scripts."""
    groups = (PER_SLIDE + PER_COHORT, PER_PREDICTION, PER_GRAPH)
    without_torch, per_prediction, per_graph = ([folder / name for name in names] for names in groups)
    return [
        (without_torch, ScriptForks(without_torch, modules=LIBRARIES_OF_PICTURES, alone=4)),
        (per_prediction, ScriptForks(per_prediction, modules=LIBRARIES_OF_NETWORKS, alone=1)),
        (per_graph, ScriptForks(per_graph, alone=1)),
    ]
