"""Random histories of a cohort: edits of sheet, slides, settings, code and results, and runs that end, fail or die.

After every step, ``plan=new`` must plan the jobs that ``plan=all`` plans:

    python -m tests.histories FOLDER --histories 100
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests import pretended_runs
from tests.made_up_cohort import VARIANTS, Cohort
from tests.pretended_runs import Answer, Fate
from tests.workshop import CODE

NEW, ALL = ("--config", "plan=new"), ("--config", "plan=all")
TARGETS = (
    *(("--", "preprocess"), ("--", "predict"), ("--until", "tabulate_patches"), ("--", "results/quarantine.json")),
    *(("--forcerun", "annotate"), ("--forcerun", "score"), ("--forceall",), ("--rerun-triggers", "mtime")),
    ("--touch",),
)
"""What a run is asked for if it is not everything that must run."""

NOT_RESULTS = ("audit", "memory")
FEWEST = 8
BRANCHES = 5
"""Changes of results that are tried at each step, and undone."""

Step = tuple[int, Callable[[], None]]
"""How often something happens, in relation to other things, and what."""


class Edits:
    """What may happen to a cohort and its results between two runs. ``told`` says what happened."""

    def __init__(self, cohort: Cohort, drawn: random.Random) -> None:
        self.cohort, self.folder, self.drawn = cohort, cohort.folder, drawn
        self.told: list[str] = []
        self.kept: list[tuple[Path, bytes, int, int]] = []

    def _row(self) -> dict[str, str]:
        return self.drawn.choice(self.cohort.rows)

    # --- sheet and slides -------------------------------------------------------------------------------------------

    def add_slide(self) -> None:
        """A slide of a new patient, or of one that has slides."""
        known, new = self._row(), self.drawn.random() < 0.5
        split = self.drawn.choice(["predict", "predict", "predict", "test", "train", "val"]) if new else known["split"]
        patient = f"q{self.cohort.added}" if new else known["patient_id"]
        name = self.cohort.add(patient=patient, split=split if self.cohort.splits else "")
        self.told.append(f"add {name} of {patient} as {split}")

    def remove_slide(self) -> None:
        """A row of the sheet."""
        if len(self.cohort.rows) > FEWEST:
            row = self._row()
            self.cohort.rows.remove(row)
            self.told.append(f"remove {row['slide_id']} ({row['split']})")

    def change_bytes(self) -> None:
        """Of a slide or of its annotation."""
        row = self._row()
        place = self.folder / (row[self.drawn.choice(["path", "path", "annotation"])] or row["path"])
        place.write_text(f"other bytes {self.drawn.random()}")
        self.told.append(f"change the bytes of {place.name} ({row['split']})")

    def touch_source(self) -> None:
        """The file of a slide."""
        row = self._row()
        os.utime(self.folder / row["path"])
        self.told.append(f"touch the file of {row['slide_id']}")

    def move_source(self) -> None:
        """The file of a slide."""
        row = self._row()
        place = self.folder / row["path"]
        moved = place.with_name(f"{row['slide_id']}_{self.drawn.randrange(10**6)}.svs")
        place.rename(moved)
        row["path"] = f"slides/{moved.name}"
        self.told.append(f"move the file of {row['slide_id']}")

    def change_cell(self) -> None:
        """A label, a site, or the role of a patient."""
        row, column = self._row(), self.drawn.choice(["site", "split", "nuclei_share", "outcome", "nuclei_rich"])
        values = {
            "site": ["north", "south"],
            "nuclei_rich": ["no", "yes"],
            "split": ["train", "val", "test", "predict"],
        }
        value = self.drawn.choice(values.get(column, ["0.25", "0.75"]))
        if column == "split" and not self.cohort.splits:
            return
        of_patient = column in ("split", "outcome")
        for other in self.cohort.rows:
            if other is row or (of_patient and other["patient_id"] == row["patient_id"]):
                other[column] = value
        self.told.append(f"{column} of {row['slide_id']} := {value}")

    def change_patient(self) -> None:
        """A slide is given to the patient of another one."""
        row, other = self._row(), self._row()
        row |= {column: other[column] for column in ("patient_id", "split", "outcome")}
        self.told.append(f"{row['slide_id']} is of the patient of {other['slide_id']}")

    def change_annotation(self) -> None:
        """A slide loses its annotation, or gets it back."""
        row = self._row()
        row["annotation"] = "" if row["annotation"] else f"annotations/{row['slide_id']}.png"
        self.told.append(f"annotation of {row['slide_id']} := {row['annotation'] or 'none'}")

    # --- settings and code ------------------------------------------------------------------------------------------

    def change_setting(self) -> None:
        """A setting that changes results, or one that does not."""
        where, key, value = self.drawn.choice(self._settings(self.drawn.randrange(1, 10)))
        where[key] = value
        self.told.append(f"setting {key} := {value}")

    def _settings(self, value: int) -> list[tuple[dict[str, Any], str, Any]]:
        settings = self.cohort.settings
        found: list[tuple[dict[str, Any], str, Any]] = [
            (settings, "seed", value),
            (settings.setdefault("tissue", {}), "close_um", 40.0 + value),
            (settings["explain"], "overlay_mpp", 3.0 + value),
            (settings, "max_quarantined", 0.3 + value / 100),
        ]
        for task in settings["tasks"].values():
            found += [(task, "train", task["train"] | {"learning_rate": value / 1000})] if "train" in task else []
            found.append((task, "predict", task.get("predict", {}) | {"batch": 8 + value}))
            found.append((task, "predict", task.get("predict", {}) | {"roles": ["val", "test", "predict"]}))
            found.append((task, "evaluate", task.get("evaluate", {}) | {"prevalences": [value / 20]}))
        found += [(entry, "block_px", 256 * value) for entry in settings.get("radhical", {}).values()]
        graphs, cascades = settings.get("graphs", {}).values(), settings.get("cascades", {}).values()
        found += [(entry, "max_edge_um", 50.0 + value) for entry in graphs if entry.get("edges") == "delaunay"]
        return found + [(entry, "max_loss", value / 100) for entry in cascades if "thresholds" not in entry]

    def change_code(self) -> None:
        """A comment or a statement more in a file of code, or a line more in an environment."""
        scripts, rules, envs = (self.folder / name for name in ("scripts", "rules", "envs"))
        place = self.drawn.choice(sorted([*scripts.rglob("*.py"), *rules.glob("*.smk"), *envs.glob("*")]))
        line = self.drawn.choice(["# A comment.", f"EDITED = {self.drawn.randrange(1000)}"])
        line = line if place.suffix in (".py", ".smk") else "# A comment."
        place.write_text(f"{place.read_text()}\n{line}\n")
        self.told.append(f"{place.relative_to(self.folder)}: {line}")

    # --- results ----------------------------------------------------------------------------------------------------

    def _results(self, *, sidecars: bool = False) -> list[Path]:
        results = self.folder / "results"
        files = sorted(path for path in results.rglob("*") if path.is_file())
        files = [path for path in files if path.relative_to(results).parts[0] not in NOT_RESULTS]
        return [path for path in files if path.name.endswith(".meta.json") == sidecars]

    def _keep(self, places: Sequence[Path]) -> None:
        """Keep files, and times of their folders, for `undo`."""
        for place in places:
            content, found, folder = place.read_bytes(), place.stat(), place.parent.stat()
            self.kept.append((place, content, found.st_mtime_ns, folder.st_mtime_ns))

    def undo(self) -> None:
        """Restore the results that were changed since the last time."""
        for place, content, modified, folder_modified in reversed(self.kept):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            os.utime(place, ns=(modified, modified))
            os.utime(place.parent, ns=(folder_modified, folder_modified))
        self.kept.clear()

    def _lose(self, files: Sequence[Path], counts: list[int]) -> None:
        lost = self.drawn.sample(files, min(len(files), self.drawn.choice(counts)))
        self._keep(lost)
        for place in lost:
            place.unlink()
        self.told.append(f"lose {', '.join(str(place.relative_to(self.folder)) for place in lost[:9])}")

    def lose_outputs(self) -> None:
        """Some files of results, logs or benchmarks."""
        self._lose(self._results(), [1, 1, 1, 2, 5])

    def lose_shared_output(self) -> None:
        """A file that is not of one slide."""
        slides = {row["slide_id"] for row in self.cohort.rows}
        self._lose([p for p in self._results() if not slides & {p.name.split(".")[0], *p.parts}], [1])

    def lose_sidecars(self) -> None:
        """Some sidecars."""
        self._lose(self._results(sidecars=True), [1, 1, 3])

    def _records(self) -> list[Path]:
        return sorted(p for p in (self.folder / ".snakemake" / "metadata").rglob("*") if p.is_file())

    def lose_some_records(self) -> None:
        """Some of Snakemake's records."""
        self._lose(self._records(), [1, 5, 50])

    def lose_records(self) -> None:
        """All of Snakemake's records, and sometimes a sidecar."""
        self._lose(self._records(), [10**6])
        if self.drawn.random() < 0.5:
            self.lose_sidecars()

    def lose_memory(self) -> None:
        """What the last run left for the next."""
        self._lose([p for p in [self.folder / "results" / "memory" / "last_run.json"] if p.exists()], [1])

    def touch_output(self) -> None:
        """A result."""
        if files := self._results():
            place = self.drawn.choice(files)
            self._keep([place])
            os.utime(place)
            self.told.append(f"touch {place.relative_to(self.folder)}")

    def alter_output(self) -> None:
        """A result gets other bytes."""
        if files := self._results():
            place = self.drawn.choice(files)
            self._keep([place])
            place.write_text(f"{place.read_text()} ")
            self.told.append(f"alter {place.relative_to(self.folder)}")

    def of_cohort(self) -> list[Step]:
        """Edits of sheet, slides, settings and code."""
        return [
            *((5, self.add_slide), (3, self.remove_slide), (4, self.change_bytes), (1, self.touch_source)),
            *((2, self.move_source), (4, self.change_cell), (2, self.change_patient), (2, self.change_annotation)),
            *((5, self.change_setting), (2, self.change_code)),
        ]

    def of_results(self) -> list[Step]:
        """Changes of results, and of what is known of them."""
        return [
            *((5, self.lose_outputs), (4, self.lose_shared_output), (2, self.lose_sidecars), (2, self.touch_output)),
            *((2, self.alter_output), (1, self.lose_records), (1, self.lose_some_records), (1, self.lose_memory)),
        ]


