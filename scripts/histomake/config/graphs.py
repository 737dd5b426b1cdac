"""Keys of graphs: what the nodes of a slide are, which of them are connected, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from histomake.base.units import Microns, Mpp
from histomake.config.cells import Cells
from histomake.config.encoders import Encoder
from histomake.config.kinds import ACCEPTED
from histomake.config.section import Name, Section
from histomake.config.tasks import PATCH, Task

NodeKind = Literal["patch", "cell", "region"]

OFFERED: dict[NodeKind, tuple[str, ...]] = {
    "patch": ("encoder", "classes", "position", "structure"),
    "cell": ("shape", "stain", "class", "neighbours", "position", "structure"),
    "region": ("shape", "class", "position", "structure"),
}
"""Groups of features of each kind of nodes."""

SOURCES: dict[NodeKind, str] = {"patch": "grid", "cell": "cells", "region": "task"}
"""The key that says where the nodes of each kind come from."""

EDGES: dict[NodeKind, tuple[str, ...]] = {
    "patch": ("knn", "radius", "adjacency", "none"),
    "cell": ("knn", "radius", "delaunay", "none"),
    "region": ("knn", "radius", "delaunay", "adjacency", "none"),
}
"""Edges of each kind of nodes. Patches lie on a lattice, which has no unique triangulation; cells do not touch."""


class Graph(Section):
    """A graph of each slide."""

    nodes: NodeKind = Field(
        description="patch: the kept patches of a grid; cell: the cells of a table under cells; region: connected "
        "pieces of one class of a segmentation."
    )
    grid: Name | None = Field(None, description="Grid of nodes that are patches; by default that of encoder.")
    encoder: Name | None = Field(None, description="Encoder of the feature encoder; a name under encoders.")
    cells: Name | None = Field(None, description="Cells that are the nodes; a name under cells.")
    task: Name | None = Field(
        None,
        description="Regions: the task that segments. Patches: the task whose scores are the feature classes; one on "
        "the same grid that predicts every slide, by cross-validation or as a trained model.",
    )
    edges: Literal["knn", "radius", "delaunay", "adjacency", "none"] = Field(
        "knn",
        description="Which nodes are connected. knn: each with its k nearest, and with all that are as near as the "
        "last of them; radius: all within max_edge_um; delaunay: neighbours of the Delaunay triangulation, not for "
        "patches; adjacency: patches beside each other on the grid, also diagonally, or regions that touch; none.",
    )
    k: PositiveInt = Field(6, le=100, description="Number of nearest nodes of edges knn.")
    max_edge_um: Microns | None = Field(
        None, gt=0, description="Longer edges are left out, in µm between centres. Required for edges radius."
    )
    features: list[str] = Field(
        min_length=1,
        description="Groups of features of a node. Patches: encoder, classes. Cells: shape, stain, class, neighbours. "
        "Regions: shape, class. All: position (x and y in mm from the mean of the nodes), structure (number of edges "
        "and their mean length). They are stored as they are; training scales them by its own slides.",
    )
    max_nodes: int = Field(100_000, ge=1, le=2_000_000, description="Largest number of nodes of a slide; see too_many.")
    too_many: Literal["sample", "refuse"] = Field(
        "sample",
        description="A slide with more than max_nodes. sample: so many at random, by the seed of the configuration, "
        "which the record of the graph states; refuse: the slide gets no graph, with the reason.",
    )
    region_mpp: Mpp = Field(
        Mpp(4.0), gt=0, description="Regions: resolution at which they are found, in µm per pixel, if it is coarser."
    )
    region_um: Microns | None = Field(
        Microns(500.0),
        gt=0,
        description="Regions: larger ones are cut along a lattice of this width, in µm; null: they stay whole.",
    )
    min_area_um2: float = Field(1000.0, ge=0, description="Regions: smaller ones are left out, in µm².")

    @model_validator(mode="after")
    def _fits_together(self) -> Graph:
        if problems := list(self._problems()):
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        nodes, usual = self.nodes, type(self)
        if unknown := [name for name in self.features if name not in OFFERED[nodes]]:
            yield f"features: {', '.join(unknown)} of nodes {nodes}; use {', '.join(OFFERED[nodes])}"
        if len(set(self.features)) < len(self.features):
            yield "features: a group is listed twice"
        if self.edges not in EDGES[nodes]:
            yield f"edges: {self.edges} of nodes {nodes}; use {', '.join(EDGES[nodes])}"
        if self.edges == "radius" and self.max_edge_um is None:
            yield "edges: radius needs max_edge_um"
        if self.edges != "knn" and self.k != usual.model_fields["k"].default:
            yield "k: only edges knn have it; remove the key"
        yield from self._source_problems()
        for key in ("region_mpp", "region_um", "min_area_um2") if nodes != "region" else ():
            if getattr(self, key) != usual.model_fields[key].default:
                yield f"{key}: only nodes region have it; remove the key"

    def _source_problems(self) -> Iterator[str]:
        """Yield what says where nodes and features come from, and is missing or unused."""
        needed = {SOURCES[self.nodes]} if self.nodes != "patch" else {"encoder"} & set(self.features)
        needed |= {"task"} if "classes" in self.features else set()
        allowed = needed | ({"grid"} if self.nodes == "patch" else set())
        having = f"nodes {self.nodes} with features {', '.join(self.features)}"
        for key in ("grid", "encoder", "cells", "task"):
            given = getattr(self, key) is not None
            if key in needed and not given:
                yield f"{key}: {having} need it"
            elif given and key not in allowed:
                yield f"{key}: {having} have none; remove the key"
        if self.nodes == "patch" and self.encoder is None and self.grid is None:
            yield "grid: nodes patch without encoder need it"


def class_names(
    graph: Graph, *, cells: Mapping[str, Cells], tasks: Mapping[str, Task], drawn: Sequence[str]
) -> list[str]:
    """Classes of the nodes of a graph, or whose scores patches have, in the order of the feature.

    ``drawn``: classes of the annotations. Empty where nodes have none.
    """
    if graph.task is not None:
        return tasks[graph.task].target.classes
    if graph.cells is None:
        return []
    source = cells[graph.cells]
    offered = {"annotation": list(drawn), "task": tasks[source.maker].target.classes if source.maker in tasks else []}
    return source.classes or offered.get(source.origin, [])


def graph_problems(
    graphs: Mapping[str, Graph],
    *,
    grids: Mapping[str, Section],
    encoders: Mapping[str, Encoder],
    cells: Mapping[str, Cells],
    tasks: Mapping[str, Task],
) -> Iterator[str]:
    """Yield what the graphs of a configuration refer to and does not exist or does not fit."""
    for name, graph in graphs.items():
        places: tuple[tuple[str, str | None, Mapping[str, Section]], ...] = (
            ("grid", graph.grid, grids),
            ("encoder", graph.encoder, encoders),
            ("cells", graph.cells, cells),
            ("task", graph.task, tasks),
        )
        unknown = [
            f"graphs.{name}.{key}: {value!r} is not in the configuration ({', '.join(known) or 'none'})"
            for key, value, known in places
            if value is not None and value not in known
        ]
        yield from unknown or (f"graphs.{name}.{problem}" for problem in _misfits(graph, encoders, cells, tasks))
    for name, task in tasks.items():
        if task.graph is not None:
            yield from (f"tasks.{name}.{problem}" for problem in _task_problems(task, graphs, encoders))


def _task_problems(task: Task, graphs: Mapping[str, Graph], encoders: Mapping[str, Encoder]) -> Iterator[str]:
    """Yield why a task cannot have its graph."""
    graph = graphs.get(str(task.graph))
    if graph is None:
        yield f"graph: {task.graph!r} is not under graphs ({', '.join(graphs) or 'none'})"
    elif graph.nodes == "patch" and (grid := _grid_of(graph, encoders)) != task.grid:
        yield f"grid: {task.grid} is not the grid of the patches of graph {task.graph} ({grid})"


def _grid_of(graph: Graph, encoders: Mapping[str, Encoder]) -> str | None:
    """Grid of the patches that are nodes."""
    encoder = encoders.get(str(graph.encoder))
    return graph.grid or (encoder.grid if encoder is not None else None)


def _misfits(
    graph: Graph, encoders: Mapping[str, Encoder], cells: Mapping[str, Cells], tasks: Mapping[str, Task]
) -> Iterator[str]:
    encoder = encoders[graph.encoder] if graph.encoder is not None else None
    if encoder is not None and encoder.source == "task":
        yield f"encoder: {graph.encoder} has another model in each fold, so that a slide would have several graphs"
    if encoder is not None and graph.grid not in (None, encoder.grid):
        yield f"grid: {graph.grid} is not the grid of encoder {graph.encoder} ({encoder.grid}); remove the key"
    if graph.cells is not None and "class" in graph.features and cells[graph.cells].origin == "radhical":
        yield f"features: the cells of {graph.cells} have no class, because a cascade finds them; remove class"
    if graph.task is None:
        return
    task = tasks[graph.task]
    if graph.nodes == "region" and not ACCEPTED[task.kind].label_image:
        yield f"task: {graph.task} does not segment"
    if graph.nodes == "patch":
        if not ACCEPTED[task.kind].operating_points or task.level != PATCH:
            yield f"task: {graph.task} does not classify patches"
        grid = _grid_of(graph, encoders)
        if task.grid != grid:
            yield f"task: {graph.task} has grid {task.grid}, the graph {grid}"
