"""Reader for the slide sheet (slides.tsv), with all problems of a bad sheet in a single message."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from histomake.base.addresses import in_object_store
from histomake.base.cells import classes_named, number, survival
from histomake.base.errors import ConfigError
from histomake.base.layout import Layout
from histomake.base.names import name_problems, quoted
from histomake.base.spellings import alike, folded, words
from histomake.base.units import Mpp
from histomake.cohort.originals import why_not_alone
from histomake.cohort.readers import parse_annotation
from histomake.cohort.rows import SPREADSHEET_ERROR, SheetRow, read_rows
from histomake.config import Config, Split, Task
from histomake.config.kinds import ACCEPTED

SLIDE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
LEAST_MAGNIFICATION = 20
"""A resolution in µm per pixel from which it is taken for the magnification of an objective."""

MOST_GROUPS = 100
"""Values of a column of subgroups: each is measured by itself."""

ROUNDED = re.compile(r"[0-9]+([.,][0-9]+)?[eE]\+[0-9]+")
"""A long number as a spreadsheet shows it: digits are lost, so that different ids become equal."""

SUSPECT = re.compile(r"[#:=+{}]")
"""A row without these has no error, formula or rounded number of a spreadsheet, and no wildcard."""

ROLES = ("train", "val", "test", "predict")
REQUIRED = ("slide_id", "path", "patient_id")
OPTIONAL = ("annotation", "mpp", "sha256", "site", "split")
KNOWN = frozenset({*REQUIRED, *OPTIONAL})
NAMES = ("slide_id", "patient_id", "site")
"""Columns of names."""

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
    groups: dict[str, str] = field(default_factory=dict)
    """Values of the columns that only name subgroups. Apart from labels, which are params of most rules."""
    readers: dict[str, str] = field(default_factory=dict)
    """Annotation files by reader, sorted, of a slide with several readers; ``annotation`` is None then."""

    @property
    def annotation_files(self) -> list[str]:
        """All annotation files of the slide."""
        return [self.annotation] if self.annotation else list(self.readers.values())

    def value(self, column: str) -> str | None:
        """Return the slide's value of a label column, of ``site`` or of a subgroup; None if the cell is empty."""
        return self.site if column == "site" else self.labels.get(column, self.groups.get(column))


def classes_of(slide: Slide, task: Task) -> list[str]:
    """Return the classes of a slide for a task, from the sheet."""
    cell = slide.value(task.target.column or "") or ""
    return classes_named(cell, task.target.labels, several=ACCEPTED[task.kind].several)


def named_columns(config: Config, *, fitted: bool = False) -> set[str]:
    """Return the columns of labels and strata that the configuration names; with ``fitted``, those needed to train."""
    columns: set[str] = set()
    tasks = [task for task in config.tasks.values() if not (fitted and task.trained)]
    splits: list[Split] = [*(task.split for task in tasks), *(cascade.split for cascade in config.radhical.values())]
    for split in splits:
        columns.update(split.stratify)
    return columns | {column for task in tasks for column in task.target.sheet_columns}


def group_columns(config: Config) -> set[str]:
    """Return the columns that name subgroups of the test set."""
    return {column for task in config.tasks.values() for column in task.evaluate.subgroups}


def generative_columns(config: Config) -> set[str]:
    """Return the columns that name the slides of stain transfers and generators, and the labels of generators."""
    chosen = [side for transfer in config.stain_transfers.values() for side in transfer.sides]
    chosen += [g.slides for g in config.generators.values() if g.slides is not None]
    return {side.column for side in chosen} | {g.label for g in config.generators.values() if g.label is not None}


def label_columns(config: Config) -> set[str]:
    """Return the columns that are read as labels of slides."""
    return named_columns(config) - {*REQUIRED, *OPTIONAL}