class Runs:
    """Runs of a cohort. ``complete`` says whether the last one was asked for everything and ended well."""

    def __init__(self, edits: Edits) -> None:
        self.folder, self.drawn, self.told = edits.folder, edits.drawn, edits.told
        self.complete = False

    def _run(self, *arguments: str, fate: Fate | None = None) -> int:
        plan = self.drawn.choice([NEW, NEW, NEW, ALL])
        answer = pretended_runs.run(self.folder, *plan, *arguments, fate=fate)
        jobs = "refused" if answer.jobs is None else f"{len(answer.jobs)} jobs"
        self.told.append(f"run {' '.join([*plan, *arguments])} {fate or ''}: {jobs}, status {answer.status}")
        return answer.status

    def complete_run(self) -> None:
        """A run that ends well."""
        self.complete = self._run() == 0

    def killed_run(self) -> None:
        """A run that is killed in the middle of a job."""
        self._run(fate=Fate(killed=self.drawn.choice([1, 2, 3, 5, 8, 13, 21, 34])))

    def failing_run(self) -> None:
        """A run of which some jobs fail."""
        self._run(fate=Fate(failing=self.drawn.choice([0.05, 0.3]), salt=str(self.drawn.random())))

    def partial_run(self) -> None:
        """A run that is asked for something else than everything that must run."""
        self._run(*self.drawn.choice(TARGETS))

    def all(self) -> list[Step]:
        """All kinds of runs."""
        return [(6, self.complete_run), (3, self.killed_run), (2, self.failing_run), (1, self.partial_run)]


