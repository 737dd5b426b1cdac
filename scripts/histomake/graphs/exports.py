"""Graphs for other programs: one safetensors file per slide, with the keys that PyTorch Geometric uses.

Arrays, for n nodes and e edges:

- ``x``: float32 (n, d), features as they are stored; their names are in the metadata.
- ``edge_index``: int64 (2, 2e), rows of connected nodes, each edge in both directions.
- ``edge_attr``: float32 (2e, 1), lengths in µm.
- ``pos``: float32 (n, 2), centres in µm from the top left corner of the slide.
- ``node_id``: int64 (n,), ids of the patches, cells or regions.
- ``attention``: float32 (n,), and ``contributions``: float32 (n, outputs), of a task that has predicted the slide.

Metadata, texts: ``format``, ``slide_id``, ``sha256`` of the slide, ``mpp``, and as JSON
``feature_names``, ``groups``, ``settings`` and ``outputs``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open

from histomake.base.errors import HistomakeError
from histomake.base.records.record import usable
from histomake.base.tensors import write_tensors
from histomake.graphs.store import StoredGraph

if TYPE_CHECKING:
    from torch_geometric.data import Data

FORMAT = "1"
NAME = "histomake graph"


def contributions_of(nodes: pa.Table) -> tuple[list[str], np.ndarray]:
    """Outputs of a table of predicted nodes, and contributions float32 (n, outputs) to them."""
    names = [name for name in nodes.column_names if name.startswith("contribution_")]
    values = np.stack([nodes[name].to_numpy() for name in names], axis=1).astype(np.float32)
    return [name.removeprefix("contribution_") for name in names], values


def require_same_nodes(graph: StoredGraph, nodes: pa.Table, *, path: Path) -> None:
    """Raise HistomakeError if predictions of nodes are not those of the graph's nodes."""
    if nodes["node_id"].to_pylist() != graph.table["node_id"].to_pylist():
        raise HistomakeError(f"{path} has predictions of other nodes than the graph; run the workflow again")


def export_graph(graph: StoredGraph, path: Path, *, nodes: pa.Table | None = None) -> None:
    """Write a graph atomically as a safetensors file.

    ``nodes``: predictions of its nodes, in their order. Raises SlideError for a slide in quarantine.
    """
    record = usable(graph.record)
    pairs, lengths = graph.edges()
    arrays = {
        "x": graph.features() if len(graph) else np.zeros((0, sum(len(g.values) for g in record.groups)), np.float32),
        "edge_index": np.concatenate([pairs, pairs[:, ::-1]]).T,
        "edge_attr": np.tile(lengths, 2)[:, None],
        "pos": (graph.places() * record.mpp).astype(np.float32),
        "node_id": graph.table["node_id"].to_numpy().astype(np.int64),
    }
    outputs: Sequence[str] = ()
    if nodes is not None:
        outputs, arrays["contributions"] = contributions_of(nodes)
        arrays["attention"] = nodes["attention"].to_numpy().astype(np.float32)
    told = {
        "feature_names": [name for group in record.groups for name in group.values],
        "groups": {group.name: len(group.values) for group in record.groups},
        "settings": record.settings,
        "outputs": list(outputs),
    }
    metadata = {"name": NAME, "format": FORMAT, "slide_id": record.slide_id, "sha256": record.sha256}
    metadata |= {"mpp": repr(float(record.mpp))} | {key: json.dumps(value) for key, value in told.items()}
    write_tensors(path, arrays, metadata)


def load_data(path: Path | str) -> Data:
    """Read an exported graph as a `torch_geometric.data.Data`, with the arrays and the metadata as attributes.

    Raises HistomakeError for any other file.
    """
    with warnings.catch_warnings():
        # As in `histomake.graphs.networks`.
        warnings.simplefilter("ignore", FutureWarning)
        from torch_geometric.data import Data

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (OSError, SafetensorError) as error:
        raise HistomakeError(f"{path} is no safetensors file: {error}") from error
    if metadata.get("name") != NAME or metadata.get("format") != FORMAT:
        raise HistomakeError(f"{path} is no graph that this version exports; export it again")
    found = Data(**arrays, slide_id=metadata["slide_id"], sha256=metadata["sha256"], mpp=float(metadata["mpp"]))
    for key in ("feature_names", "groups", "settings", "outputs"):
        setattr(found, key, json.loads(metadata[key]))
    return found
