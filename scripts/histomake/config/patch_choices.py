"""Which tasks can choose the patches that an encoder sees, and which can learn from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from histomake.config.bags import HEADED
from histomake.config.encoders import Encoder
from histomake.config.graphs import Graph
from histomake.config.kinds import ACCEPTED
from histomake.config.slides import Grid
from histomake.config.tasks import PATCH, Task

ATTENDING = (*HEADED, "dsmil")
"""Poolings whose attention is learned."""


def choice_problems(
    encoders: Mapping[str, Encoder],
    *,
    tasks: Mapping[str, Task],
    grids: Mapping[str, Grid],
    graphs: Mapping[str, Graph],
    maps: list[str],
) -> Iterator[str]:
    """Yield what does not fit between encoders of chosen patches, the tasks that choose, and those that learn."""
    choosing = {name: encoder.choose for name, encoder in encoders.items() if encoder.choose is not None}
    for name, choose in choosing.items():
        encoder = encoders[name]
        what, task = f"encoders.{name}.choose", tasks.get(choose.task)
        if task is None:
            yield f"{what}.task: {choose.task!r} is not under tasks"
            continue
        yield from (f"{what}.{problem}" for problem in _unfit(task, choose.class_name))
        if task.features in choosing:
            yield f"{what}.task: {choose.task} itself sees only chosen patches; name a task that sees all of its grid"
        if {encoder.grid, task.grid} <= set(grids) and grids[task.grid].mpp < grids[encoder.grid].mpp:
            yield (
                f"{what}.task: {choose.task} reads grid {task.grid} ({grids[task.grid].mpp:g} µm/px), which is finer "
                f"than grid {encoder.grid} of the encoder ({grids[encoder.grid].mpp:g}); choose with a coarser one"
            )
    for name, task in tasks.items():
        if task.features in choosing and task.level == PATCH:
            yield (
                f"tasks.{name}.features: {task.features} encodes only chosen patches, so not every patch can be "
                "predicted; set level: slide or patient, or take an encoder without choose"
            )
    for name, graph in graphs.items():
        if graph.encoder in choosing:
            yield f"graphs.{name}.encoder: {graph.encoder} encodes only chosen patches; take one without choose"
    for name in maps:
        if name in choosing:
            yield f"explain.maps: {name} encodes other patches in each fold; take an encoder without choose"


def _unfit(task: Task, class_name: str | None) -> Iterator[str]:
    """Why a task cannot choose patches."""
    if class_name is not None:
        if task.level != PATCH or not ACCEPTED[task.kind].cascade_stage:
            yield "class_name: the task does not classify patches; remove the key, so that attention chooses"
        elif class_name not in task.target.classes:
            yield f"class_name: {class_name!r} is not among the classes of the task ({', '.join(task.target.classes)})"
    elif task.level != "slide" or task.graph is not None:
        yield "task: without class_name, it must be a task of level slide on patches, whose attention chooses"
    elif task.pooling.name not in ATTENDING:
        yield (
            f"task: its pooling {task.pooling.name} learns no attention; take one of {', '.join(ATTENDING)}, or a task "
            "that classifies patches and class_name"
        )
