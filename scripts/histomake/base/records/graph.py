"""The metadata of a graph."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from histomake.base.records.features import FeatureColumn
from histomake.base.records.record import Count, Part, PositiveMpp, StageRecord

WITHOUT_EDGES = "without_edges"
REWIRED = "rewired_edges"
EDGE_ABLATIONS = (WITHOUT_EDGES, REWIRED)
"""Networks that are trained beside that of a task on graphs, by the edges of their graphs: none, or random ones."""

AMONG_SLIDES = "among_slides"
WITHIN_SLIDES = "within_slides"
"""Scopes in which features of nodes are exchanged to measure what they tell."""
EVERY_GROUP = "all"
"""All groups of features together."""


class FeatureGroup(Part, frozen=True, kw_only=True):
    """A group of features, a column of vectors in the file."""

    name: str
    """Name of the group, as in the configuration."""
    values: list[str]
    """Names of the numbers of a vector, in order."""


class GraphRecord(StageRecord, frozen=True, kw_only=True):
    """The slide, the nodes and the features of a graph, under the key ``histomake`` of its Arrow schema."""

    NAME: ClassVar[str] = "graph record"
    REMEDY: ClassVar[str] = "Delete the file and run the workflow again, which writes a new one"

    sha256: str
    """sha256 of the slide file, as in the manifest."""
    mpp: PositiveMpp
    """Width of a level-0 pixel in µm, with which lengths of edges were computed."""
    settings: dict[str, Any]
    """The graph's section of the configuration, ``graphs.<name>``."""
    groups: list[FeatureGroup]
    """Groups of features, in the order of the configuration."""
    encoder: FeatureColumn | None = None
    """The encoder of the group ``encoder``; null without one."""
    identity: str
    """Digest of all settings that shape nodes, edges and features. Graphs of the same identity can be used together."""
    found: Count
    """Number of nodes before any were left out because of ``max_nodes``."""
    seed: Count | None = None
    """Seed with which nodes were sampled; null if all are in the graph."""
    statistics: dict[str, float | None] = msgspec.field(default_factory=dict)
    """Statistics of the graph, as in the catalog table ``graph_<name>``; null where undefined."""
