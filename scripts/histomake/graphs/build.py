"""The graph of one slide from its files: what rule ``build_graph`` does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from histomake.base.errors import Reason, SlideError
from histomake.base.records.graph import FeatureGroup, GraphRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined, quarantined
from histomake.base.tables import write_table
from histomake.cohort.quarantine import attempt
from histomake.config import Graph
from histomake.graphs.edges import lengths, nearest, once, triangulated, within
from histomake.graphs.nodes import NodeFiles, Nodes, centred, lost_before, of_cells, of_patches, structure
from histomake.graphs.regions import of_regions
from histomake.graphs.store import write_graph
from histomake.patch.sampler import choose

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATISTICS = (
    "nodes",
    "edges",
    "isolated",
    "mean_degree",
    "median_edge_um",
    "components",
    "largest_component",
)
"""Columns of the table of statistics: numbers of nodes, of edges and of nodes without edges; mean number of edges of a
node; median length of an edge; number of connected components; share of the nodes in the largest one."""

NO_EDGES = np.zeros((0, 2), np.int64)


def build_graph(
    manifest: Path,
    files: NodeFiles,
    graph: Graph,
    *,
    class_names: Sequence[str],
    seed: int,
    output: Path,
    table: Path,
    lost: list[Quarantined] | None = None,
) -> None:
    """Write the graph of a slide and the table of its statistics; of a slide in quarantine, without nodes.

    Args:
        manifest: The slide's manifest.
        files: Files with the nodes.
        graph: The section ``graphs.<name>``.
        class_names: Classes of the nodes.
        seed: Of the sample, if there are more than ``max_nodes``.
        output: The graph.
        table: The statistics.
        lost: Takes the quarantine entry of a slide that cannot have a graph, unless its damage was met before.
    """

    def work() -> dict[str, float | None]:
        return _build(manifest, files, graph, class_names, seed, output)

    before = quarantined(Manifest.read(manifest)) or lost_before(files)
    found = attempt("graph", work, lost=lost) if before is None else before
    if isinstance(found, Quarantined):
        none = (np.zeros(0, np.uint32), np.zeros(0), np.zeros(0))
        write_graph(output, found, none, (NO_EDGES, np.zeros(0, np.float32)), {})
        found = dict.fromkeys(STATISTICS)
    kinds = [(name, pa.float64()) for name in STATISTICS]
    write_table(pa.table({name: [found[name]] for name in STATISTICS}, schema=pa.schema(kinds)), table)


def _build(
    manifest: Path, files: NodeFiles, graph: Graph, class_names: Sequence[str], seed: int, output: Path
) -> dict[str, float | None]:
    slide = Manifest.read_usable(manifest)
    makers = {
        "patch": lambda: of_patches(files, graph, class_names),
        "cell": lambda: of_cells(files, graph, class_names),
        "region": lambda: of_regions(files, graph, class_names, slide),
    }
    every = makers[graph.nodes]()
    nodes = _limited(every, graph, seed, slide=slide, path=output)
    places = np.stack([nodes.x, nodes.y], axis=1) * slide.mpp
    pairs = connect(nodes, places, graph, mpp=slide.mpp)
    length = lengths(places, pairs)
    derived = {
        "position": (centred(nodes, slide), ["x_mm", "y_mm"]),
        "structure": (structure(len(nodes), pairs, length), ["degree", "mean_edge_um"]),
    }
    known = {name: (nodes.values[name], nodes.names[name]) for name in nodes.values} | derived
    vectors = {name: known[name][0] for name in graph.features}
    statistics = describe(len(nodes), pairs, length)
    record = GraphRecord(
        slide_id=slide.slide_id,
        sha256=slide.sha256,
        mpp=slide.mpp,
        settings=graph.dump(),
        groups=[FeatureGroup(name=name, values=list(known[name][1])) for name in graph.features],
        encoder=nodes.encoder if "encoder" in graph.features else None,
        identity=_identity(graph, class_names, nodes),
        found=len(every),
        seed=seed if len(nodes) < len(every) else None,
        statistics=statistics,
        warnings=tuple(_warnings(len(every), len(nodes), statistics)),
    )
    write_graph(output, record, (nodes.ids, nodes.x, nodes.y), (pairs, length), vectors)
    return statistics


def _limited(nodes: Nodes, graph: Graph, seed: int, *, slide: Manifest, path: Path) -> Nodes:
    if len(nodes) <= graph.max_nodes:
        return nodes
    if graph.too_many == "refuse":
        raise SlideError(
            Reason.UNSUPPORTED,
            slide_id=slide.slide_id,
            path=path,
            detail=f"the graph would have {len(nodes):,} nodes, more than max_nodes ({graph.max_nodes:,})",
            remedy="Raise max_nodes, or set too_many: sample",
        )
    return nodes.take(choose(graph.max_nodes, len(nodes), seed=seed))


def connect(nodes: Nodes, places: NDArray[np.float64], graph: Graph, *, mpp: float) -> NDArray[np.int64]:
    """Pairs int64 (e, 2) of connected nodes at ``places`` (n, 2) in µm."""
    limit = graph.max_edge_um

    def adjacent() -> NDArray[np.int64]:
        if nodes.touching is not None:
            return once(nodes.touching)
        # Diagonal neighbours are 1.41 steps apart, the next ones 2.
        return within(places, 1.7 * (nodes.step or 0.0) * mpp)

    makers = {
        "knn": lambda: nearest(places, graph.k),
        "radius": lambda: within(places, float(limit or 0)),
        "delaunay": lambda: triangulated(places),
        "adjacency": adjacent,
        "none": lambda: NO_EDGES,
    }
    pairs = makers[graph.edges]()
    return pairs if limit is None else pairs[lengths(places, pairs) <= limit]


def describe(count: int, pairs: NDArray[np.int64], length: NDArray[np.float32]) -> dict[str, float | None]:
    """Statistics of a graph; None where undefined. See STATISTICS."""
    degree = np.bincount(pairs.ravel(), minlength=count)
    matrix = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    parts, member = connected_components(matrix, directed=False) if count else (0, np.zeros(0, np.int32))
    return {
        "nodes": count,
        "edges": len(pairs),
        "isolated": int((degree == 0).sum()),
        "mean_degree": float(degree.mean()) if count else None,
        "median_edge_um": float(np.median(length)) if len(length) else None,
        "components": int(parts),
        "largest_component": float(np.bincount(member).max() / count) if count else None,
    }


def _warnings(found: int, kept: int, statistics: dict[str, float | None]) -> list[str]:
    lines = []
    if kept < found:
        lines.append(f"The graph has {kept:,} of {found:,} nodes, drawn at random, because of max_nodes.")
    if not kept:
        lines.append("The graph has no node, so the slide takes part in no task on it.")
    elif kept > 1 and not statistics["edges"]:
        lines.append("No two nodes are connected.")
    return lines


def _identity(graph: Graph, class_names: Sequence[str], nodes: Nodes) -> str:
    """Digest of what must be equal for graphs to be used together."""
    encoder = nodes.encoder.identity if nodes.encoder is not None and "encoder" in graph.features else None
    text = json.dumps([graph.dump(), list(class_names), encoder, {n: list(v) for n, v in nodes.names.items()}])
    return hashlib.sha256(text.encode()).hexdigest()
