"""Owns which slides a run may leave out of its plan: those nothing has happened to since the last complete run."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from histomake.base.file_cache import Stamp, stamps
from histomake.base.files import atomic_file

log = logging.getLogger(__name__)


class Left(msgspec.Struct, array_like=True):
    """What a complete run left of a slide: the digest of what made it, and size and time (ns) of every output."""

    made_of: str
    outputs: dict[str, Stamp | None]


class Memory(msgspec.Struct):
    """What a complete run left: the digest of what all slides have in common, and each slide."""

    shared: str
    slides: dict[str, Left]


def digest(value: Any) -> str:
    """Digest of plain values: of what outputs are made of."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def settled(memory: Path, *, shared: str, made_of: Mapping[str, str]) -> frozenset[str]:
    """Ids of the slides that are as the last complete run left them.

    A slide that was made of something else, or any of whose outputs has another size or time or is gone, is not one of
    them: whether it must be made again is then Snakemake's question. Without a memory there are none.

    Args:
        memory: the file that `remember` wrote.
        shared: digest of what the outputs of all slides depend on: settings, code, models.
        made_of: digest of what each slide's own outputs depend on besides, by id.
    """
    left = {slide: kept for slide, kept in _read(memory, shared).items() if made_of.get(slide) == kept.made_of}
    paths = [path for kept in left.values() for path in kept.outputs]
    found = dict(zip(paths, stamps(paths), strict=True))
    return frozenset(
        slide for slide, kept in left.items() if all(found[path] == stamp for path, stamp in kept.outputs.items())
    )


def remember(
    memory: Path,
    *,
    shared: str,
    made_of: Mapping[str, str],
    outputs: Mapping[str, Iterable[str]],
    left_out: Collection[str],
) -> None:
    """Keep what a complete run leaves.

    Args:
        memory, shared, made_of: as for `settled`.
        outputs: every output of each slide that the run planned, by id.
        left_out: slides that it did not plan because they were settled.
    """
    before = _read(memory, None)
    slides = {slide: before[slide] for slide in left_out if slide in before}
    for slide, paths in outputs.items():
        names: Sequence[str] = sorted(paths)
        slides[slide] = Left(made_of[slide], dict(zip(names, stamps(names), strict=True)))
    memory.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(memory) as aside:
        aside.write_bytes(msgspec.json.encode(Memory(shared, slides)))


def _read(memory: Path, shared: str | None) -> dict[str, Left]:
    """The slides of the memory; none if they had something else in common."""
    try:
        kept = msgspec.json.decode(memory.read_bytes(), type=Memory)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s is unusable (%s); every slide is planned", memory, error)
        return {}
    return kept.slides if shared in (None, kept.shared) else {}
