"""What several readers annotated on a slide, how far they agree, and how their consensus was made."""

from __future__ import annotations

from typing import Literal

import msgspec

from histomake.base.records.record import Count, Part

CONSENSUS = "consensus"
"""Stands for the consensus among readers; no reader may have this id."""

ConsensusMethod = Literal["majority", "staple"]
"""How a consensus is made."""


class ReaderRecord(Part, frozen=True, kw_only=True):
    """One reader of a slide."""

    reader: str
    """Id of the reader, from the sheet."""
    source: str
    """Name of the reader's file."""
    annotation_format: str
    """Format of the file, as in the annotation record."""
    area_px: dict[str, float] = msgspec.field(default_factory=dict)
    """Area of each class that the reader annotated, in square level-0 pixels."""
    sensitivity: dict[str, float] = msgspec.field(default_factory=dict)
    """With ``staple``: estimated probability that the reader annotates a pixel of each class as this class."""


class LabelCount(Part, frozen=True, kw_only=True):
    """Area that two readers labelled in one way."""

    first: str
    """Class of the first reader; empty where he or she has none."""
    second: str
    """Class of the second reader; empty where he or she has none."""
    area_px: float
    """Area, in square level-0 pixels."""


class ReaderPair(Part, frozen=True, kw_only=True):
    """Agreement of two readers, or of a reader and the consensus."""

    first: str
    """Id of a reader."""
    second: str
    """Id of another reader, or ``consensus``."""
    kappa: float | None
    """Cohen's kappa over all compared pixels; null if both have the same label everywhere."""
    dice: dict[str, float]
    """Dice coefficient of each class that one of the two annotated."""
    counts: tuple[LabelCount, ...]
    """Area by both labels."""


class ConsensusRecord(Part, frozen=True, kw_only=True):
    """The readers of a slide, their agreement and their consensus.

    Pixels that are tissue, or that a reader annotated, are compared. Glass would make any readers agree.
    """

    method: ConsensusMethod
    """How the consensus was made."""
    readers: tuple[ReaderRecord, ...]
    """The readers, sorted by id."""
    compared_px: float
    """Compared area, in square level-0 pixels."""
    undecided_px: float
    """Area where labels are equally likely, in square level-0 pixels. It has no class."""
    fleiss_kappa: float | None
    """Fleiss' kappa of all readers over all compared pixels; null if all have the same label everywhere."""
    pairs: tuple[ReaderPair, ...]
    """Agreement of each pair of readers, and of each reader with the consensus."""
    iterations: Count = 0
    """Iterations of ``staple`` until the estimates changed no more."""
