"""The slides that a fold's model is trained with."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from histomake.base.records.record import Count, Part, Record


class GraphSize(Part, frozen=True, kw_only=True):
    """How large the graph of a slide is."""

    nodes: Count
    """Number of nodes."""
    edges: Count
    """Number of edges, each counted once."""
    values: Count
    """Numbers per node in all groups of features."""


class CohortSlide(Record, frozen=True, kw_only=True):
    """A slide that a model is trained with. The file is a list of them."""

    NAME: ClassVar[str] = "training cohort"

    slide_id: str
    """Slide."""
    patient_id: str
    """Patient of the slide."""
    role: str
    """``train``, or ``val`` for validation; of a stain transfer the side, ``from`` or ``to``."""
    labels: dict[str, str]
    """Labels of the slide in the slide sheet, by column."""
    patches: Count = 0
    """Number of usable patches of the slide, by which jobs that learn from them request memory."""
    graph: GraphSize | None = None
    """Size of the graph of the slide, by which jobs that learn from it request memory; null of other tasks."""
    readers: dict[str, list[str]] = msgspec.field(default_factory=dict)
    """With ``train.readers: draw``: sha256 of the patch table and the annotation record of each reader, by id."""
    digests: list[str]
    """sha256 of the slide's manifest, patch table and annotation record, and of its features if the task learns from \
them: what the model is trained on."""
