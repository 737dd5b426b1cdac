"""Which slides have a graph, and the files that it is made of."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from pathlib import Path

from histomake.base.units import Mpp
from histomake.config.graphs import NodeKind
from histomake.config.kinds import ACCEPTED
from histomake.planning.plan import Plan

MADE_FROM: dict[NodeKind, str] = {
    "patch": "scores of a task are known of all slides with cross-validation or a trained model",
    "cell": "give these slides cells, or leave them out of the sheet",
    "region": "segmentations of all slides are known with cross-validation or a trained model",
}
"""What a slide needs for a graph, by the kind of nodes."""


class GraphPlan:
    """The graphs under ``graphs`` in the configuration."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.graphs = plan, plan.config.graphs

    @cached_property
    def _scores(self) -> dict[str, dict[str, int]]:
        """Fold whose model predicts a slide for the nodes of a graph, the first of several, by graph and id."""
        tasks = {name: graph.task for name, graph in self.graphs.items() if graph.task is not None}
        return {n: {s: fold for fold, s in reversed(self.plan.predicted(task))} for n, task in tasks.items()}

    @cached_property
    def without_task(self) -> list[str]:
        """Names of the graphs that no task uses. They have pictures of their own; others have those of their tasks."""
        used = {task.graph for task in self.plan.config.tasks.values()}
        return [name for name in self.graphs if name not in used]

    @cached_property
    def pictured(self) -> dict[str, list[str]]:
        """Names of the graphs without a task that a slide has, by its id."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.without_task:
            for slide in self.slides(name):
                found[slide].append(name)
        return dict(found)

    def slides(self, name: str) -> list[str]:
        """Ids of the slides that have a graph, sorted: those whose nodes and features are known."""
        graph = self.graphs[name]
        if graph.cells is not None:
            return self.plan.cell_slides(graph.cells)
        return sorted(self.plan.slides if graph.task is None else self._scores[name])

    def misfits(self) -> list[str]:
        """Reasons why tasks cannot learn from or predict slides as graphs: slides that have none."""
        found = []
        for task in self.plan.on_graphs:
            name = str(self.plan.config.tasks[task].graph)
            wanted = {s for fold in self.plan.folds(task) for s in self.plan.fitted_slides(task, fold)}
            wanted |= {slide for _, slide in self.plan.predicted(task)}
            if missing := sorted(wanted - set(self.slides(name))):
                found.append(
                    f"task {task}: {', '.join(missing)} without a graph {name}; {MADE_FROM[self.graphs[name].nodes]}"
                )
        return found

    def files(self, name: str, slide: str) -> dict[str, list[Path]]:
        """Files with the nodes and features of the graph of a slide, by input of rule build_graph."""
        graph, layout, config = self.graphs[name], self.plan.layout, self.plan.config
        encoder, fold = config.encoders[graph.encoder] if graph.encoder else None, self._fold(name, slide)
        grid = graph.grid or (encoder.grid if encoder else None)
        found: dict[str, list[Path]] = {key: [] for key in ("table", "features", "scores", "cells", "labels")}
        if grid is not None:
            found["table"] = [layout.table(grid, slide)]
        if encoder is not None:
            found["features"] = [layout.features(encoder.group or str(graph.encoder), slide)]
        if graph.cells is not None:
            found["cells"] = [layout.cells(graph.cells, slide)]
        if graph.task is not None and fold is not None:
            key, place = ("labels", layout.segmentation) if self._segments(name) else ("scores", layout.prediction)
            found[key] = [place(graph.task, fold, slide)]
        return found

    def held_mpp(self, name: str) -> Mpp:
        """µm per pixel of the label image that a job holds whole; infinite if it holds none."""
        return self.graphs[name].region_mpp if self._segments(name) else Mpp(math.inf)

    def _segments(self, name: str) -> bool:
        task = self.graphs[name].task
        return task is not None and ACCEPTED[self.plan.config.tasks[task].kind].label_image

    def _fold(self, name: str, slide: str) -> int | None:
        return self._scores.get(name, {}).get(slide)
