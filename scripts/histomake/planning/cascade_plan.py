"""Which slides cascades of patch classifiers are searched on, tested on and predict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from histomake.cohort.leakage import JUDGED
from histomake.config.tasks import PREDICTED, VALIDATION
from histomake.planning.plan import Plan
from histomake.planning.resources import batch_pixels

NAMED = 5
"""Slides that a message names."""


class CascadePlan:
    """The cascades of patch classifiers in the configuration."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.cascades = plan, plan.config.cascades

    def stages(self, name: str) -> list[str]:
        """Tasks of the stages of a cascade, coarsest first."""
        return self.cascades[name].stages

    def folds(self, name: str) -> range:
        """Folds of a cascade: those of its stages."""
        return self.plan.folds(self.stages(name)[0])

    def predicted(self, name: str) -> list[tuple[int, str]]:
        """(fold, id) of every slide that no stage of a cascade was trained or validated on, sorted."""
        return self._predicted[name]

    def with_role(self, name: str, fold: int | str, role: str) -> list[str]:
        """Ids of the slides that have a role in all stages in a fold, sorted."""
        return self._members[name].get((int(fold), role), [])

    def tested(self, name: str) -> list[tuple[int, str]]:
        """(fold, id) of the test slides of a cascade, sorted."""
        return [(fold, slide) for fold in self.folds(name) for slide in self.with_role(name, fold, "test")]

    def dense_predictions(self, name: str, places: Iterable[tuple[int, str]]) -> list[Path]:
        """Predictions of all stages, coarsest first, of each slide of a fold."""
        return [self.plan.layout.prediction(t, fold, slide) for fold, slide in places for t in self.stages(name)]

    def validation_predictions(self, name: str, fold: int | str) -> list[Path]:
        """Predictions of all stages, coarsest first, of each validation slide of a fold."""
        return self.dense_predictions(name, [(int(fold), slide) for slide in self.with_role(name, fold, VALIDATION)])

    def tables(self, name: str, slides: Iterable[str]) -> list[Path]:
        """Patch tables of all stages of slides."""
        grids = [self.plan.config.tasks[task].grid for task in self.stages(name)]
        return [self.plan.layout.table(grid, slide) for slide in slides for grid in grids]

    def models(self, name: str, fold: int | str) -> list[Path]:
        """Weights of the stages in a fold, coarsest first."""
        return [self.plan.layout.weights(task, fold) for task in self.stages(name)]

    def descriptions(self, name: str, fold: int | str) -> list[Path]:
        """Descriptions of the models of the stages in a fold, coarsest first."""
        return [self.plan.layout.description(task, fold) for task in self.stages(name)]

    def learned(self, name: str) -> list[dict[str, Any]]:
        """What the tasks of the stages learn, coarsest first: a param."""
        return [self.plan.config.tasks[task].dump("kind", "grid", "target") for task in self.stages(name)]

    def encoders(self, name: str) -> list[dict[str, Any] | None]:
        """Name, settings and grid of the encoder of each stage, coarsest first, None for one on pixels: a param."""
        return [self._encoder(encoder) if encoder else None for encoder in self._encoder_names(name)]

    def _encoder(self, name: str) -> dict[str, Any]:
        encoder = self.plan.config.encoders[name]
        grid = self.plan.config.grids[encoder.grid].dump("size", "mpp")
        return {"name": name, "encoder": encoder.shaping(), "grid": grid}

    def _encoder_names(self, name: str) -> list[str | None]:
        return [self.plan.config.tasks[task].features for task in self.stages(name)]

    def encoder_files(self, name: str) -> list[Path]:
        """Cards and weights of the encoders of the stages that are files from elsewhere."""
        names = filter(None, self._encoder_names(name))
        return [path for encoder in names for path in self.plan.files_of_encoder(encoder)]

    def use(self, name: str) -> list[dict[str, Any]]:
        """How the stages predict, coarsest first: a param."""
        return [self.plan.config.tasks[task].predicting() for task in self.stages(name)]

    def batches(self, name: str) -> list[int]:
        """Patches per forward pass of each stage, coarsest first."""
        return [self.plan.config.tasks[task].predict.batch for task in self.stages(name)]

    def pixels_at_once(self, name: str) -> int:
        """Pixels of the largest batch of a stage."""
        tasks = [self.plan.config.tasks[task] for task in self.stages(name)]
        return max(batch_pixels(task.predict.batch, self.plan.config.grids[task.grid].size) for task in tasks)

    def tabled(self, name: str) -> list[Path]:
        """Predictions of a cascade, of unchanged slides too."""
        return [self.plan.layout.patch_cascade(name).prediction(*place) for place in self.predicted(name)]

    def to_predict(self) -> list[Path]:
        """Predictions of all cascades on the slides that are only to be predicted."""
        return [
            self.plan.layout.patch_cascade(name).prediction(fold, slide)
            for name in self.cascades
            for fold in self.folds(name)
            for slide in self.with_role(name, fold, "predict")
        ]

    @property
    def slides(self) -> list[str]:
        """Ids of the slides that some cascade predicts, sorted."""
        return sorted(self._by_slide)

    def on_page(self, slide: str) -> list[list[Any]]:
        """[cascade, fold] of the predictions of a slide, for its page: a param."""
        return self._by_slide.get(slide, [])

    def measured(self) -> list[str]:
        """Cascades with slides to test."""
        return [name for name in self.cascades if self.tested(name)]

    def outputs(self, unchanged: Collection[str]) -> list[Path]:
        """Everything of all cascades; of single slides not for those that are ``unchanged``."""
        found = []
        for name in self.cascades:
            files = self.plan.layout.patch_cascade(name)
            for fold, slide in self.predicted(name):
                if slide not in unchanged:
                    found += [files.prediction(fold, slide), files.record(fold, slide), files.levels_view(fold, slide)]
        return found + [self.plan.layout.patch_cascade(name).metrics for name in self.measured()]

    def misfits(self) -> list[str]:
        """Reasons why stages make no cascade: their folds differ, or a slide has different roles in their tasks."""
        found = []
        for name in self.cascades:
            stages = self.stages(name)
            if len({len(self.plan.folds(task)) for task in stages}) > 1:
                numbers = ", ".join(f"{task} has {len(self.plan.folds(task))}" for task in stages)
                found.append(
                    f"cascade {name}: its stages have different numbers of folds: {numbers}; {_remedy(stages)}"
                )
            elif differing := self._differing(name):
                more = f" and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
                found.append(
                    f"cascade {name}: {len(differing)} slide(s) have different roles in the tasks of its stages, so "
                    f"that thresholds would be chosen or tested on slides that a stage has learned: "
                    f"{'; '.join(differing[:NAMED])}{more}; {_remedy(stages)}"
                )
            elif self.cascades[name].thresholds is None and (lacking := self._without_validation(name)):
                found.append(
                    f"cascade {name}: no validation slide in fold {', '.join(map(str, lacking))}, so that no "
                    f"thresholds can be searched; set cascades.{name}.thresholds, or train the stages here"
                )
        return found

    def _without_validation(self, name: str) -> list[int]:
        """Folds that have no slide to validate with."""
        return [fold for fold in self.folds(name) if not self.with_role(name, fold, VALIDATION)]

    def _differing(self, name: str) -> list[str]:
        """Slides with different roles in the tasks of the stages, each once, and these roles."""
        found: dict[str, str] = {}
        for (_, slide), own in self._roles[name].items():
            judged = {task: role for task, role in own.items() if role in JUDGED}
            if len(set(judged.values())) > 1:
                found.setdefault(slide, f"{slide} ({', '.join(f'{t}: {role}' for t, role in judged.items())})")
        return list(found.values())

    @cached_property
    def _roles(self) -> dict[str, dict[tuple[int, str], dict[str, str]]]:
        """Role of each slide in each fold, by cascade, place and task of a stage."""
        found: dict[str, dict[tuple[int, str], dict[str, str]]] = {}
        for name in self.cascades:
            places: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
            for task in self.stages(name):
                for a in self.plan.roles[task]:
                    places[a.fold, a.slide_id][task] = a.role
            found[name] = dict(sorted(places.items()))
        return found

    @cached_property
    def _predicted(self) -> dict[str, list[tuple[int, str]]]:
        """(fold, id) of the slides that no stage has learned, by cascade."""
        allowed = set(PREDICTED)
        return {
            name: [p for p, own in r.items() if allowed.issuperset(own.values())] for name, r in self._roles.items()
        }

    @cached_property
    def _members(self) -> dict[str, dict[tuple[int, str], list[str]]]:
        """Ids with the same role in all stages, by cascade, fold and role."""
        found: dict[str, dict[tuple[int, str], list[str]]] = {}
        for name, roles in self._roles.items():
            members: dict[tuple[int, str], list[str]] = defaultdict(list)
            for (fold, slide), own in roles.items():
                if len(shared := set(own.values())) == 1:
                    members[fold, shared.pop()].append(slide)
            found[name] = dict(members)
        return found

    @cached_property
    def _by_slide(self) -> dict[str, list[list[Any]]]:
        """[cascade, fold] of the predictions of each slide."""
        found: dict[str, list[list[Any]]] = defaultdict(list)
        for name, places in self._predicted.items():
            for fold, slide in places:
                found[slide].append([name, fold])
        return dict(found)


def _remedy(stages: list[str]) -> str:
    return f"set tasks.{stages[-1]}.split: {{like: {stages[0]}}} and so on, or roles in the column split of the sheet"
