"""Which GPUs a job uses: jobs that run on one machine at the same time take different ones.

A claim is the name of a socket in Linux's abstract namespace. The kernel gives a name to one process at a time, and
frees it when the process ends, also if it is killed; no file is left. Names are shared by all users and by all
containers with the network of the machine.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ctypes import CDLL, byref, c_int, c_void_p, create_string_buffer
from itertools import count

VISIBLE = "CUDA_VISIBLE_DEVICES"
NVML = "libnvidia-ml.so.1"
UUID_BYTES = 96


@contextmanager
def own_gpus(asked: int) -> Iterator[list[str]]:
    """Let this process and its children see ``asked`` GPUs, those that the fewest other jobs use; yields their names.

    Of the GPUs that CUDA_VISIBLE_DEVICES lists, if it is set. Where there are no more than ``asked``, all are taken.
    CUDA reads the variable once, when it is first used, so it must not have been used before. Without a GPU, or if none
    is asked for, nothing changes.
    """
    before = os.environ.get(VISIBLE)
    with ExitStack() as claims:
        taken = claim(asked, visible(before, installed()), claims) if asked else []
        if taken:
            os.environ[VISIBLE] = ",".join(taken)
        try:
            yield taken
        finally:
            if taken and before is None:
                del os.environ[VISIBLE]
            elif taken:
                os.environ[VISIBLE] = before or ""


def claim(number: int, gpus: Mapping[str, str], claims: ExitStack) -> list[str]:
    """Names of ``number`` GPUs, or of all if there are fewer. They are claimed until ``claims`` closes.

    A GPU that nobody uses comes first, then one that a single job uses, and so on: a job never waits. How many jobs run
    at once is decided by Snakemake's ``--resources gpu=N``.

    Args:
        number: How many GPUs.
        gpus: Identity of each GPU by its name in CUDA_VISIBLE_DEVICES.
        claims: Where the claims are held.
    """
    taken: set[str] = set()
    for user in count():
        for name, identity in gpus.items():
            if len(taken) < number and name not in taken and _hold(f"{identity}/{user}", claims):
                taken.add(name)
        if len(taken) >= min(number, len(gpus)):
            break
    return [name for name in gpus if name in taken]


def _hold(name: str, claims: ExitStack) -> bool:
    """Hold a name that no other process on this machine holds; False if one does."""
    place = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        place.bind(f"\0histomake-gpu/{name}")
    except OSError as error:
        place.close()
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    claims.enter_context(place)
    return True


def visible(listed: str | None, uuids: Sequence[str]) -> dict[str, str]:
    """UUID of each GPU that CUDA will find, by its name in CUDA_VISIBLE_DEVICES.

    As CUDA does, this ends at the first name that is none of a GPU. A part of a card (MIG) has an identity of its own.

    Args:
        listed: Value of CUDA_VISIBLE_DEVICES: numbers, UUIDs or beginnings of UUIDs; None if it is not set.
        uuids: UUIDs of the machine's GPUs, by number.
    """
    if listed is None:
        return {uuid: uuid for uuid in uuids}
    found: dict[str, str] = {}
    for name in map(str.strip, listed.split(",")):
        if name.startswith("MIG-"):
            found[name] = name
            continue
        matching = [uuid for uuid in uuids if name.startswith("GPU-") and uuid.startswith(name)]
        if name.isdecimal():
            matching = list(uuids[int(name) : int(name) + 1])
        if len(matching) != 1:
            break
        found[name] = matching[0]
    return found


def installed() -> list[str]:
    """UUIDs of the NVIDIA GPUs that this process may use, by number; CUDA itself is not used for that."""
    try:
        nvml = CDLL(NVML)
    except OSError:
        return []
    number = c_int()
    if nvml.nvmlInit_v2():
        return []
    try:
        return [] if nvml.nvmlDeviceGetCount_v2(byref(number)) else [_uuid(nvml, i) for i in range(number.value)]
    finally:
        nvml.nvmlShutdown()


def _uuid(nvml: CDLL, number: int) -> str:
    """UUID of a GPU; one that NVML cannot describe is identified by its number."""
    gpu, text = c_void_p(), create_string_buffer(UUID_BYTES)
    if nvml.nvmlDeviceGetHandleByIndex_v2(number, byref(gpu)) or nvml.nvmlDeviceGetUUID(gpu, text, UUID_BYTES):
        return str(number)
    return text.value.decode()
