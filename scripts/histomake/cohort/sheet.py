"""Reader for the slide sheet (slides.tsv), with all problems of a bad sheet in a single message."""

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
from histomake.config import Config, Task
from histomake.config.kinds import ACCEPTED

SLIDE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
ROLES = ("train", "val", "test", "predict")
REQUIRED = ("slide_id", "path", "patient_id")
OPTIONAL = ("annotation", "mpp", "sha256", "site", "split")

Role = Literal["train", "val", "test", "predict"]


@dataclass(frozen=True)
class Slide:
    """One row of the sheet. ``split`` is empty if the workflow assigns the role."""

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
        """Return the slide's value of a label column or of ``site``; None if the cell is empty."""
        return self.site if column == "site" else self.labels.get(column)


def classes_of(slide: Slide, task: Task) -> list[str]:
    """Return the classes of a slide for a task, from the sheet."""
    value = slide.value(task.target.column or "") or ""
    found = value.split(",") if ACCEPTED[task.kind].several else [value]
    return [name.strip() for name in found if name.strip()]


def label_columns(config: Config, *, fitted: bool = False) -> set[str]:
    """Return the label columns that the configuration uses; with ``fitted``, only those of tasks that are trained."""
    columns: set[str] = set()
    for task in config.tasks.values():
        if fitted and task.trained:
            continue
        columns.update(task.split.stratify)
        if task.target.column:
            columns.add(task.target.column)
    return columns - {*REQUIRED, *OPTIONAL}


def read_sheet(path: Path | str, config: Config, *, check_files: bool) -> dict[str, Slide]:
    """Read and check the sheet; return slides by id, sorted by id.

    ``check_files`` checks that every slide and annotation exists. The main process does this once; its jobs do not.
    Raises ConfigError with all problems at once.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader((line for line in stream if not line.startswith("#")), delimiter="\t", restkey="\0")
            header, rows = list(reader.fieldnames or []), list(reader)
    except FileNotFoundError:
        raise ConfigError(f"slide sheet {path} does not exist; set its path as `sheet:` in config.yaml") from None
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
        problems.append("the sheet has no rows")
    if problems:
        raise _sheet_error(path, problems)
    return {slide.slide_id: slide for slide in sorted(slides, key=lambda s: s.slide_id)}


def _sheet_error(path: Path | str, problems: list[str]) -> ConfigError:
    return ConfigError(f"slide sheet {path} has {len(problems)} problem(s):\n" + "\n".join(f"  {p}" for p in problems))


def _header_problems(header: list[str], labels: set[str], needed: set[str]) -> list[str]:
    known = {*REQUIRED, *OPTIONAL, *labels}
    problems = [f"column {c!r} is missing" for c in REQUIRED if c not in header]
    problems += [
        f"column {c!r} is missing, but is used by a task or its split" for c in sorted(needed) if c not in header
    ]
    problems += [
        f"column {c!r} is unknown: use it in a task, or remove it from the sheet" for c in header if c not in known
    ]
    problems += [f"column {c!r} appears {n} times" for c, n in Counter(header).items() if n > 1]
    return problems


def _parse_row(row: dict[str, str], labels: set[str]) -> tuple[Slide | None, list[str]]:
    """Parse a row; return the slide, or None if the row is invalid, and the problems of the row."""
    faults = ["has more fields than the header"] if "\0" in row else []
    cell = {key: (value or "").strip() for key, value in row.items() if key != "\0"}
    if not SLIDE_ID.fullmatch(cell["slide_id"]):
        faults.append(
            f"slide_id {cell['slide_id']!r} must consist of letters, digits, '.', '_' and '-', and must start with a "
            "letter or digit"
        )
    faults += [f"{column} is empty" for column in ("path", "patient_id") if not cell[column]]
    faults += [f"{key} contains a control character" for key, value in cell.items() if not value.isprintable()]
    faults += [
        f"{column} {cell[column]!r} contains a brace, which is a wildcard in Snakemake; rename or link the file"
        for column in ("path", "annotation")
        if set("{}") & set(cell.get(column, ""))
    ]
    mpp = None
    if cell.get("mpp"):
        try:
            mpp = Mpp(float(cell["mpp"]))
        except ValueError:
            faults.append(f"mpp {cell['mpp']!r} is not a number")
        else:
            if not 0.05 <= mpp <= 100:
                faults.append(f"mpp {mpp} is not between 0.05 and 100 µm per pixel")
    if cell.get("sha256") and not SHA256.fullmatch(cell["sha256"]):
        faults.append("sha256 must be 64 lower-case hexadecimal digits")
    if cell.get("split") and cell["split"] not in ROLES:
        faults.append(f"split {cell['split']!r} is not one of {', '.join(ROLES)}; an empty cell is allowed too")
    if faults:
        return None, faults
    optional = {key: cell.get(key) or None for key in ("annotation", "sha256", "site", "split")}
    values = {key: cell[key] for key in sorted(labels) if cell.get(key)}
    return Slide(cell["slide_id"], cell["path"], cell["patient_id"], mpp=mpp, labels=values, **optional), faults


def _cohort_problems(slides: list[Slide], config: Config) -> list[str]:
    """Return problems of the whole sheet: duplicate ids, and labels that cannot be trained."""
    problems = [f"slide_id {i!r} appears {n} times" for i, n in Counter(s.slide_id for s in slides).items() if n > 1]
    folded = Counter(i.casefold() for i in {s.slide_id for s in slides})
    problems += [
        f"slide_ids differ only in case: {i!r}; some file systems do not distinguish them"
        for i, n in folded.items()
        if n > 1
    ]
    known = {s.slide_id for s in slides}
    # Without training, the configuration may be that of the training cohort, whose slides are not in this sheet.
    all_reused = bool(config.tasks) and all(task.trained for task in config.tasks.values())
    trains = any(s.split != "predict" for s in slides) and not all_reused
    problems += [
        f"explain.{key} names slide {place[0]!r}, which is not in the sheet"
        for key in ("shap_at", "regions")
        for place in getattr(config.explain, key)
        if trains and place[0] not in known
    ]
    for name, task in config.tasks.items():
        column = task.target.column
        if column is None or ACCEPTED[task.kind].least_classes is None:
            continue
        learned = [s for s in slides if s.split != "predict"]
        found = {s.value(column) for s in learned} - {None}
        if learned and not task.trained and len(found) < 2:
            values = ", ".join(sorted(map(str, found))) or "no value"
            problems.append(f"task {name}: column {column!r} has a single class ({values}); at least two are needed")
        classes = {label for s in learned for label in classes_of(s, task)}
        unknown = sorted(classes - set(task.target.classes)) if task.target.classes else []
        if unknown:
            names = ", ".join(task.target.classes)
            problems.append(f"task {name}: column {column!r} contains {unknown}, not in target.classes ({names})")
    return problems


def _missing_files(slides: Iterable[Slide]) -> list[str]:
    problems = []
    for slide in slides:
        if not Path(slide.path).exists():
            problems.append(f"slide {slide.slide_id}: file {slide.path} does not exist")
        if slide.annotation and not Path(slide.annotation).exists():
            problems.append(f"slide {slide.slide_id}: annotation file {slide.annotation} does not exist")
    return problems
