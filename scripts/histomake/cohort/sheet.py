"""Owns the slide sheet: reading slides.tsv, and refusing a bad one with every offender in a single message."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from histomake.base.errors import ConfigError
from histomake.base.units import Mpp
from histomake.config import Config

SLIDE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
ROLES = ("train", "val", "test", "predict")
REQUIRED = ("slide_id", "path", "patient_id")
OPTIONAL = ("annotation", "mpp", "sha256", "site", "split")

Role = Literal["train", "val", "test", "predict"]


@dataclass(frozen=True)
class Slide:
    """One row of the sheet. ``split`` is empty when the workflow is to choose the role."""

    slide_id: str
    path: str
    patient_id: str
    annotation: str | None = None
    mpp: Mpp | None = None
    sha256: str | None = None
    site: str | None = None
    split: str | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def value(self, column: str) -> str | None:
        """The sheet's value of a label column or of ``site``; None when empty."""
        return self.site if column == "site" else self.labels.get(column)


def label_columns(config: Config, *, fitted: bool = False) -> set[str]:
    """Sheet columns the configuration refers to, besides the standard ones; ``fitted``: for tasks that are trained."""
    columns: set[str] = set()
    for task in config.tasks.values():
        if fitted and task.trained:
            continue
        columns.update(task.split.stratify)
        if task.target.column:
            columns.add(task.target.column)
    return columns - {*REQUIRED, *OPTIONAL}