class History:
    """One history of a cohort, drawn from a generator of random numbers."""

    def __init__(self, cohort: Cohort, drawn: random.Random) -> None:
        self.cohort, self.drawn = cohort, drawn
        self.edits = Edits(cohort, drawn)
        self.runs = Runs(self.edits)
        self.compared, self.refused = 0, False

    def go_on(self, steps: int) -> str:
        """Take steps, and compare both plans after each; returns the first difference."""
        self.cohort.write()
        for _ in range(steps):
            before = copy.deepcopy((self.cohort.rows, self.cohort.settings))
            for _ in range(self.drawn.choice([1, 1, 2])):
                self._take_one(self.edits.of_cohort() + self.edits.of_results())
            self.edits.kept.clear()
            if difference := self._difference():
                return difference
            if self.refused:
                self.cohort.rows, self.cohort.settings = before
                self.cohort.write()
            elif difference := self._difference_after_changes():
                return difference
            if self.drawn.random() < 0.6:
                self._take_one(self.runs.all())
                if difference := self._difference():
                    return difference
        return ""

    def _difference_after_changes(self) -> str:
        """The same after each of some changes of results, which are undone."""
        changes = [self._change(self.drawn.randrange(10**9)) for _ in range(BRANCHES)]
        answers = pretended_runs.planned_after(self.cohort.folder, [change for change, _ in changes])
        for number, (_, told) in enumerate(changes):
            self.compared += 1
            new, every = answers[2 * number : 2 * number + 2]
            if new.jobs != every.jobs:
                self.edits.told.append((self.cohort.folder / told).read_text())
                return _text_of_difference(new, every)
        return ""

    def _change(self, seed: int) -> tuple[pretended_runs.Change, str]:
        """A change of results, drawn from a seed, and the file in which it says what it changed."""
        told = f".told.{seed}"

        def change() -> Callable[[], None]:
            edits = Edits(self.cohort, random.Random(seed))
            weights, steps = zip(*edits.of_results(), strict=True)
            edits.drawn.choices(steps, weights)[0]()
            (self.cohort.folder / told).write_text("; ".join(edits.told))
            return edits.undo

        return change, told

    def _take_one(self, choices: list[Step]) -> None:
        weights, steps = zip(*choices, strict=True)
        self.drawn.choices(steps, weights)[0]()
        self.cohort.write()

    def _difference(self) -> str:
        self.compared += 1
        new, every = pretended_runs.planned_twice(self.cohort.folder, alone=self.drawn.random() < 0.1)
        self.refused = new.jobs is None
        complete, self.runs.complete = self.runs.complete, False
        if new.jobs == every.jobs and not (complete and every.jobs):
            self.edits.told.append("refused" if new.jobs is None else f"planned {len(new.jobs)} jobs: {new.said}")
            return ""
        return (f"after a complete run: {sorted(every.jobs or ())}\n" * complete) + _text_of_difference(new, every)