def read_sheet(path: Path | str, config: Config, *, check_files: bool, compare: bool = True) -> dict[str, Slide]:
    """Read and check the sheet; return slides by id, sorted by id.

    Every job on a cluster reads the sheet, so what the main process has checked for all of them can be left out.

    Args:
        path: the sheet.
        config: the configuration; its columns are read, and labels are checked against its tasks.
        check_files: whether to check that every slide and annotation exists.
        compare: whether to compare rows with each other and with the tasks.

    Raises ConfigError with all problems at once.
    """
    sheet = read_rows(path)
    fitting = any(row.cells.get("split") != "predict" for row in sheet.rows)
    problems, of_header = list(sheet.problems), list(_header_problems(sheet.header, config, fitting=fitting))
    if of_header:
        raise _sheet_error(path, of_header + problems)
    slides, lines, labels = [], dict[str, int](), label_columns(config)
    groups = (group_columns(config) | generative_columns(config)) - {*labels, *REQUIRED, *OPTIONAL}
    for row in sheet.rows:
        slide, faults = _parse_row(row, labels, groups)
        problems += [f"line {row.line} ({row.cells['slide_id'] or 'no slide_id'}): {fault}" for fault in faults]
        if slide:
            slides.append(slide)
            lines[slide.slide_id] = row.line
    if compare:
        problems += _id_problems(slides)
        problems += _label_problems(slides, lines, config)
        problems += _place_problems(slides, config)
        problems += _group_problems(slides, config)
    if check_files:
        problems += _missing_files(slides, Layout(Path(config.results)))
    if not sheet.rows:
        problems.append("the sheet has no rows")
    if problems:
        raise _sheet_error(path, problems)
    return {slide.slide_id: slide for slide in sorted(slides, key=lambda s: s.slide_id)}


def _sheet_error(path: Path | str, problems: list[str]) -> ConfigError:
    return ConfigError(f"slide sheet {path} has {len(problems)} problem(s):\n" + "\n".join(f"  {p}" for p in problems))


def _header_problems(header: list[str], config: Config, *, fitting: bool) -> Iterator[str]:
    """Problems of the columns. Unused columns are allowed, unless their name resembles that of a used one."""
    others = group_columns(config) | generative_columns(config)
    named = named_columns(config) | others
    needed = named_columns(config, fitted=True) | others if fitting else set()
    yield from (f"column {c!r} is missing" for c in REQUIRED if c not in header)
    yield from (
        f"column {c!r} is missing, but is used by a task, its split or its subgroups, a stain transfer or a generator"
        for c in sorted(needed)
        if c not in header
    )
    reserved = {*REQUIRED, *OPTIONAL} - {"site"}
    yield from name_problems("columns of labels", named)
    yield from (
        f"column {c!r} has a meaning of its own: it is no label, stratum, subgroup or stain"
        for c in sorted(named & reserved)
    )
    known = {*REQUIRED, *OPTIONAL, *named}
    yield from (f"column {c!r} appears {n} times" for c, n in Counter(header).items() if n > 1 and c in known)
    for column in header:
        if column not in known:
            meant = [name for name in sorted(known) if _column_key(name) == _column_key(column) and name not in header]
            yield from (
                f"column {column!r} is not used, but resembles {name!r}: rename it, or remove it" for name in meant
            )


def _column_key(name: str) -> str:
    """A column's name without case, marks and the s of a plural."""
    return words(name).replace(" ", "").removesuffix("s")


def _parse_row(row: SheetRow, labels: set[str], groups: set[str]) -> tuple[Slide | None, list[str]]:
    """Parse a row; return the slide, or None if the row is invalid, and the problems of the row."""
    cell = {key: value for key, value in row.cells.items() if key in KNOWN or key in labels or key in groups}
    faults = list(_text_faults(cell))
    if not SLIDE_ID.fullmatch(cell["slide_id"]):
        faults.append(
            f"slide_id {cell['slide_id']!r} must consist of letters, digits, '.', '_' and '-', and must start with a "
            "letter or digit"
        )
    faults += [f"{column} is empty" for column in ("path", "patient_id") if not cell[column]]
    mpp = None
    if cell.get("mpp"):
        try:
            mpp = Mpp(number(cell["mpp"]))
        except ValueError as error:
            faults.append(f"mpp is {error}")
        else:
            if mpp >= LEAST_MAGNIFICATION:
                faults.append(
                    f"mpp {mpp:g} is no resolution of a slide in µm per pixel, perhaps a magnification: at {mpp:g}x "
                    f"it is about {10 / mpp:.2g}"
                )
            elif not mpp >= 0.05:
                faults.append(f"mpp {mpp} is below 0.05 µm per pixel, which no scanner resolves")
    if cell.get("sha256") and not SHA256.fullmatch(cell["sha256"]):
        faults.append("sha256 must be 64 lower-case hexadecimal digits")
    if cell.get("split") and cell["split"] not in ROLES:
        faults.append(f"split {cell['split']!r} is not one of {', '.join(ROLES)}; an empty cell is allowed too")
    annotation, readers, unclear = parse_annotation(cell.get("annotation", ""))
    faults += unclear
    if faults:
        return None, faults
    sha256, site, split = (cell.get(key) or None for key in ("sha256", "site", "split"))
    values, given = ({key: cell[key] for key in sorted(columns) if cell.get(key)} for columns in (labels, groups))
    ids = cell["slide_id"], cell["path"], cell["patient_id"]
    return Slide(*ids, annotation, mpp, sha256, site, split, values, given, readers), faults


