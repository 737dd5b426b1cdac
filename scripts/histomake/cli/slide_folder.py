"""Rows of a sheet from a folder of slides, and of annotations with matching names.

Only the names of files are used. What they do not state, such as which of two masks belongs to a slide, is reported and
left to the user. Patients are never guessed.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from histomake.annotation.formats import MASK_SUFFIXES
from histomake.annotation.read import READERS
from histomake.cohort.sheet import SLIDE_ID
from histomake.slide.companions import slide_files

SLIDE_SUFFIXES = (
    *(".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm"),
    *(".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy"),
)
"""Suffixes of slides and fields of view. Images are slides unless they are named as a mask."""

MASK_NAME = re.compile(r"(?<![a-z])(masks?|labels?|annot\w*|seg\w*|truth|gt)(?![a-z])", re.IGNORECASE)
"""Words that mark the name of a mask, or of its folder."""

DICOM = ".dcm"
ZARR = ".zarr"
SKIPPED = ("results", "config", "logs")
"""Folders of a project, which hold no slides."""

BETWEEN = "._- "
"""Marks that may follow the name of a slide in that of its annotation: S1_mask.png is one of S1.svs."""


@dataclass
class FoundSlides:
    """Slides of a folder: rows by column, and what a person has to decide, one sentence each."""

    rows: list[dict[str, str]] = field(default_factory=list)
    open_questions: list[str] = field(default_factory=list)


def find_slides(folder: Path, *, project: Path, patient: re.Pattern[str] | None = None) -> FoundSlides:
    """Find the slides below a folder, sorted by id.

    Paths are relative to ``project`` if they are below it. ``patient`` finds the patient in the name of a slide: its
    first group, or all that matches. Without it, or where it finds nothing, the patient is left empty.
    """
    found = FoundSlides()
    slides, others = _slides_and_others(folder)
    ids = _ids(slides, folder)
    annotations = _annotations(slides, others)
    for path in sorted(slides, key=lambda path: ids[path]):
        name, candidates = _stem(path), sorted(annotations[path])
        matched = patient.search(name) if patient else None
        if len(candidates) > 1:
            listed = ", ".join(candidate.name for candidate in candidates)
            found.open_questions.append(f"{ids[path]}: which is its annotation: {listed}?")
        found.rows.append(
            {
                "slide_id": ids[path],
                "path": _written(path, project),
                "patient_id": (matched[matched.lastindex or 0] or "") if matched else "",
                "annotation": _written(candidates[0], project) if len(candidates) == 1 else "",
                "mpp": "",
            }
        )
    return found


def _slides_and_others(folder: Path) -> tuple[list[Path], list[Path]]:
    """Slides, and files and stores that may be annotations. A folder of DICOM files is one slide."""
    files: list[Path] = []
    slides: list[Path] = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        stores = [name for name in folders if name.lower().endswith(ZARR)]
        files += [here / name for name in [*stores, *names] if not name.startswith(".")]
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in stores and n not in SKIPPED)
        if here != folder and any(name.lower().endswith(DICOM) for name in names):
            slides.append(here)
            files = [file for file in files if here not in file.parents]
            folders.clear()
    images = [file for file in files if file.suffix.lower() in SLIDE_SUFFIXES and not _is_mask(file, folder)]
    parts = {part for file in images for part in slide_files(file)[1:]}
    slides += sorted(set(images) - parts)
    return slides, sorted(set(files) - set(slides) - parts)


def _is_mask(path: Path, folder: Path) -> bool:
    """Whether the name of an image, or those of its folders, says that it is a mask."""
    places = [path.stem, *path.relative_to(folder).parent.parts]
    return path.suffix.lower() in MASK_SUFFIXES and any(MASK_NAME.search(place) for place in places)


def _stem(path: Path) -> str:
    """Name without suffix; of two, as in S1.ome.tiff, without both."""
    return re.sub(r"\.ome$", "", path.stem) if path.suffix else path.name


def _belongs(name: str, slide: str) -> bool:
    """Whether a file of this name may be an annotation of a slide."""
    return name == slide or (name.startswith(slide) and name[len(slide)] in BETWEEN)


def _annotations(slides: Iterable[Path], others: Iterable[Path]) -> dict[Path, list[Path]]:
    """Annotations of each slide: files named like it, unless the longer name of another slide matches, too."""
    found: dict[Path, list[Path]] = defaultdict(list)
    by_name: dict[str, list[Path]] = defaultdict(list)
    for slide in slides:
        by_name[_stem(slide)].append(slide)
    for other in others:
        if other.suffix.lower() in (*READERS, *MASK_SUFFIXES):
            owners = [name for name in by_name if _belongs(_stem(other), name)]
            for slide in by_name[max(owners, key=len)] if owners else ():
                found[slide].append(other)
    return found


def _ids(slides: list[Path], folder: Path) -> dict[Path, str]:
    """An id for each slide: its name, with its folders where several have the same one."""
    counts = Counter(_valid(_stem(path)).casefold() for path in slides)
    ids = {}
    for path in slides:
        alone = counts[_valid(_stem(path)).casefold()] == 1
        above = [] if alone else list(path.parent.relative_to(folder).parts)
        ids[path] = _valid("_".join([*above, _stem(path)]))
    return ids


def _valid(name: str) -> str:
    """The name with characters that an id cannot have replaced."""
    replaced = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return replaced if SLIDE_ID.fullmatch(replaced) else f"S{replaced}"


def _written(path: Path, project: Path) -> str:
    path, project = path.absolute(), project.absolute()
    return str(path.relative_to(project) if path.is_relative_to(project) else path)
