"""Keys of cascades of patch classifiers: coarse stages decide which patches of finer ones are computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from pydantic import Field, model_validator

from histomake.config.cascades import ThresholdChoice
from histomake.config.encoders import Encoder
from histomake.config.kinds import ACCEPTED
from histomake.config.section import Name, Section, Share
from histomake.config.slides import Grid
from histomake.config.tasks import PATCH, Task


class StageThresholds(Section):
    """Thresholds of a cascade of patch classifiers on the score of the class, if they are not searched."""

    lower: list[Share] = Field(
        description="One value for each stage but the finest, coarsest first: patches of the next finer stage are "
        "computed where the score of this stage is at least this."
    )
    upper: list[Share] = Field(
        description="One value for each stage but the finest, coarsest first: patches are accepted without computing "
        "finer stages where the score of this stage is at least this. With 1 this practically never happens."
    )


class Cascade(Section):
    """Prediction of slides by a cascade: coarse classifiers decide which finer patches are computed."""

    class_name: Name = Field(description="The target class; the task of every stage must have it.")
    stages: list[Name] = Field(
        min_length=2,
        description="Classification tasks of patches under tasks, from pixels or features, coarsest grid first. Give "
        "them the same patients: split: {like: <task>}.",
    )
    search: ThresholdChoice = Field(
        default_factory=ThresholdChoice,
        description="Choice of thresholds. The loss is that of the AUROC of the patches of the finest grid; the cost "
        "is the number of pixels that all stages read.",
    )
    thresholds: StageThresholds | None = Field(None, description="Thresholds to use without a search.")

    @model_validator(mode="after")
    def _fit(self) -> Cascade:
        if len(set(self.stages)) < len(self.stages):
            raise ValueError("stages: a task is listed twice")
        if self.thresholds is None:
            return self
        lower, upper, coarse = self.thresholds.lower, self.thresholds.upper, len(self.stages) - 1
        if {len(lower), len(upper)} != {coarse}:
            raise ValueError(f"thresholds.lower and thresholds.upper need {coarse} value(s), none for the finest stage")
        for task, low, high in zip(self.stages[:-1], lower, upper, strict=True):
            if low > high:
                raise ValueError(
                    f"thresholds cross: lower {low:g} of stage {task} is above its upper {high:g}, so that no patch "
                    "would be computed; swap them"
                )
        return self


def cascade_problems(
    cascades: Mapping[str, Cascade],
    *,
    tasks: Mapping[str, Task],
    grids: Mapping[str, Grid],
    encoders: Mapping[str, Encoder],
) -> Iterator[str]:
    """Yield what does not fit between cascades, the tasks of their stages and the encoders of these."""
    stages = {stage for cascade in cascades.values() for stage in cascade.stages}
    yield from (
        f"tasks.{name}.predict.roles: add predict; only a stage of a cascade can leave slides to predict to it"
        for name, task in tasks.items()
        if "predict" not in task.predict.roles and name not in stages
    )
    for name, cascade in cascades.items():
        what = f"cascades.{name}.stages"
        unfit = [stage for stage in cascade.stages if not _is_stage(tasks.get(stage), cascade.class_name)]
        yield from (
            f"{what}: {stage!r} is not a task that classifies patches and has the class {cascade.class_name!r}"
            for stage in unfit
        )
        yield from (
            f"{what}: {stage} takes features of encoders.{tasks[stage].features}, which has no weights of its own "
            f"to encode further patches with; take an encoder that is not h5: or task:"
            for stage in cascade.stages
            if stage not in unfit and not _encodes(encoders.get(str(tasks[stage].features)))
        )
        used = [] if unfit else [tasks[stage].grid for stage in cascade.stages]
        for coarse, fine in pairwise(used if set(used) <= set(grids) else []):
            if grids[fine].mpp >= grids[coarse].mpp:
                yield (
                    f"{what}: each stage must be finer than the one before, but grid {fine} has {grids[fine].mpp:g} "
                    f"µm/px after {grids[coarse].mpp:g} of grid {coarse}; list the coarsest stage first"
                )


def _is_stage(task: Task | None, class_name: str) -> bool:
    if task is None or not ACCEPTED[task.kind].cascade_stage or task.level != PATCH:
        return False
    return class_name in task.target.classes


def _encodes(encoder: Encoder | None) -> bool:
    """Whether patches can be encoded: by an encoder with weights of its own, or without any, from their pixels."""
    return encoder is None or encoder.source not in ("h5", "task")
