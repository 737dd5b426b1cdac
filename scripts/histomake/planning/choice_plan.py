"""Which models choose the patches that encoders see, and of which slides."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from pathlib import Path

from histomake.cohort.leakage import JUDGED
from histomake.config import PatchChoice
from histomake.planning.notes import listed
from histomake.planning.plan import Plan


class ChoicePlan:
    """The encoders with ``choose`` in the configuration. Each is the only one of its group."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._choices = {n: e.choose for n, e in plan.config.encoders.items() if e.choose is not None}

    def of(self, group: str) -> PatchChoice | None:
        """What chooses the patches of a group of encoders; None if all are encoded."""
        return self._choices.get(group)

    def has_slide(self, group: str, slide: str) -> bool:
        """Whether the patches of a slide can be encoded: all slides, or those that the choosing task knows."""
        return group not in self._choices or bool(self.folds(group, slide))

    def folds(self, group: str, slide: str) -> list[int]:
        """Folds of the models that choose patches of a slide, ascending; none if all are encoded."""
        choice = self._choices.get(group)
        return self._known[choice.task].get(slide, []) if choice is not None else []

    def tables(self, group: str, slide: str) -> list[Path]:
        """Patch table of a slide that the choosing models predict; none if all patches are encoded."""
        choice = self._choices.get(group)
        return [] if choice is None else [self.plan.layout.table(self.plan.config.tasks[choice.task].grid, slide)]

    def predictions(self, group: str, slide: str) -> list[Path]:
        """What the choosing models predict of a slide, in the order of `folds`; also of slides that they learned."""
        choice = self._choices.get(group)
        if choice is None:
            return []
        return [self.plan.layout.prediction(choice.task, fold, slide) for fold in self.folds(group, slide)]

    def descriptions(self, group: str, slide: str) -> list[Path]:
        """Descriptions of the choosing models, in the order of `folds`."""
        choice = self._choices.get(group)
        if choice is None:
            return []
        return [self.plan.layout.description(choice.task, fold) for fold in self.folds(group, slide)]

    def chosen_by(self, task: str, fold: int, slide: str) -> list[Path]:
        """Patch table and predictions by which the patches of a slide of a task were chosen; none if all are seen."""
        encoder = self.plan.config.tasks[task].features
        if encoder not in self._choices:
            return []
        return [*self.tables(encoder, slide), self.plan.layout.prediction(self._choices[encoder].task, fold, slide)]

    def misfits(self) -> list[str]:
        """Reasons why tasks cannot learn from chosen patches: slides have other roles in the task that chooses."""
        found = []
        for name, task in self.plan.config.tasks.items():
            choice = self._choices.get(str(task.features))
            if choice is None or not (differing := self._differing(name, choice.task)):
                continue
            found.append(
                f"task {name}: {choice.task} chooses the patches of encoder {task.features}, but {len(differing)} "
                f"slide(s) have another role there, so that it would be tested on slides that {choice.task} has "
                f"learned: {listed(differing)}; set tasks.{name}.split: {{like: {choice.task}}}"
            )
        return found

    def _differing(self, task: str, chooser: str) -> list[str]:
        """Slides of a task that have no role, or another one, in the task that chooses, each once."""
        theirs = {(a.fold, a.slide_id): a.role for a in self.plan.roles[chooser]}
        found: dict[str, str] = {}
        for a in self.plan.roles[task]:
            role = theirs.get((a.fold, a.slide_id))
            if role is None or (a.role != role and {a.role, role} <= set(JUDGED)):
                found.setdefault(a.slide_id, f"{a.slide_id} (fold {a.fold}: {a.role} and {role or 'none'})")
        return list(found.values())

    @cached_property
    def _known(self) -> dict[str, dict[str, list[int]]]:
        """Folds in which each slide has a role, by task and id."""
        found: dict[str, dict[str, list[int]]] = {}
        for choice in self._choices.values():
            folds = found[choice.task] = defaultdict(list)
            for a in sorted(self.plan.roles[choice.task], key=lambda a: a.fold):
                folds[a.slide_id].append(a.fold)
        return found