def _text_faults(cell: Mapping[str, str]) -> Iterator[str]:
    """Cells that are invalid in any column: errors and formulas of spreadsheets, control characters, wildcards."""
    # Every job on a cluster reads the whole sheet, so a row is looked at as a whole first.
    text = "".join(cell.values())
    if text.isprintable() and not SUSPECT.search(text):
        return
    for column, value in cell.items():
        if SPREADSHEET_ERROR.fullmatch(value):
            yield f"{column} is {value!r}, an error of a spreadsheet; correct the cell, or empty it"
        if value.startswith("="):
            yield f"{column} is {value!r}, a formula of a spreadsheet; enter its result"
        if column in NAMES and ROUNDED.fullmatch(value):
            yield f"{column} is {value!r}, a number rounded by a spreadsheet; format the cell as text, then enter it"
        if not value.isprintable():
            yield f"{column} contains a control character or a space that is not visible ({value!r})"
    for column in ("path", "annotation"):
        if set("{}") & set(cell.get(column, "")):
            yield f"{column} {cell[column]!r} contains a brace, a wildcard in Snakemake; rename or link the file"


def _id_problems(slides: list[Slide]) -> Iterator[str]:
    """Ids that appear twice, and ids that differ only in case, spaces or Unicode form."""
    counts = Counter(s.slide_id for s in slides)
    yield from (f"slide_id {i!r} appears {n} times" for i, n in counts.items() if n > 1)
    yield from name_problems("slide_ids", counts, endings=(".meta", "."))
    for group in alike((s.patient_id for s in slides), folded):
        ids = ", ".join(s.slide_id for s in slides if s.patient_id in group)
        yield (
            f"patient_ids differ only in case, spaces or Unicode form: {quoted(group)} (slides {ids}); a patient must "
            "have one spelling, or is trained and tested on"
        )


def _label_problems(slides: list[Slide], lines: Mapping[str, int], config: Config) -> Iterator[str]:
    """Every label that a task cannot learn or test, and tasks with a single class."""
    for name, task in config.tasks.items():
        if not task.target.sheet_columns:
            continue
        column = task.target.sheet_columns[0]
        for slide in slides:
            for faulty, fault in _label_faults(slide, task):
                yield f"line {lines[slide.slide_id]} ({slide.slide_id}): {faulty} is {fault} (task {name})"
        # A patient has one survival, whatever is predicted.
        if task.level == "patient" or task.target.event is not None:
            one_by_one = [[one] for one in task.target.sheet_columns]
            for together in [task.target.columns] if task.target.columns else one_by_one:
                yield from _several_values(slides, name, together)
        learned = [s for s in slides if s.split != "predict"]
        if task.target.event is not None and learned and not task.trained:
            yield from _no_event(learned, name, task.target.event)
        found = {", ".join(classes_of(s, task)) for s in learned} - {""}
        if ACCEPTED[task.kind].least_classes is not None and not task.target.classes:
            yield from name_problems(f"task {name}: classes in column {column!r}", found)
        if ACCEPTED[task.kind].least_classes is not None and learned and not task.trained and len(found) < 2:
            values = ", ".join(sorted(map(str, found))) or "no value"
            yield (
                f"task {name}: column {column!r} has a single class ({values}); at least two are needed. Add slides of "
                "another class, or remove the task"
            )


