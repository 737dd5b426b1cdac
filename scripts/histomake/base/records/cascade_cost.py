"""What a nucleus cascade costs on one slide."""

from __future__ import annotations

from histomake.base.records.record import Count, Part, PositiveMpp, Size


class LevelShares(Part, frozen=True, kw_only=True):
    """What a level of a cascade did with its pixels."""

    level: Size
    """Number of the level; 1 is the finest."""
    mpp: PositiveMpp
    """Resolution of the level, in µm per pixel."""
    pixels: Size
    """Number of its pixels."""
    computed: float
    """Share of the pixels that the network evaluated."""
    accepted: float
    """Share of the pixels that a coarser level accepted as nucleus."""
    rejected: float
    """Share of the pixels that a coarser level rejected."""
    blocks: Count
    """Number of blocks that the network evaluated."""


class MultiplyAdds(Part, frozen=True, kw_only=True):
    """Number of multiply-adds of three ways to evaluate a slide."""

    naive: Count
    """The network of level 1, patch by patch."""
    dense: Count
    """The network of level 1 on whole blocks."""
    cascade: Count
    """The cascade."""
