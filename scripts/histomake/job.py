"""Owns what surrounds a rule's work: its log and its sidecar. It shapes no result, so no code digest counts it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from histomake import provenance
from histomake.errors import HistomakeError
from histomake.files import read_json, sha256_file, write_json

log = logging.getLogger("histomake")

SIDECAR = ".meta.json"


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Run a rule's work: log to its log file and to stderr, and leave a sidecar beside its first output.

    An error meant for the user (HistomakeError) ends the job with its message alone; others with their traceback.
    """
    _log_to(snakemake.log[0] if snakemake.log else None)
    started, clock = datetime.now(UTC), time.monotonic()
    try:
        yield
    except HistomakeError as error:
        log.error("%s", error)
        sys.exit(1)
    except Exception:
        log.exception("rule %s failed", snakemake.rule)
        sys.exit(1)
    seconds = time.monotonic() - clock
    write_json(f"{snakemake.output[0]}{SIDECAR}", _sidecar(snakemake, started, seconds))
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


def _sidecar(snakemake: Any, started: datetime, seconds: float) -> dict[str, Any]:
    """Everything needed to say, years later, where these outputs came from."""
    return {
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "params": dict(snakemake.params.items()),
        "inputs": {str(path): _digest_of(Path(path)) for path in snakemake.input},
        "outputs": {str(path): sha256_file(path) for path in snakemake.output if Path(path).is_file()},
        "log": list(map(str, snakemake.log)),
        "started": started.isoformat(timespec="milliseconds"),
        "seconds": round(seconds, 3),
        "threads": snakemake.threads,
        "packages": provenance.package_versions(),
        "git": provenance.git_state(),
        "machine": provenance.machine(),
    }


def _digest_of(path: Path) -> str | None:
    """An input's sha256: as its own sidecar states it, else hashed when small; slides are hashed by `convert`."""
    sidecar = Path(f"{path}{SIDECAR}")
    if sidecar.is_file():
        return read_json(sidecar)["outputs"].get(str(path))
    return sha256_file(path) if path.is_file() and path.stat().st_size < 64_000_000 else None
