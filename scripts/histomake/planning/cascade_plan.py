"""Which slides cascades of patch classifiers are searched on, tested on and predict."""

from __future__ import annotations

from collections import defaultdict

from histomake.cohort.leakage import FITTED, JUDGED
from histomake.config.tasks import PREDICTED
from histomake.planning.plan import Plan

NAMED = 5
"""Slides that a message names."""


class CascadePlan:
    """The cascades of patch classifiers in the configuration."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.cascades = plan, plan.config.patch_cascades

    def stages(self, name: str) -> list[str]:
        """Tasks of the stages of a cascade, coarsest first."""
        return [stage.task for stage in self.cascades[name].stages]

    def folds(self, name: str) -> range:
        """Folds of a cascade: those of its stages."""
        return self.plan.folds(self.stages(name)[0])

    def predicted(self, name: str) -> list[tuple[int, str]]:
        """(fold, id) of every slide that no stage of a cascade was trained or validated on, sorted."""
        roles = self._roles(name)
        unseen = [place for place, own in roles.items() if not set(FITTED) & set(own.values())]
        return sorted(place for place in unseen if set(roles[place].values()) <= set(PREDICTED))

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
        return found

    def _differing(self, name: str) -> list[str]:
        """Slides with different roles in the tasks of the stages, each once, and these roles."""
        found: dict[str, str] = {}
        for (_, slide), own in sorted(self._roles(name).items()):
            judged = {task: role for task, role in own.items() if role in JUDGED}
            if len(set(judged.values())) > 1:
                found.setdefault(slide, f"{slide} ({', '.join(f'{t}: {role}' for t, role in judged.items())})")
        return list(found.values())

    def _roles(self, name: str) -> dict[tuple[int, str], dict[str, str]]:
        """Role of each slide in each fold, by task of a stage."""
        found: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
        for task in self.stages(name):
            for a in self.plan.roles[task]:
                found[a.fold, a.slide_id][task] = a.role
        return dict(found)


def _remedy(stages: list[str]) -> str:
    return f"set tasks.{stages[-1]}.split: {{like: {stages[0]}}} and so on, or roles in the column split of the sheet"
