"""Slides that are unchanged since the last complete run: the outputs of each, and what they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from histomake.base.file_cache import Stamp, stamps
from histomake.base.files import atomic_file

log = logging.getLogger(__name__)


class SlideState(msgspec.Struct, array_like=True):
    """State of a slide after a complete run: what its outputs depend on, and size and time (ns) of each output."""

    made_of: str
    outputs: dict[str, Stamp | None]


class SlideStates(msgspec.Struct):
    """State of all slides after a complete run, and the digest of what the outputs of all of them depend on."""

    shared: str
    slides: dict[str, SlideState]


def digest(value: Any) -> str:
    """Digest of plain values that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def unchanged_slides(memory: Path, *, shared: str, made_of: Mapping[str, str]) -> frozenset[str]:
    """Ids of the slides whose outputs are as the last complete run left them, and depend on the same.

    Whether the outputs of another slide must be made again is left to Snakemake. There are none if ``memory`` does not
    exist.

    Args:
        memory: the file that `remember` wrote.
        shared: digest of what the outputs of all slides depend on: settings, code, models.
        made_of: digest of what the outputs of each slide depend on in addition, by id.
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
    """Write the state of all slides after a complete run.

    Args:
        memory, shared, made_of: as for `unchanged_slides`.
        outputs: all outputs of each slide that was planned, by id.
        left_out: slides that were not planned because they were unchanged.
    """
    before = _read(memory, None)
    slides = {slide: before[slide] for slide in left_out if slide in before}
    names = {slide: sorted(paths) for slide, paths in outputs.items()}
    every = [path for paths in names.values() for path in paths]
    found = dict(zip(every, stamps(every), strict=True))
    for slide, paths in names.items():
        slides[slide] = SlideState(made_of[slide], {path: found[path] for path in paths})
    memory.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(memory) as aside:
        aside.write_bytes(msgspec.json.encode(SlideStates(shared, slides)))


def _read(memory: Path, shared: str | None) -> dict[str, SlideState]:
    """The slides of the memory; none if what all of them depend on has changed."""
    try:
        kept = msgspec.json.decode(memory.read_bytes(), type=SlideStates)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s cannot be read (%s); all slides are planned", memory, error)
        return {}
    return kept.slides if shared in (None, kept.shared) else {}
