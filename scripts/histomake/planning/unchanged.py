"""Slides that are unchanged since the last complete run: the outputs of each, and what they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from histomake.base.file_cache import Stamp, stamps
from histomake.base.files import atomic_file

log = logging.getLogger(__name__)


class SlideState(msgspec.Struct, array_like=True):
    """State of a slide after a complete run: what its outputs depend on, and size and time (ns) of all its files.

    The files are outputs, and the sidecars of their jobs.
    """

    made_of: str
    files: dict[str, Stamp | None]


class SlideStates(msgspec.Struct):
    """State of all slides after a complete run.

    shared: digest of what the outputs of all slides depend on.
    slides: by id.
    common: size and time of the files that jobs of slides read of jobs that are not of a slide, such as models.
    """

    shared: str
    slides: dict[str, SlideState]
    common: dict[str, Stamp | None] = {}


@dataclass(frozen=True)
class LeftOut:
    """What a plan leaves out: nothing until it is filled, and nothing again once it is cleared.

    slides: ids of unchanged slides.
    files: outputs of their jobs, which exist and are taken as they are.
    common: files that those jobs read of jobs that are not of a slide. If one is made again, nothing can be left out.
    """

    slides: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    common: set[str] = field(default_factory=set)

    def fill(self, found: LeftOut) -> None:
        """Leave the same out as ``found``."""
        self.clear()
        for own, others in ((self.slides, found.slides), (self.files, found.files), (self.common, found.common)):
            own |= others

    def clear(self) -> None:
        """Leave nothing out."""
        for own in (self.slides, self.files, self.common):
            own.clear()


@dataclass(frozen=True)
class PlannedFiles:
    """Files of the jobs of a plan: outputs and the sidecars of their jobs.

    slides: of the jobs of each slide that was planned, by id.
    common: of the jobs that are not of a slide, and which jobs of slides depend on.
    """

    slides: Mapping[str, Collection[str]]
    common: Collection[str]


def digest(value: Any) -> str:
    """Digest of plain values that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def unchanged_slides(memory: Path, *, shared: str, made_of: Mapping[str, str]) -> frozenset[str]:
    """Ids of the slides whose files are as the last complete run left them, and depend on the same.

    Whether the outputs of another slide must be made again is left to Snakemake. There are none if ``memory`` does not
    exist, or if a file that they have in common is not as it was.

    Args:
        memory: the file that `remember` wrote.
        shared: digest of what the outputs of all slides depend on: settings, code, models.
        made_of: digest of what the outputs of each slide depend on in addition, by id.
    """
    kept = _read(memory)
    if kept is None or kept.shared != shared or not _as_left(kept.common):
        return frozenset()
    left = {slide: state for slide, state in kept.slides.items() if made_of.get(slide) == state.made_of}
    paths = [path for state in left.values() for path in state.files]
    found = dict(zip(paths, stamps(paths), strict=True))
    return frozenset(
        slide for slide, state in left.items() if all(found[path] == stamp for path, stamp in state.files.items())
    )


def left_out(memory: Path, slides: Collection[str]) -> LeftOut:
    """What a plan leaves out without these slides: the files that exist since the last complete run."""
    kept = _read(memory)
    if kept is None:
        return LeftOut()
    files = {path for slide in slides for path, stamp in kept.slides[slide].files.items() if stamp is not None}
    return LeftOut(set(slides), files, set(kept.common))


def remember(
    memory: Path, *, shared: str, made_of: Mapping[str, str], planned: PlannedFiles, left_out: Collection[str]
) -> None:
    """Write the state of all slides after a complete run.

    Args:
        memory, shared, made_of: as for `unchanged_slides`.
        planned: what was planned. Of a slide that was left out this is what was made in addition.
        left_out: slides that were not planned because they were unchanged.
    """
    kept = (_read(memory) if left_out else None) or SlideStates(shared, {})
    before = {slide: state for slide, state in kept.slides.items() if slide in left_out}
    every = [path for files in (*planned.slides.values(), planned.common, kept.common) for path in files]
    found = dict(zip(every, stamps(every), strict=True))
    slides = dict(before)
    for slide, files in planned.slides.items():
        earlier = before[slide].files if slide in before else {}
        slides[slide] = SlideState(made_of[slide], earlier | {path: found[path] for path in sorted(files)})
    common = {path: found[path] for path in sorted({*kept.common, *planned.common})}
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(memory) as aside:
            aside.write_bytes(msgspec.json.encode(SlideStates(shared, slides, common)))
    except OSError as error:
        log.warning("%s cannot be written (%s); the next run plans more slides than it must", memory, error)


def _as_left(files: Mapping[str, Stamp | None]) -> bool:
    return stamps(list(files)) == list(files.values())


def _read(memory: Path) -> SlideStates | None:
    """The memory, if there is one."""
    try:
        return msgspec.json.decode(memory.read_bytes(), type=SlideStates)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s cannot be read (%s); all slides are planned", memory, error)
        return None
