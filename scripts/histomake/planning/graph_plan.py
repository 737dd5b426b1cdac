"""Which slides have a graph, and the files that it is made of."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

from histomake.base.units import Mpp
from histomake.config.kinds import ACCEPTED
from histomake.planning.plan import Plan


class GraphPlan:
    """The graphs under ``graphs`` in the configuration."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.graphs = plan, plan.config.graphs

    @cached_property
    def _scores(self) -> dict[str, dict[str, int]]:
        """Fold whose model predicts a slide for the nodes of a graph, the first of several, by graph and id."""
        tasks = {name: graph.task for name, graph in self.graphs.items() if graph.task is not None}
        return {n: {s: fold for fold, s in reversed(self.plan.predicted(task))} for n, task in tasks.items()}

    def slides(self, name: str) -> list[str]:
        """Ids of the slides that have a graph, sorted: those whose nodes and features are known."""
        graph = self.graphs[name]
        if graph.cells is not None:
            return self.plan.cell_slides(graph.cells)
        return sorted(self.plan.slides if graph.task is None else self._scores[name])

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
