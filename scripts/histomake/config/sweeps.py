"""Sweeps: tasks that differ from another one in some settings, one for each combination of the values given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator

from histomake.config.section import Name, Section
from histomake.config.tasks import Task

MOST = 100
"""Tasks of a sweep; more are taken for a mistake."""


class Sweep(Section):
    """A task trained with several settings. Each combination of values becomes a task of its own."""

    task: Name = Field(description="Task under tasks that has all other settings. It is made, too.")
    values: dict[str, list[Any]] = Field(
        min_length=1,
        description="Keys of the task with the values to try: {train.learning_rate: [0.001, 0.0001]}. With several "
        "keys, every combination is tried. All keys but those under split, since the patients stay the same.",
    )

    @field_validator("values")
    @classmethod
    def _some_values(cls, values: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if empty := [key for key, tried in values.items() if not tried]:
            raise ValueError(f"{', '.join(empty)}: list the values to try")
        if repeated := [key for key, tried in values.items() if any(tried.count(value) > 1 for value in tried)]:
            raise ValueError(f"{', '.join(repeated)}: a value is listed twice")
        if (count := math.prod(map(len, values.values()))) > MOST:
            raise ValueError(f"{count} combinations are more than {MOST}; try fewer values at a time")
        if [key for key in values if key.partition(".")[0] == "split"]:
            raise ValueError("the patients of a sweep stay the same, so that its tasks can be compared; remove split")
        return values

    def members(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the name of each task of the sweep ``name``, and its values by key."""
        for number, tried in enumerate(itertools.product(*self.values.values()), start=1):
            yield f"{name}_{number}", dict(zip(self.values, tried, strict=True))


def add_swept_tasks(sweeps: Mapping[str, Sweep], tasks: dict[str, Task]) -> Iterator[str]:
    """Add the tasks of all sweeps to ``tasks``; yield what stands against it."""
    for name, sweep in sweeps.items():
        base = tasks.get(sweep.task)
        if base is None:
            yield f"sweeps.{name}.task: {sweep.task!r} is not under tasks ({', '.join(tasks) or 'none'})"
            continue
        if base.trained:
            yield f"sweeps.{name}.task: {sweep.task} uses models that exist and trains none"
            continue
        for member, values in sweep.members(name):
            try:
                task = _changed(base, values, like=base.split.like or sweep.task)
            except (KeyError, ValidationError) as error:
                yield f"sweeps.{name}.values: {_as_text(values)}: {_reason(error)}"
                continue
            # A dumped configuration holds the tasks of its sweeps.
            if tasks.setdefault(member, task) != task:
                yield f"tasks.{member} would also be a task of sweeps.{name}; rename one of them"


def _changed(base: Task, values: Mapping[str, Any], *, like: str) -> Task:
    """A task with other values, and the patients of ``like``. Raises KeyError for a key that does not exist."""
    content = base.dump()
    for key, value in values.items():
        section, *path = content, *key.split(".")
        for part in path[:-1]:
            section = section[part] if isinstance(section, dict) else None
        if not isinstance(section, dict) or path[-1] not in section:
            raise KeyError(key)
        section[path[-1]] = value
    content["split"]["like"] = like
    return Task.model_validate(content)


def _as_text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items())


def _reason(error: KeyError | ValidationError) -> str:
    if isinstance(error, KeyError):
        return f"a task has no key {error.args[0]}"
    return "; ".join(problem["msg"] for problem in error.errors())
