"""Plan of a run: which slides each model is trained on, tested on and predicts, and where its weights come from.

The plan follows from the configuration and the slide sheet alone, so it is known before any job runs. The imports are
light because every job on a cluster makes the plan, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from histomake.annotation.formats import is_mask
from histomake.base.layout import ONNX, Layout
from histomake.base.records.features import column_name
from histomake.cohort.leakage import FITTED, JUDGED, Assignment
from histomake.cohort.sheet import Slide
from histomake.config import Cells, Config
from histomake.config.kinds import ACCEPTED
from histomake.config.tasks import PREDICTED, VALIDATION
from histomake.model import reuse
from histomake.pictures.kinds import views_of
from histomake.planning.roles import roles_in_cascades, roles_in_tasks

Entry = list[Any]
"""What a script must know of a slide besides its files: id, patient id, labels by column. A param: plain values."""


@dataclass(frozen=True)
class Plan:
    """Roles of all slides, and what follows from them.

    config, slides, layout: of the workflow; slides by id.
    roles: assignments of each task, by name.
    cascade_roles: assignments of each nucleus cascade, by name.
    """

    config: Config
    slides: Mapping[str, Slide]
    layout: Layout
    roles: Mapping[str, Sequence[Assignment]]
    cascade_roles: Mapping[str, Sequence[Assignment]]

    # --- tasks ------------------------------------------------------------------------------------------------------

    @cached_property
    def trained(self) -> list[str]:
        """Tasks whose models are trained: those that the sheet gives slides to learn from.

        The models of all others exist: they are copied from the folder that the task names, or used where they lie in
        the results folder. No rule makes those, so no rule can train them again.
        """
        return [name for name, roles in self.roles.items() if any(a.role in FITTED for a in roles)]

    @cached_property
    def reused(self) -> list[str]:
        """Tasks whose models are copied from another folder."""
        tasks = self.config.tasks.items()
        return [n for n, t in tasks if t.trained and Path(t.trained).resolve() != self.layout.models(n).resolve()]

    @cached_property
    def measured(self) -> list[str]:
        """Tasks with slides to test."""
        return [name for name, roles in self.roles.items() if any(a.role == "test" for a in roles)]

    @cached_property
    def segmented(self) -> list[str]:
        """Tasks whose predictions have a label image."""
        return [name for name, task in self.config.tasks.items() if ACCEPTED[task.kind].label_image]

    def folds(self, task: str) -> range:
        """Folds of a task; each has a model."""
        return reuse.folds(self.config.tasks[task])

    # --- slides -----------------------------------------------------------------------------------------------------

    @cached_property
    def masked(self) -> frozenset[str]:
        """Ids of the slides whose annotation becomes a label image: masks of classes, and consensuses of readers."""
        with_classes = frozenset() if self.config.annotations.mask_values == "cells" else self._with_mask
        return with_classes | self.read_by_several

    @cached_property
    def read_by_several(self) -> frozenset[str]:
        """Ids of the slides that several readers annotated."""
        return frozenset(slide.slide_id for slide in self.slides.values() if slide.readers)

    @cached_property
    def readers(self) -> list[str]:
        """Ids of the readers of all slides with several, sorted."""
        return sorted({reader for slide in self.slides.values() for reader in slide.readers})

    @cached_property
    def _with_mask(self) -> frozenset[str]:
        """Ids of the slides that are annotated with a mask."""
        return frozenset(slide.slide_id for slide in self.slides.values() if is_mask(slide.annotation))

    @cached_property
    def _members(self) -> dict[str, dict[tuple[int, str], list[str]]]:
        """Ids by task, fold and role."""
        found: dict[str, dict[tuple[int, str], list[str]]] = {}
        for task, roles in self.roles.items():
            members = found[task] = defaultdict(list)
            for a in roles:
                members[a.fold, a.role].append(a.slide_id)
        return found

    def slides_in(self, task: str, fold: int | str, *roles: str) -> list[str]:
        """Ids of the slides with one of the roles in a fold, sorted."""
        members = self._members[task]
        return sorted(slide for role in roles for slide in members.get((int(fold), role), ()))

    def slides_by_fold(self, task: str, *roles: str) -> list[tuple[int, str]]:
        """(fold, id) of the slides with one of the roles, sorted."""
        return [(fold, slide) for fold in self.folds(task) for slide in self.slides_in(task, fold, *roles)]

    def predicted(self, task: str) -> list[tuple[int, str]]:
        """(fold, id) of the slides that the models of a task predict, sorted."""
        return self.slides_by_fold(task, *self.config.tasks[task].predict.roles)

    def validated(self, task: str) -> list[list[Any]]:
        """[fold, id] of the predicted slides that a model was validated on, sorted: a param."""
        predicts = VALIDATION in self.config.tasks[task].predict.roles
        return [list(place) for place in self.slides_by_fold(task, VALIDATION)] if predicts else []

    def chosen_on(self, task: str) -> list[Entry]:
        """What a script must know of the slides that operating points are chosen on, in the order of `validated`."""
        wanted = self.config.tasks[task].evaluate.operating_points.model_dump(exclude_none=True)
        return [self.entry(slide) for _, slide in self.validated(task)] if wanted else []

    def subgroups(self, task: str) -> dict[str, list[str]]:
        """Values of the test slides by column of the subgroups, in the order of `entries`: a param.

        A value is an empty text where the cell is empty.
        """
        slides = [self.slides[slide] for _, slide in self.slides_by_fold(task, "test")]
        columns = self.config.tasks[task].evaluate.subgroups
        return {column: [slide.value(column) or "" for slide in slides] for column in columns}

    def planned_cohort(self, task: str) -> list[list[Any]]:
        """Fold, role and numbers of slides, patients, sites and roles of the sheet, without slides to predict: a param.

        New slides to predict do not change it. A slide without a site counts for none.
        """
        found = []
        for fold in self.folds(task):
            for role in JUDGED:
                rows = [self.slides[slide] for slide in self.slides_in(task, fold, role)]
                if rows:
                    patients, sites = {row.patient_id for row in rows}, {row.site for row in rows} - {None}
                    given = sum(row.split is not None for row in rows)
                    found.append([fold, role, len(rows), len(patients), len(sites), given])
        return found

    def entry(self, slide: str) -> Entry:
        """What a script must know of a slide."""
        row = self.slides[slide]
        return [row.slide_id, row.patient_id, dict(sorted(row.labels.items()))]

    def entries(self, task: str, *roles: str) -> list[Entry]:
        """What a script must know of the slides with one of the roles, in the order of `slides_by_fold`."""
        return [self.entry(slide) for _, slide in self.slides_by_fold(task, *roles)]

    def fitted(self, task: str, fold: int | str) -> dict[str, list[Entry]]:
        """The slides that a model is trained and validated on, by role: a part of its identity."""
        return {role: [self.entry(slide) for slide in self.slides_in(task, fold, role)] for role in FITTED}

    def fitted_slides(self, task: str, fold: int | str) -> list[str]:
        """Ids of the slides that a model is trained and validated on, in the order of `fitted`."""
        return [slide for role in FITTED for slide in self.slides_in(task, fold, role)]

    # --- models -----------------------------------------------------------------------------------------------------

    def trained_models(self, task: str) -> list[tuple[str, int]]:
        """(task, fold) of the models of a task, if they are trained."""
        return [(task, fold) for fold in self.folds(task)] if task in self.trained else []

    def model_in_use(self, task: str, fold: int | str) -> Path:
        """Folder of a model that is not trained, where it is now."""
        if task in self.reused:
            return reuse.model_folder(str(self.config.tasks[task].trained), int(fold))
        return self.layout.model(task, fold)

    def tissue_model_files(self) -> list[str]:
        """Weights and card of the model that finds tissue, if there is one."""
        if not self.config.tissue.model:
            return []
        folder = Path(self.config.tissue.model)
        return [str(_network_file(folder)), str(folder / reuse.DESCRIPTION)]

    def untrained_models(self) -> list[tuple[str, Path, bool]]:
        """(task, folder, whether it is used where it lies) of every model that is not trained."""
        names = [name for name in self.config.tasks if name not in self.trained]
        return [(n, self.model_in_use(n, fold), n not in self.reused) for n in names for fold in self.folds(n)]

    def starting_weights(self, task: str) -> Path | None:
        """Weights that a training starts from, if they are a file; not those of a model hub."""
        path = self.config.tasks[task].model.pretrained
        if isinstance(path, bool) or task in (*self.on_features, *self.on_graphs):
            return None
        if path in self.config.encoders:
            return self.files_of_encoder(path)[-1]
        return Path(path) if path.endswith(".safetensors") else Path(path) / reuse.WEIGHTS

    def pretrained(self, task: str, *, here: bool) -> list[Path]:
        """Weights that a training starts from, as far as this workflow makes them (``here``) or does not."""
        start, named = self.starting_weights(task), self.config.tasks[task].model.pretrained
        if isinstance(named, str) and named in self.config.encoders:
            return [] if here else self.files_of_encoder(named)
        return [start] if start and self.is_trained_here(start) == here else []

    @property
    def trained_on_pixels(self) -> list[str]:
        """Tasks that train a whole network here."""
        return [name for name in self.trained if name not in (*self.on_features, *self.on_graphs)]

    def foreign_weights(self) -> list[Path]:
        """Cards and weights that encoders and trainings take from elsewhere."""
        found = [path for name in self.config.encoders for path in self.files_of_encoder(name)]
        starts = [path for name in self.trained_on_pixels for path in self.pretrained(name, here=False)]
        return list(dict.fromkeys([*found, *starts]))

    def is_trained_here(self, path: Path | None) -> bool:
        """Whether a file belongs to a model that this workflow trains."""
        return path is not None and any(path.is_relative_to(self.layout.models(name)) for name in self.trained)

    def earlier_descriptions(self, task: str) -> list[Path]:
        """Descriptions of the models that a task reuses or starts from: what made those must not be tested."""
        if task not in self.trained:
            return [self.layout.description(task, fold) for fold in self.folds(task)]
        start = self.starting_weights(task)
        found = start.with_name(reuse.DESCRIPTION) if start else None
        return [found] if found and (self.is_trained_here(found) or found.is_file()) else []

    def tasks_with_views(self, views: tuple[str, ...]) -> list[str]:
        """Tasks whose predictions are drawn as exactly these views."""
        return [name for name in self.config.tasks if self.views(name) == views]

    def views(self, task: str) -> tuple[str, ...]:
        """Names of the views of a slide of a task."""
        cfg = self.config.tasks[task]
        return views_of(cfg.kind, bags=cfg.on_bags, graphs=cfg.graph is not None)

    # --- encoders ---------------------------------------------------------------------------------------------------

    @cached_property
    def on_features(self) -> list[str]:
        """Tasks that learn from features instead of pixels."""
        return [name for name, task in self.config.tasks.items() if task.features is not None]

    @cached_property
    def fitted_to_map(self) -> list[str]:
        """Slides that maps of features are fitted to, sorted: those that are not only predicted, or else all."""
        return sorted(s for s, row in self.slides.items() if row.split != "predict") or sorted(self.slides)

    @cached_property
    def on_bags(self) -> list[str]:
        """Tasks that predict slides or patients as bags of patches, or as graphs."""
        return [name for name, task in self.config.tasks.items() if task.on_bags]

    @cached_property
    def on_graphs(self) -> list[str]:
        """Tasks that predict slides or patients as graphs."""
        return [name for name, task in self.config.tasks.items() if task.graph is not None]

    @cached_property
    def on_feature_bags(self) -> list[str]:
        """Tasks that predict slides or patients from features of their patches."""
        return [name for name in self.on_bags if name in self.on_features]

    @cached_property
    def on_pixel_bags(self) -> list[str]:
        """Tasks that predict slides or patients from the pixels of their patches."""
        return [name for name in self.on_bags if name not in (*self.on_features, *self.on_graphs)]

    @cached_property
    def on_patch_features(self) -> list[str]:
        """Tasks that predict patches from features."""
        return [name for name in self.on_features if name not in self.on_bags]

    def bag_slides(self, task: str, fold: int | str, slide: str) -> list[str]:
        """Slides that are predicted as one bag with a slide, which is the first."""
        if self.config.tasks[task].level != "patient":
            return [slide]
        patient = self.slides[slide].patient_id
        roles = self.config.tasks[task].predict.roles
        others = (s for s in self.slides_in(task, fold, *roles) if self.slides[s].patient_id == patient)
        return [slide, *(s for s in others if s != slide)]

    def feature_group(self, task: str) -> str:
        """Group of encoders whose files hold the features of a task."""
        encoder = str(self.config.tasks[task].features)
        return self.config.encoders[encoder].group or encoder

    def feature_column(self, task: str, fold: int | str) -> str:
        """Column of the features of a task's fold."""
        encoder = str(self.config.tasks[task].features)
        by_fold = self._encoding_task(encoder) or self.config.encoders[encoder].choose
        return column_name(encoder, int(fold) if by_fold else None)

    def fitted_vectors(self, task: str, fold: int | str) -> list[Path]:
        """Features or graphs of the slides that a model is trained and validated on, in the order of `fitted_slides`.

        None for a task on pixels.
        """
        if (graph := self.config.tasks[task].graph) is not None:
            return [self.layout.graph(graph, slide) for slide in self.fitted_slides(task, fold)]
        if task not in self.on_features:
            return []
        group = self.feature_group(task)
        return [self.layout.features(group, slide) for slide in self.fitted_slides(task, fold)]

    def group_grid(self, group: str) -> str:
        """Grid of the encoders of a group."""
        return self.config.encoders[self.config.encoder_groups[group][0]].grid

    def encoder_settings(self, group: str) -> dict[str, object]:
        """Settings that shape the features of a group, and the group's grid: a param."""
        members = self.config.encoder_groups[group]
        grid = self.config.grids[self.group_grid(group)].dump("size", "mpp")
        return {"grid": grid, "encoders": {name: self.config.encoders[name].shaping() for name in members}}

    def encoder_files(self, group: str) -> list[Path]:
        """Cards and weights of the encoders of a group that are files from elsewhere."""
        return [path for name in self.config.encoder_groups[group] for path in self.files_of_encoder(name)]

    def imported_files(self, group: str, slide: str) -> list[Path]:
        """File of another program with the features of a slide, if the group has such; none where it does not exist."""
        encoders = [self.config.encoders[name] for name in self.config.encoder_groups[group]]
        found = [Path(encoder.target) / f"{slide}.h5" for encoder in encoders if encoder.source == "h5"]
        return [path for path in found if path.is_file()]

    def files_of_encoder(self, name: str) -> list[Path]:
        """Card and weights of an encoder, as far as they are files from elsewhere."""
        encoder, found = self.config.encoders[name], list[Path]()
        if encoder.source == "folder":
            found.append(Path(encoder.target) / reuse.DESCRIPTION)
        if isinstance(encoder.weights, str):
            found.append(Path(encoder.weights))
        elif encoder.source == "folder":
            found.append(_network_file(Path(encoder.target)))
        return found

    def encoder_folders(self, group: str) -> dict[str, list[str]]:
        """Folders of the models, one per fold, of each task that is an encoder of a group: a param."""
        tasks = sorted({task for name in self.config.encoder_groups[group] if (task := self._encoding_task(name))})
        return {task: [str(self.layout.model(task, fold)) for fold in self.folds(task)] for task in tasks}

    def encoder_models(self, group: str) -> list[Path]:
        """Weights and descriptions of the models that are encoders of a group."""
        places = (self.layout.weights, self.layout.description)
        tasks = self.encoder_folders(group)
        return [place(task, fold) for task in tasks for fold in self.folds(task) for place in places]

    def _encoding_task(self, encoder: str) -> str | None:
        """Task whose models are an encoder."""
        chosen = self.config.encoders[encoder]
        return chosen.target if chosen.source == "task" else None

    # --- cascades ---------------------------------------------------------------------------------------------------

    def cascade_slides(self, cascade: str, *roles: str) -> list[str]:
        """Ids of the slides of a nucleus cascade with one of the roles."""
        return [a.slide_id for a in self.cascade_roles[cascade] if a.role in roles]

    def cascade_annotations(self, cascade: str, role: str) -> list[str | None]:
        """Annotations of the slides of a nucleus cascade with a role."""
        return [self.slides[slide].annotation for slide in self.cascade_slides(cascade, role)]

    def cascade_weights(self, cascade: str) -> list[Path]:
        """Weights of all levels of a nucleus cascade, finest first."""
        levels = range(1, len(self.config.radhical[cascade].scales) + 1)
        return [self.layout.cascade(cascade).weights(level) for level in levels]

    def level_cores(self, cascade: str) -> int:
        """CPU cores for the training of a level: for each GPU one, and one for each loader.

        By default a loader shares the core of its GPU.
        """
        train = self.config.radhical[cascade].train
        return (1 + (train.workers or 0)) * train.gpus

    # --- cells ------------------------------------------------------------------------------------------------------

    @cached_property
    def _cell_files(self) -> dict[str, dict[str, list[Path]]]:
        """Files with the cells of each slide that has some, by name under ``cells`` and id."""
        files = {"annotation": self._drawn, "radhical": self._found_by_cascade, "task": self._found_by_task}
        return {name: dict(sorted(files[c.origin](c).items())) for name, c in self.config.cells.items()}

    def cell_slides(self, name: str) -> list[str]:
        """Ids of the slides whose cells are tabulated, sorted."""
        return list(self._cell_files[name])

    def cell_files(self, name: str, slide: str, *, here: bool) -> list[Path]:
        """Files with the cells of a slide, as far as this workflow makes them (``here``) or does not."""
        files = self._cell_files[name][slide]
        return files if here == (files != [Path(str(self.slides[slide].annotation))]) else []

    def _drawn(self, _cells: Cells) -> dict[str, list[Path]]:
        """Masks that number cells; of all other annotations the record and what it names."""
        layout, found = self.layout, dict[str, list[Path]]()
        for slide, row in self.slides.items():
            if slide in self._with_mask - self.masked:
                found[slide] = [Path(str(row.annotation))]
            elif row.annotation_files:
                shapes = layout.label_image(slide) if slide in self.masked else layout.outlines(slide)
                found[slide] = [layout.annotation(slide), shapes]
        return found

    def _found_by_cascade(self, cells: Cells) -> dict[str, list[Path]]:
        files = self.layout.cascade(cells.maker)
        return {slide: [files.store(slide)] for slide in self.cascade_slides(cells.maker, *PREDICTED)}

    def _found_by_task(self, cells: Cells) -> dict[str, list[Path]]:
        """Of a slide that several folds predict, the segmentation of the first."""
        places = reversed(self.predicted(cells.maker))
        return {slide: [self.layout.segmentation(cells.maker, fold, slide)] for fold, slide in places}


def _network_file(folder: Path) -> Path:
    """File with the network in a folder with a card: an ONNX file if there is one, or else weights."""
    return onnx if (onnx := folder / ONNX).is_file() else folder / reuse.WEIGHTS


def make_plan(config: Config, slides: Mapping[str, Slide]) -> Plan:
    """Assign a role in every task and cascade to every slide. Raises ConfigError if that is not possible."""
    rows = list(slides.values())
    layout = Layout(Path(config.results))
    return Plan(config, slides, layout, roles_in_tasks(config, rows), roles_in_cascades(config, rows))
