"""Roles of slides in tasks and RADHicaL cascades: training, validation, test, or prediction alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from histomake.cohort.folds import assign, assign_like, assign_task, assign_unfitted
from histomake.cohort.leakage import JUDGED, Assignment
from histomake.cohort.sheet import Slide
from histomake.config import Config, Radhical, Task
from histomake.model import reuse


def roles_in_tasks(config: Config, slides: Collection[Slide]) -> dict[str, list[Assignment]]:
    """Roles of all slides by task. Raises ConfigError if they cannot be assigned."""
    found = {
        name: assign_unfitted(slides, folds=len(reuse.folds(task)))
        if task.trained
        else assign_task(_never_learned_in_silico(slides, task, config), task, seed=config.seed, name=name)
        for name, task in config.tasks.items()
        if task.split.like is None
    }
    likes = {name: (task, task.split.like) for name, task in config.tasks.items() if task.split.like is not None}
    found |= {
        name: assign_like(_never_learned_in_silico(slides, task, config), task, found[like], name=name)
        for name, (task, like) in likes.items()
    }
    return {name: found[name] for name in config.tasks}


def roles_in_cascades(config: Config, slides: Collection[Slide]) -> dict[str, list[Assignment]]:
    """Roles of all slides by RADHicaL cascade.

    A slide without annotation can neither be learned from nor be tested: it is only segmented.
    """
    annotated = [s if s.annotation else replace(s, split="predict") for s in slides] if config.radhical else []
    return {name: _of_cascade(annotated, name, cascade, seed=config.seed) for name, cascade in config.radhical.items()}


def _of_cascade(slides: Sequence[Slide], name: str, cascade: Radhical, *, seed: int) -> list[Assignment]:
    """Roles in the fold of a cascade. Several folds do not depend on its name, so that each can have a cascade."""
    keyed = "radhical" if cascade.split.folds > 1 else f"radhical.{name}"
    return [a for a in assign(slides, cascade.split, seed=seed, task=keyed) if a.fold == cascade.fold]


def _never_learned_in_silico(slides: Collection[Slide], task: Task, config: Config) -> Collection[Slide]:
    """The slides, those that a task predicts in silico with no role but test or predict."""
    if task.predict.transfer is None:
        return slides
    side = config.stain_transfers[task.predict.transfer].source
    return [
        replace(slide, split="predict") if slide.value(side.column) == side.value and slide.split != "test" else slide
        for slide in slides
    ]


def role_table(assignments: Iterable[Assignment], roles: Sequence[str] | None = None) -> list[list[Any]]:
    """Fold, slide, patient and role of assignments, as a param; ``roles``: of these roles only."""
    return [[a.fold, a.slide_id, a.patient_id, a.role] for a in assignments if roles is None or a.role in roles]


def judged_slides(assignments: Iterable[Assignment]) -> list[str]:
    """Ids of the slides that may have no second role, each once."""
    return list(dict.fromkeys(a.slide_id for a in assignments if a.role in JUDGED))
