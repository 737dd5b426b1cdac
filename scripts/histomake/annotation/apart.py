"""Reading of a user's file in a separate process, which may crash, hang or request any amount of memory."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

import psutil

from histomake.annotation.drawn import AnnotationError

MEGABYTE = 1 << 20
FAILED = b"!"
"""First byte of an answer that is a traceback."""


class WorkError(RuntimeError):
    """The work raised an exception; the message is its traceback."""


def apart(work: Callable[[], bytes], *, memory_mb: int, seconds: float) -> bytes:
    """Do some work in a child process and return what it returns.

    Args:
        work: runs in the child. What it writes to files remains.
        memory_mb: most memory that the child may allocate, in MB, beyond what it shares with this process.
        seconds: time after which the child is ended.

    Raises:
        AnnotationError: The child took too long or crashed.
        WorkError: The work raised an exception.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(work, sender, memory_mb), daemon=True)
    with warnings.catch_warnings():
        # Libraries have started threads that compute nothing now and hold no lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    sender.close()
    try:
        answer = receiver.recv_bytes() if receiver.poll(seconds) else None
    except EOFError:
        answer = b""
    finally:
        receiver.close()
        if child.is_alive() and not answer:
            child.kill()
        child.join()
    if answer is None:
        raise AnnotationError(
            f"reading the file took longer than {seconds:.0f} s", "Simplify its outlines, or export a label mask"
        )
    if not answer:
        raise AnnotationError(f"a library crashed while it read the file ({_end(child.exitcode)})")
    if answer[:1] == FAILED:
        raise WorkError(answer[1:].decode())
    return answer[1:]


def _work(work: Callable[[], bytes], sender: Connection, memory_mb: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # The limit counts what is shared, too. A thread that could not get its memory would never start, nor fail.
    shared = psutil.Process().memory_info().data
    resource.setrlimit(resource.RLIMIT_DATA, (shared + memory_mb * MEGABYTE, hard))
    try:
        answer = b"=" + work()
    except Exception:  # noqa: BLE001 (the parent raises it)
        answer = FAILED + traceback.format_exc().encode()
    sender.send_bytes(answer)


def _end(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
