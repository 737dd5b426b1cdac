"""Export of graphs to QuPath: a detection per node with its measurements, and the edges as one annotation."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from histomake.base.records.record import usable
from histomake.graphs.exports import contributions_of
from histomake.graphs.store import StoredGraph
from histomake.pictures import canvas
from histomake.pictures.graph_views import NODE_SHARE, DrawnGraph
from histomake.pictures.qupath import write_objects

LEAST_RADIUS_UM = 1.0
"""Radius of the nodes of graphs without edges."""

CORNERS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [1, 0]], float)
"""Outline of a node of radius 1."""

MOST_MEASURED = 64
"""Features of a node that become measurements, at most: not the vector of an encoder."""


def write_graph_objects(graph: StoredGraph, path: Path, *, nodes: pa.Table | None = None) -> None:
    """Write a graph as GeoJSON that QuPath opens.

    A node is a detection, a small square that stands on a corner, with its class if it has one, and its features
    (unless there are more than 64), number of edges, attention and contributions as measurements. All edges are one
    locked annotation. ``nodes``: predictions of the nodes, in their order. Raises SlideError for a slide in quarantine.
    """
    write_objects(path, _objects(graph, nodes))


def _objects(graph: StoredGraph, nodes: pa.Table | None) -> Iterator[Mapping[str, object]]:
    record, drawn = usable(graph.record), DrawnGraph.of(graph)
    if not len(graph):
        return
    measured = _measurements(graph, nodes)
    radius = max(NODE_SHARE * (drawn.edge_px or 0), LEAST_RADIUS_UM / record.mpp)
    colours = canvas.class_colours(drawn.class_names)
    outlines = np.round(drawn.places[:, None] + radius * CORNERS, 2)
    ids = graph.table["node_id"].to_pylist()
    for row, (node, outline, code) in enumerate(zip(ids, outlines.tolist(), drawn.classes.tolist(), strict=True)):
        properties: dict[str, object] = {"objectType": "detection"}
        if code >= 0:
            name = drawn.class_names[code]
            properties["classification"] = {"name": name, "color": list(colours[name])}
        values = {name: round(float(column[row]), 5) for name, column in measured.items()}
        properties["measurements"] = values | {"node_id": node}
        yield _feature(f"{record.slide_id}/{node}", "Polygon", [outline], properties)
    if len(drawn.pairs):
        properties = {"objectType": "annotation", "name": "edges", "isLocked": True, "color": list(canvas.TEXT)}
        lines = np.round(drawn.places[drawn.pairs], 2).tolist()
        yield _feature(f"{record.slide_id}/edges", "MultiLineString", lines, properties)


def _feature(name: str, shape: str, coordinates: object, properties: Mapping[str, object]) -> Mapping[str, object]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        "geometry": {"type": shape, "coordinates": coordinates},
        "properties": properties,
    }


def _measurements(graph: StoredGraph, nodes: pa.Table | None) -> dict[str, np.ndarray]:
    """Values of the nodes, by name."""
    record = usable(graph.record)
    names = [name for group in record.groups for name in group.values]
    pairs, _ = graph.edges()
    found = dict(zip(names, graph.features().T, strict=True)) if len(names) <= MOST_MEASURED else {}
    found["edges"] = np.bincount(pairs.ravel(), minlength=len(graph))
    if nodes is not None:
        outputs, values = contributions_of(nodes)
        found["attention"] = nodes["attention"].to_numpy()
        found |= {f"contribution: {name}": column for name, column in zip(outputs, values.T, strict=True)}
    return found