def _several_values(slides: list[Slide], task: str, columns: Sequence[str]) -> Iterator[str]:
    """Patients whose slides have different values in columns, where a patient is learned as one bag."""
    found: dict[str, dict[str, list[str]]] = {}
    for slide in slides:
        cells = [slide.value(column) for column in columns]
        if any(cells):
            value = ", ".join(cell or "empty" for cell in cells)
            found.setdefault(slide.patient_id, {}).setdefault(value, []).append(slide.slide_id)
    for patient, values in sorted(found.items()):
        if len(values) > 1:
            listed = "; ".join(f"{value}: {', '.join(ids)}" for value, ids in sorted(values.items()))
            yield (
                f"task {task}: patient {patient} has slides of different {', '.join(columns)} ({listed}); with level: "
                "patient, and with kind: survival, they must be the same. Correct the sheet, or set level: slide for a "
                "kind other than survival"
            )


def _no_event(slides: list[Slide], task: str, column: str) -> Iterator[str]:
    """Nothing is learned from patients of whom none has had the event."""
    if not any(_is_one(slide.value(column)) for slide in slides):
        yield (
            f"task {task}: no slide has 1 in column {column!r}, so that every patient is censored; a risk is learned "
            "from events. Check that 1 stands for the event, add patients who had it, or remove the task"
        )


def _is_one(cell: str | None) -> bool:
    try:
        return cell is not None and number(cell) == 1
    except ValueError:
        return False


def _label_faults(slide: Slide, task: Task) -> Iterator[tuple[str, str]]:
    """Column of a label that cannot be learned, and why. Empty cells can be: the slide is only predicted then."""
    target = task.target
    if target.time is not None and target.event is not None:
        try:
            survival(slide.value(target.time), slide.value(target.event))
        except ValueError as error:
            yield target.time, f"{error}; correct {target.time} and {target.event}, or empty both if they are unknown"
        return
    if ACCEPTED[task.kind].least_classes is None:
        for column in target.sheet_columns:
            try:
                number(slide.value(column) or "0")
            except ValueError as error:
                yield column, f"{error}; correct the cell, or empty it if the value is unknown"
        return
    column = target.column or ""
    value = slide.value(column)
    if value is None:
        return
    names = ", ".join(task.target.classes)
    for label in dict.fromkeys(classes_of(slide, task)):
        if not label:
            yield column, f"{value!r}, with an empty item; remove the comma"
        elif task.target.classes and label not in task.target.classes:
            yield (
                column,
                f"{label!r}, not one of target.classes ({names}); correct the cell, map it under target.labels, or "
                "empty it if unknown",
            )


def _place_problems(slides: list[Slide], config: Config) -> Iterator[str]:
    """Positions to explain on slides that are not in the sheet."""
    known = {s.slide_id for s in slides}
    # Without training, the configuration may be that of the training cohort, whose slides are not in this sheet.
    all_reused = bool(config.tasks) and all(task.trained for task in config.tasks.values())
    if all_reused or all(s.split == "predict" for s in slides):
        return
    for key in ("shap_at", "regions"):
        for place in getattr(config.explain, key):
            if place[0] not in known:
                yield f"explain.{key} names slide {place[0]!r}, which is not in the sheet"


def _group_problems(slides: list[Slide], config: Config) -> Iterator[str]:
    """Columns of subgroups with so many values that they are no groups."""
    for column in sorted(group_columns(config)):
        values = {value for slide in slides if (value := slide.value(column)) is not None}
        for group in alike(values, folded):
            yield f"column {column!r}: values differ only in case, spaces or Unicode form: {quoted(group)}"
        if len(values) > MOST_GROUPS:
            yield (
                f"column {column!r} of evaluate.subgroups has {len(values)} values, more than {MOST_GROUPS}; enter "
                "groups, such as 50-59 instead of 57"
            )


def _missing_files(slides: Iterable[Slide], layout: Layout) -> list[str]:
    """Files that are needed and do not exist. The file of a slide is not needed where its store is whole.

    Slides in an object store are not looked up: that takes Snakemake's settings.
    """
    problems = []
    for slide in slides:
        there = in_object_store(slide.path) or Path(slide.path).exists()
        if not there and (reason := why_not_alone(slide, layout)):
            problems.append(f"slide {slide.slide_id}: file {slide.path} does not exist, {reason}")
        for path in (path for path in slide.annotation_files if not Path(path).exists()):
            fault = "is in an object store: copy it into a folder" if in_object_store(path) else "does not exist"
            problems.append(f"slide {slide.slide_id}: annotation file {path} {fault}")
    return problems
