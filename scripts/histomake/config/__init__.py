"""The configuration: keys of config.yaml with their defaults, units and descriptions.

Every Snakemake job, local or remote, imports this package, so it imports pydantic, but no large library. A job is
re-run if the dump of its own section changes; the code of this package is therefore not part of code digests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from histomake.base.cell_origins import CellOrigin
from histomake.base.errors import ConfigError
from histomake.base.names import name_problems
from histomake.config.bags import Bag, BagPooling
from histomake.config.cascades import (
    SEARCHED,
    CascadeBaselines,
    CascadeNetwork,
    CascadeSearch,
    CascadeThresholds,
    CascadeTrain,
    Radhical,
    ThresholdChoice,
)
from histomake.config.cells import Cells
from histomake.config.containers import Containers
from histomake.config.encoders import Encoder, PatchChoice
from histomake.config.generators import Generator, generator_problems
from histomake.config.gnn import Gnn
from histomake.config.graphs import Graph, class_names, graph_problems
from histomake.config.kinds import ACCEPTED
from histomake.config.microarrays import Microarray
from histomake.config.patch_cascades import Cascade, StageThresholds, cascade_problems
from histomake.config.patch_choices import choice_problems
from histomake.config.probes import Probe
from histomake.config.reporting import Audit, Explain, Export
from histomake.config.section import NO_BOOLEAN, Name, Section, Share
from histomake.config.slides import Annotations, Convert, Grid, Quality, Readers, Tissue
from histomake.config.source import ConfigFile
from histomake.config.splits import Split
from histomake.config.sweeps import Sweep, add_swept_tasks
from histomake.config.targets import Target
from histomake.config.tasks import Predict, Task, like_problems
from histomake.config.training import Augment, Model, Train
from histomake.config.transfers import StainTransfer, transfer_problems, transferred_task_problems

__all__ = [
    "SEARCHED",
    "Annotations",
    "Augment",
    "Bag",
    "BagPooling",
    "Cascade",
    "CascadeBaselines",
    "CascadeNetwork",
    "CascadeSearch",
    "CascadeThresholds",
    "CascadeTrain",
    "Cells",
    "Config",
    "ConfigFile",
    "Containers",
    "Convert",
    "Encoder",
    "Explain",
    "Generator",
    "Gnn",
    "Graph",
    "Grid",
    "Microarray",
    "Model",
    "PatchChoice",
    "Predict",
    "Probe",
    "Quality",
    "Radhical",
    "Readers",
    "Section",
    "Split",
    "StageThresholds",
    "StainTransfer",
    "Sweep",
    "Target",
    "Task",
    "ThresholdChoice",
    "Tissue",
    "Train",
    "load_config",
    "parse_config",
]


class Config(Section):
    """config.yaml."""

    sheet: str = Field(
        "config/slides.tsv",
        description="The slide sheet, a TSV. Relative paths start in the folder in which snakemake is started.",
    )
    results: str = Field("results", description="Folder for all outputs of the workflow.")
    seed: int = Field(0, ge=0, description="Seed of all random numbers.")
    on_bad_slide: Literal["quarantine", "fail"] = Field(
        "quarantine",
        description="quarantine: record the reason and continue with the other slides; fail: stop the run.",
    )
    max_quarantined: Share = Field(
        0.2, description="Share of the cohort that may be in quarantine. If more slides are, the run stops."
    )
    plan: Literal["new", "all"] = Field(
        "new",
        exclude=True,
        description="new: plan only slides that are new or have changed since the last complete run, provided that "
        "settings, code and training slides are the same, and all slides otherwise; all: plan every slide, which takes "
        "longer and leads to the same jobs. On the command line: `--config plan=all`.",
    )
    convert: Convert = Field(default_factory=Convert, description="Conversion of slides to OME-Zarr.")
    tissue: Tissue = Field(default_factory=Tissue, description="Tissue detection.")
    quality: Quality = Field(default_factory=Quality, description="Artefact detection.")
    microarray: Microarray | None = Field(None, description="Cores of tissue microarrays; by default none are sought.")
    annotations: Annotations = Field(default_factory=Annotations, description="Annotation classes.")
    readers: Readers = Field(default_factory=Readers, description="Several readers of one slide.")
    grids: dict[Name, Grid] = Field(default_factory=lambda: {"x20": Grid()}, description="Patch grids by name.")
    encoders: dict[Name, Encoder] = Field(
        default_factory=dict, description="Encoders by name. Their features of all slides are computed and stored."
    )
    tasks: dict[Name, Task] = Field(default_factory=dict, description="Tasks by name.")
    sweeps: dict[Name, Sweep] = Field(
        default_factory=dict,
        description="Sweeps by name: tasks <name>_1, <name>_2, ... that differ from a task in the values given. The "
        "report compares them on validation patients.",
    )
    radhical: dict[Name, Radhical] = Field(default_factory=dict, description="Nucleus cascades (RADHicaL) by name.")
    cascades: dict[Name, Cascade] = Field(
        default_factory=dict,
        description="Cascades of tasks that classify patches, by name: what they predict is in the catalog as "
        "cascade_<name>.",
    )
    cells: dict[Name, Cells] = Field(
        default_factory=dict,
        description="Cells as objects, by name: a table per slide, joined in the catalog as cells_<name>.",
    )
    graphs: dict[Name, Graph] = Field(
        default_factory=dict,
        description="Graphs of patches, cells or regions, by name: one of each slide that has nodes; their statistics "
        "are in the catalog as graph_<name>.",
    )
    stain_transfers: dict[Name, StainTransfer] = Field(
        default_factory=dict, description="Stain transfers (CycleGAN) by name; what they make is marked as in silico."
    )
    generators: dict[Name, Generator] = Field(
        default_factory=dict, description="Growing generators by name; what they make is marked as in silico."
    )
    explain: Explain = Field(default_factory=Explain, description="Embedding, attribution, overlays.")
    compare: list[tuple[Name, Name]] = Field(
        default_factory=list,
        description="Pairs of tasks with the same kind and target to compare on the test slides that they have in "
        "common: [[gated, mean]]. Differences of all metrics of slides and patients have intervals and p values by "
        "paired bootstrap of patients, AUROC of patients also by DeLong's test. Give both tasks the same split, or "
        "roles in the column split of the sheet.",
    )
    audit: Audit = Field(default_factory=Audit, description="Audit trail.")
    export: Export = Field(default_factory=Export, description="What leaves the site.")
    containers: Containers = Field(default_factory=Containers, exclude=True, description="Images in which jobs run.")

    @model_validator(mode="before")
    @classmethod
    def _no_patch_cascades(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "patch_cascades" in raw:
            raise ValueError(
                "patch_cascades is now cascades: rename it, and list the names of the tasks in stages; thresholds are "
                "searched, or typed into thresholds.lower and thresholds.upper (docs/cascades.md)"
            )
        return raw

    @field_validator("grids")
    @classmethod
    def _some_grid(cls, grids: dict[str, Grid]) -> dict[str, Grid]:
        if not grids:
            raise ValueError("define at least one grid")
        return grids

    @model_validator(mode="after")
    def _share_splits(self) -> Config:
        """Give tasks with ``split.like`` the split of the task that it names."""
        if problems := list(like_problems(self.tasks)):
            raise ValueError("; ".join(problems))
        for name, task in self.tasks.items():
            if task.split.like is not None:
                split = Split(**{**self.tasks[task.split.like].split.dump(), "like": task.split.like})
                self.tasks[name] = task.model_copy(update={"split": split})
        if problems := list(add_swept_tasks(self.sweeps, self.tasks)):
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        known = set(self.annotations.classes.values())
        problems = list(self._encoder_problems())
        for name, task in self.tasks.items():
            if task.grid not in self.grids:
                problems.append(f"tasks.{name}.grid: {task.grid!r} is not under grids ({', '.join(self.grids)})")
            elif task.bag.crop is not None and task.bag.crop > self.grids[task.grid].size:
                problems.append(
                    f"tasks.{name}.bag.crop: {task.bag.crop} px is more than a patch of grid {task.grid}; take at most "
                    f"{self.grids[task.grid].size}"
                )
            if task.target.source != "sheet":
                problems += [
                    f"tasks.{name}.target.classes: {c!r} is not a value of annotations.classes"
                    for c in task.target.classes
                    if c not in known
                ]
            problems += [
                f"tasks.{name}.train.containing: {c!r} is not a value of annotations.classes"
                for c in task.train.containing
                if c not in known
            ]
            problems += [
                f"tasks.{name}.bag.containing: {c!r} is not a value of annotations.classes"
                for c in task.bag.containing
                if c not in known
            ]
        problems += [*self._comparison_problems(), *self._cell_problems()]
        problems += graph_problems(
            self.graphs, grids=self.grids, encoders=self.encoders, cells=self.cells, tasks=self.tasks
        )
        problems += transfer_problems(self.stain_transfers, grids=self.grids, encoders=self.encoders)
        problems += cascade_problems(self.cascades, tasks=self.tasks, grids=self.grids, encoders=self.encoders)
        problems += choice_problems(
            self.encoders, tasks=self.tasks, grids=self.grids, graphs=self.graphs, maps=self.explain.maps
        )
        problems += transferred_task_problems(self.tasks, self.stain_transfers, self.grids)
        problems += generator_problems(self.generators, encoders=self.encoders)
        for name, grid in self.grids.items():
            problems += [
                f"grids.{name}.roi: {c!r} is not a value of annotations.classes" for c in grid.roi if c not in known
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _comparison_problems(self) -> Iterator[str]:
        for pair in self.compare:
            what = f"compare: [{', '.join(pair)}]"
            if unknown := sorted(set(pair) - set(self.tasks)):
                yield f"{what}: {', '.join(unknown)} is not under tasks"
                continue
            first, second = (self.tasks[name] for name in pair)
            if pair[0] == pair[1]:
                yield f"{what}: a task cannot be compared with itself"
            if (first.kind, first.target) != (second.kind, second.target):
                yield f"{what}: the tasks have different kinds or targets, so that their metrics cannot be compared"
            if first.predict.patient_truth != second.predict.patient_truth:
                yield f"{what}: predict.patient_truth must be the same, because the truths of patients depend on it"
        if len(set(self.compare)) < len(self.compare):
            yield "compare: a pair is listed twice"

    def _cell_problems(self) -> Iterator[str]:
        segmenting = {name: task for name, task in self.tasks.items() if ACCEPTED[task.kind].label_image}
        offered: dict[CellOrigin, dict[str, list[str]]] = {
            "annotation": {"": sorted(set(self.annotations.classes.values()))},
            "radhical": {name: [] for name in self.radhical},
            "task": {name: task.target.classes for name, task in segmenting.items()},
        }
        for name, cells in self.cells.items():
            makers = offered[cells.origin]
            if cells.maker not in makers:
                yield f"cells.{name}.source: there is no {cells.source} that segments ({', '.join(makers) or 'none'})"
                continue
            unknown = [c for c in cells.classes if c not in makers[cells.maker]]
            yield from (f"cells.{name}.classes: {c!r} is not a class of {cells.source}" for c in unknown)

    def _encoder_problems(self) -> Iterator[str]:
        for name, encoder in self.encoders.items():
            if encoder.grid not in self.grids:
                yield f"encoders.{name}.grid: {encoder.grid!r} is not under grids ({', '.join(self.grids)})"
            if encoder.source == "task" and encoder.target not in self.tasks:
                yield f"encoders.{name}.name: {encoder.target!r} is not under tasks"
        for name, task in self.tasks.items():
            start = self.encoders.get(str(task.model.pretrained))
            if start is not None and not (start.source == "folder" or isinstance(start.weights, str)):
                yield f"tasks.{name}.model.pretrained: encoder {task.model.pretrained} has no file of weights"
            if start is not None and start.source == "folder" and start.weights is not None:
                yield f"tasks.{name}.model.pretrained: put the weights of the encoder into its folder, beside its card"
            if task.features is None:
                continue
            if task.features not in self.encoders:
                known = ", ".join(self.encoders) or "none"
                yield f"tasks.{name}.features: {task.features!r} is not under encoders ({known})"
                continue
            encoder = self.encoders[task.features]
            if encoder.grid != task.grid:
                yield f"tasks.{name}.grid: {task.grid} is not the grid of encoder {task.features} ({encoder.grid})"
            source = self.tasks.get(encoder.target) if encoder.source == "task" else None
            if source is not None and source.split.folds != task.split.folds:
                yield (
                    f"tasks.{name}.split.folds: encoder {task.features} has one model per fold of task "
                    f"{encoder.target}, which has {source.split.folds}; take as many"
                )
        for name in self.explain.maps:
            if name not in self.encoders:
                yield f"explain.maps: {name!r} is not under encoders ({', '.join(self.encoders) or 'none'})"
            elif self.encoders[name].source == "task":
                yield f"explain.maps: {name} has another model in each fold, so its features have no common map"
        for group, members in self.encoder_groups.items():
            if len(grids := {self.encoders[name].grid for name in members}) > 1:
                yield f"encoders: group {group} has encoders of several grids ({', '.join(sorted(grids))})"
            if len({self.encoders[name].decode for name in members}) > 1:
                yield f"encoders: group {group} reads its patches once; give its encoders the same decode"

    @model_validator(mode="after")
    def _check_names(self) -> Config:
        """Refuse names of files, tables and columns that cannot be kept apart, all at once."""
        classes = set(self.annotations.classes.values()) | {c for grid in self.grids.values() for c in grid.roi}
        for task in self.tasks.values():
            classes |= {*task.target.classes, *task.target.labels.values()}
        for cascade in self.radhical.values():
            classes |= set(cascade.objects)
        problems = [
            *name_problems("grids", self.grids, endings=("_kept",)),
            *name_problems("encoders", self.encoders, reserved=("patch_id", "x", "y")),
            *name_problems("encoders.<name>.group", self.encoder_groups),
            *name_problems("tasks", self.tasks),
            *name_problems("sweeps", self.sweeps),
            *name_problems("radhical", self.radhical),
            *name_problems("cascades", self.cascades),
            *name_problems("cells", self.cells),
            *name_problems("graphs", self.graphs),
            *name_problems("stain_transfers", self.stain_transfers),
            *name_problems("generators", self.generators),
            *name_problems("classes", classes),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def max_lost(self) -> float:
        """Share of slides that may be in quarantine before a run stops."""
        return 0.0 if self.on_bad_slide == "fail" else self.max_quarantined

    @property
    def encoder_groups(self) -> dict[str, list[str]]:
        """Names of the encoders of each group: those whose features are computed in one job. Sorted."""
        groups: dict[str, list[str]] = {}
        for name, encoder in sorted(self.encoders.items()):
            groups.setdefault(encoder.group or name, []).append(name)
        return groups

    @property
    def class_names(self) -> list[str]:
        """Annotation classes in the order of the ``area_<class>`` columns."""
        return sorted(set(self.annotations.classes.values()))

    def graph_classes(self, name: str) -> list[str]:
        """Classes of the nodes of a graph, in the order of the feature."""
        return class_names(self.graphs[name], cells=self.cells, tasks=self.tasks, drawn=self.class_names)

    @property
    def roi_classes(self) -> list[str]:
        """Annotation classes that only bound regions of interest: no task and no cascade learns them."""
        learned = {c for task in self.tasks.values() if task.target.source != "sheet" for c in task.target.classes}
        learned |= {c for cascade in self.radhical.values() for c in cascade.objects}
        return sorted({c for grid in self.grids.values() for c in grid.roi} - learned)


def parse_config(raw: dict[str, Any], *, origin: str = "config.yaml", files: Sequence[Path | str] = ()) -> Config:
    """Validate raw YAML values. Raises one ConfigError that lists all invalid keys.

    ``files``: where the values come from; later ones have priority. Their repeated keys and unclear numbers are
    problems too, and problems are listed with the line. Files with other sections than ``raw`` are those of a workflow
    that uses this one as a module, and are left out.
    """
    sources = [source for source in map(ConfigFile, files) if source.values().keys() <= raw.keys()]
    lines = [f"{_in_file(source, sources)}{problem}" for source in sources for problem in source.problems()]
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines += [_described(problem, sources) for problem in error.errors()]
    if lines:
        raise ConfigError(f"{origin} has {len(lines)} problem(s):\n" + "\n".join(f"  {line}" for line in lines))
    return config


def _described(problem: ErrorDetails, sources: Sequence[ConfigFile]) -> str:
    """A problem found by pydantic, with the line of the value and what to do if YAML reads it as something else."""
    place, message = ".".join(map(str, problem["loc"])) or "(top level)", problem["msg"]
    for source in reversed(sources):
        if written := source.find(problem["loc"], problem["input"]):
            hint = {"string_type": written.cure, NO_BOOLEAN: written.reading}.get(problem["type"], "")
            return f"{_in_file(source, sources)}line {written.line}: {place}: {message}{hint}"
    return f"{place}: {message}"


def _in_file(source: ConfigFile, sources: Sequence[ConfigFile]) -> str:
    return f"{source.path}, " if len(sources) > 1 else ""


def load_config(path: Path | str) -> Config:
    """Read and validate a config.yaml."""
    return parse_config(ConfigFile(path).values(), origin=str(path), files=[path])