def _text_of_difference(new: Answer, every: Answer) -> str:
    mine, theirs = new.jobs or frozenset(), every.jobs or frozenset()
    found = [f"not in plan=new: {sorted(theirs - mine)}", f"only in plan=new: {sorted(mine - theirs)}"]
    return "\n".join([*found, *(answer.text[-1500:] for answer in (new, every) if answer.jobs is None)])


def replace(folder: Path, source: Path) -> None:
    """Make a folder a copy of another one, with all times."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, symlinks=True)


def finished_cohort(place: Path, base: Path, variant: str, *, splits: bool) -> Cohort:
    """The cohort in ``place`` after a complete run, which is made in ``base`` when it is first needed."""
    if base.exists():
        replace(place, base)
        cohort = Cohort(place, variant, splits=splits)
        cohort.read_rows()
        return cohort
    for name in os.listdir(place):
        if name not in CODE:
            shutil.rmtree(place / name) if (place / name).is_dir() else os.unlink(place / name)
    cohort = Cohort(place, variant, splits=splits)
    cohort.create()
    made = pretended_runs.run(place, *ALL)
    assert made.status == 0, f"{variant}: {made.text[-3000:]}"
    assert pretended_runs.planned(place, *ALL).jobs == frozenset(), variant
    replace(base, place)
    return cohort


def main() -> int:
    """Draw histories, and print every difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--histories", type=int, default=len(VARIANTS))
    parser.add_argument("--first", type=int, default=0, help="number of the first history, from which it is drawn")
    parser.add_argument("--steps", type=int, default=6, help="steps of the longest history")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    given = parser.parse_args()
    folder, variants = given.folder.resolve(), given.variants.split(",")
    place = folder / "cohort"
    place.mkdir(parents=True, exist_ok=True)
    Cohort(place, variants[0]).workshop.copy_code()
    pretended_runs.import_libraries(place / "scripts")
    differing = compared = 0
    for number in range(given.first, given.first + given.histories):
        start, drawn = time.monotonic(), random.Random(number)
        variant, splits = variants[number % len(variants)], drawn.random() < 0.85
        cohort = finished_cohort(place, folder / f"{variant}-{splits}", variant, splits=splits)
        history = History(cohort, drawn)
        difference = history.go_on(drawn.randint(1, given.steps))
        compared += history.compared
        differing += bool(difference)
        seconds = time.monotonic() - start
        print(f"{number}, {variant}: {history.compared} plans, {seconds:.0f} s", flush=True)
        print(*(f"  {line}" for line in history.edits.told), sep="\n", flush=True)
        print(difference and f"DIFFERENT: {difference}", flush=True)
    print(f"{differing} of {given.histories} histories differ, {compared} plans compared")
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