def read_sheet(path: Path | str, config: Config, *, check_files: bool) -> dict[str, Slide]:
    """Read and check the sheet; slides by id, in the order of their ids.

    ``check_files`` asks the file system about every slide and annotation: done once by the main process, not by each
    of its jobs. Raises ConfigError with all offenders at once.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader((line for line in stream if not line.startswith("#")), delimiter="\t", restkey="\0")
            header, rows = list(reader.fieldnames or []), list(reader)
    except FileNotFoundError:
        raise ConfigError(f"slide sheet {path} does not exist; name it under `sheet:` in config.yaml") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"slide sheet {path} is not UTF-8 text ({error.reason}); save it as tab-separated text"
        ) from None
    labels = label_columns(config)
    fitting = any((row.get("split") or "").strip() != "predict" for row in rows)
    needed = label_columns(config, fitted=True) if fitting else set()
    problems = _header_problems(header, labels, needed)
    if problems:
        raise _sheet_error(path, problems)
    slides = []
    for number, row in enumerate(rows, start=2):
        slide, faults = _parse_row(row, labels)
        problems += [f"row {number} ({row.get('slide_id') or 'no slide_id'}): {fault}" for fault in faults]
        if slide:
            slides.append(slide)
    problems += _cohort_problems(slides, config)
    if check_files:
        problems += _missing_files(slides)
    if not rows:
        problems.append("it has no rows")
    if problems:
        raise _sheet_error(path, problems)
    return {slide.slide_id: slide for slide in sorted(slides, key=lambda s: s.slide_id)}


def _sheet_error(path: Path | str, problems: list[str]) -> ConfigError:
    return ConfigError(f"slide sheet {path} has {len(problems)} problem(s):\n" + "\n".join(f"  {p}" for p in problems))


def _header_problems(header: list[str], labels: set[str], needed: set[str]) -> list[str]:
    known = {*REQUIRED, *OPTIONAL, *labels}
    problems = [f"column {c!r} is missing" for c in REQUIRED if c not in header]
    problems += [f"column {c!r} is missing: a task or its split names it" for c in sorted(needed) if c not in header]
    problems += [
        f"column {c!r} is unknown: no task uses it (name it in a task or remove it)" for c in header if c not in known
    ]
    problems += [f"column {c!r} appears {n} times" for c, n in Counter(header).items() if n > 1]
    return problems


def _parse_row(row: dict[str, str], labels: set[str]) -> tuple[Slide | None, list[str]]:
    """The row as a Slide (None when even its id is unusable), and what is wrong with it."""
    faults = ["has more fields than the header"] if "\0" in row else []
    cell = {key: (value or "").strip() for key, value in row.items() if key != "\0"}
    if not SLIDE_ID.fullmatch(cell["slide_id"]):
        faults.append(f"slide_id {cell['slide_id']!r} must be letters, digits, '.', '_' or '-', starting with no sign")
    faults += [f"{column} is empty" for column in ("path", "patient_id") if not cell[column]]
    faults += [f"{key} holds a control character" for key, value in cell.items() if not value.isprintable()]
    faults += [
        f"{column} {cell[column]!r} holds a brace, which Snakemake takes for a wildcard; rename the file or link to it"
        for column in ("path", "annotation")
        if set("{}") & set(cell.get(column, ""))
    ]
    mpp = None
    if cell.get("mpp"):
        try:
            mpp = Mpp(float(cell["mpp"]))
        except ValueError:
            faults.append(f"mpp {cell['mpp']!r} is no number")
        else:
            if not 0.05 <= mpp <= 100:
                faults.append(f"mpp {mpp} is not between 0.05 and 100 µm per pixel")
    if cell.get("sha256") and not SHA256.fullmatch(cell["sha256"]):
        faults.append("sha256 must be 64 lower-case hexadecimal digits")
    if cell.get("split") and cell["split"] not in ROLES:
        faults.append(f"split {cell['split']!r} is none of {', '.join(ROLES)}, or empty")
    if faults:
        return None, faults
    optional = {key: cell.get(key) or None for key in ("annotation", "sha256", "site", "split")}
    values = {key: cell[key] for key in sorted(labels) if cell.get(key)}
    return Slide(cell["slide_id"], cell["path"], cell["patient_id"], mpp=mpp, labels=values, **optional), faults


def _cohort_problems(slides: list[Slide], config: Config) -> list[str]:
    """What only the whole sheet shows: repeated ids, labels that cannot be learned."""
    problems = [f"slide_id {i!r} is given {n} times" for i, n in Counter(s.slide_id for s in slides).items() if n > 1]
    folded = Counter(i.casefold() for i in {s.slide_id for s in slides})
    problems += [
        f"slide_ids equal but for case: {i!r}; some file systems cannot tell them apart"
        for i, n in folded.items()
        if n > 1
    ]
    known = {s.slide_id for s in slides}
    # Where nothing is trained, the configuration may come from where it was, with places on slides that are not here.
    taken_over = bool(config.tasks) and all(task.trained for task in config.tasks.values())
    trains = any(s.split != "predict" for s in slides) and not taken_over
    problems += [
        f"explain.{key} names slide {place[0]!r}, which is not in the sheet"
        for key in ("shap_at", "regions")
        for place in getattr(config.explain, key)
        if trains and place[0] not in known
    ]
    for name, task in config.tasks.items():
        column = task.target.column
        if column is None or task.kind != "classification":
            continue
        learned = [s for s in slides if s.split != "predict"]
        found = {s.value(column) for s in learned} - {None}
        if learned and not task.trained and len(found) < 2:
            values = ", ".join(sorted(map(str, found))) or "no value"
            problems.append(f"task {name}: column {column!r} holds one class only ({values}); two are needed")
        unknown = sorted(map(str, found - set(task.target.classes))) if task.target.classes else []
        if unknown:
            known = ", ".join(task.target.classes)
            problems.append(f"task {name}: column {column!r} holds {unknown}, not among target.classes ({known})")
    return problems


def _missing_files(slides: Iterable[Slide]) -> list[str]:
    problems = []
    for slide in slides:
        if not Path(slide.path).exists():
            problems.append(f"slide {slide.slide_id}: no file {slide.path}")
        if slide.annotation and not Path(slide.annotation).exists():
            problems.append(f"slide {slide.slide_id}: no annotation file {slide.annotation}")
    return problems
