"""Context of a rule's job: its log and its sidecar. It does not affect results, so code digests exclude it."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

import msgspec

from histomake.audit import environment
from histomake.audit.code import require_library
from histomake.audit.gpus import own_gpus
from histomake.base.addresses import address_of
from histomake.base.errors import HistomakeError
from histomake.base.file_cache import FileCache
from histomake.base.files import HASH_THREADS, in_threads, sha256_file, sha256_tree, size_of, store_of
from histomake.base.records.record import Quarantined
from histomake.base.records.sidecar import Sidecar

log = logging.getLogger("histomake")

SIDECAR = ".meta.json"
HASHED_BYTES = 64_000_000


class _OutputDigests(msgspec.Struct):
    """The part of a sidecar that has the digests of the outputs."""

    outputs: dict[str, str] = {}


class Done(dict[str, str]):
    """What the work of a job knows.

    Digests of outputs, by path; the slides whose damage it has met (``lost``); what it leaves for the next job of its
    rule (``caches``); and what it continues from (``continued``).
    """

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[Quarantined] = []
        self.caches: list[Path] = []
        self.continued: list[Path] = []

    def continue_from(self, state: Path) -> Path:
        """Note that a training will continue from the checkpoints in a folder, if there are any; returns the folder."""
        if state.is_dir() and any(state.iterdir()):
            self.continued.append(state)
        return state


@contextmanager
def job(snakemake: Any, cache: FileCache | None = None, *, compare: Iterable[str] = ()) -> Iterator[Done]:
    """Run a rule's work: log to its log file and to stderr, and leave a sidecar next to its first output.

    Yields an object for digests of outputs that the work knows already, which are not computed again, and for the
    slides that were quarantined here, after their conversion.

    An error meant for the user (HistomakeError) ends the job with its message alone; others with their traceback. It
    is an error if the library is not the one next to the rule's script, and, before the work begins, if a small input
    does not have the digest that its own job stated. Otherwise an input could be altered for one job and restored
    afterwards, and no digest would show it. The process sees as many GPUs as the rule asks for, and not those of other
    jobs on the machine.

    Args:
        snakemake: Snakemake's description of the job.
        cache: Small files that the previous job of the rule read, for a rule with files of every slide; saved for the
            next job when the work is done. What is read through it is compared when it is read, and of the inputs,
            only those in ``compare`` before the work.
        compare: See ``cache``.
    """
    cache = cache or FileCache()
    _log_to(snakemake.log[0] if snakemake.log else None)
    with own_gpus(int(snakemake.resources.get("gpu", 0))) as gpus:
        if gpus:
            log.info("GPU: %s", ", ".join(gpus))
        with _recorded(snakemake, cache, compare) as known:
            yield known


@contextmanager
def _recorded(snakemake: Any, cache: FileCache, compare: Iterable[str]) -> Iterator[Done]:
    """Run the work between the comparison of its inputs and its sidecar, and end the process if it fails."""
    started, clock = datetime.now(UTC), time.monotonic()
    known = Done()
    inputs = list(map(str, snakemake.input))
    try:
        require_library(Path(snakemake.scriptdir))
        if cache.path is None:
            require_unaltered(inputs, cache)
        else:
            cache.check = _require_unaltered_when_read
            require_unaltered(list(map(str, compare)), FileCache())
        yield known
    except HistomakeError as error:
        log.error("%s", error)
        _tell_damage(inputs, cache)
        sys.exit(1)
    except Exception:
        log.exception("rule %s failed", snakemake.rule)
        _tell_damage(inputs, cache)
        sys.exit(1)
    seconds = time.monotonic() - clock
    sidecar = _sidecar(snakemake, started, seconds, cache, known)
    cache.save()
    left = [path for path in (cache.path, *known.caches) if path is not None and path.is_file()]
    sidecar = msgspec.structs.replace(sidecar, caches={path.name: sha256_file(path) for path in left})
    sidecar.write(f"{snakemake.output[0]}{SIDECAR}")
    log.info("done in %.1f s", seconds)


def _log_to(path: str | None) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w"))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers, force=True
    )
    logging.captureWarnings(True)


def _sidecar(snakemake: Any, started: datetime, seconds: float, cache: FileCache, known: Done) -> Sidecar:
    """Everything needed to reconstruct, years later, how these outputs were made."""
    outputs = [path for path in map(store_of, snakemake.output) if path.exists()]
    return Sidecar(
        rule=snakemake.rule,
        wildcards={name: str(value) for name, value in snakemake.wildcards.items()},
        # Snakemake's own kinds of lists and texts become plain ones.
        params=json.loads(json.dumps(dict(snakemake.params.items()))),
        inputs=_digests(list(map(str, snakemake.input)), cache),
        outputs={str(path): known[str(path)] if str(path) in known else sha256_tree(path) for path in outputs},
        sizes={str(path): size_of(path) for path in outputs},
        quarantined=known.lost,
        continued=list(map(str, known.continued)),
        log=list(map(str, snakemake.log)),
        started=started.isoformat(timespec="milliseconds"),
        seconds=round(seconds, 3),
        threads=snakemake.threads,
        packages=environment.package_versions(),
        git=environment.git_state(),
        machine=environment.machine(),
    )


def _digests(paths: list[str], cache: FileCache) -> dict[str, str | None]:
    """Every input's sha256: as a sidecar states it, else hashed when small; slides are hashed by `convert`."""
    stated = _stated(paths, cache)
    given = [str(store_of(path)) for path in paths]
    return {address_of(path): stated[path] if path in stated else _small_digest(path) for path in given}


def _stated(paths: list[str], cache: FileCache) -> dict[str, str]:
    """Digests of the inputs in their sidecars. That next to a job's first output covers its other outputs too."""
    found: dict[str, str] = {}
    for sidecar in cache.read_texts(f"{path}{SIDECAR}" for path in paths):
        with suppress(msgspec.MsgspecError):  # another program's file, beside an input from elsewhere
            found |= msgspec.json.decode(sidecar or "{}", type=_OutputDigests).outputs
    return found


def _small_digest(path: str) -> str | None:
    """The sha256 of a small file; None for larger ones, for folders, and for what does not exist."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return sha256_file(path) if stat.S_ISREG(found.st_mode) and found.st_size < HASHED_BYTES else None


def require_unaltered(paths: list[str], cache: FileCache) -> None:
    """Raise HistomakeError if small files do not have the bytes that their own jobs wrote."""
    altered = _altered(paths, cache)
    if altered:
        raise HistomakeError("\n".join(altered))


def _require_unaltered_when_read(paths: Sequence[str]) -> None:
    """As `require_unaltered`, for files that are read through a cache. Sidecars are compared by `verify` only."""
    require_unaltered([path for path in paths if not path.endswith(SIDECAR)], FileCache())


def _tell_damage(paths: list[str], cache: FileCache) -> None:
    """Log altered inputs of a rule with a cache: the likely reason for a failure. Other rules compare them before."""
    for line in _altered(paths, cache) if cache.path is not None else []:
        log.error("%s", line)


def _altered(paths: list[str], cache: FileCache) -> list[str]:
    stated = _stated(paths, cache)
    known = [path for path in paths if path in stated]
    return [
        f"{path}: not the bytes that its job wrote; have it made again: rm {quote(path)}"
        for path, digest in zip(known, in_threads(_small_digest, known, HASH_THREADS), strict=True)
        if digest not in (None, stated[path])
    ]
