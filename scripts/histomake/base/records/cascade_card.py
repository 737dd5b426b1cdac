"""The model card of one level of a nucleus cascade."""

from __future__ import annotations

from typing import Any, ClassVar

from histomake.base.records.record import Count, Part, PositiveMpp, Size, WeightsCard


class DrawnPoints(Part, frozen=True, kw_only=True):
    """Training points by what lies at them."""

    background: Count
    """Points on background."""
    inside: Count
    """Level 1: points inside nuclei. Coarser levels: pixels partly inside nuclei."""
    third: Count
    """Level 1: points on background close to a nucleus. Coarser levels: pixels wholly inside nuclei."""


class CascadeCard(WeightsCard, frozen=True, kw_only=True):
    """The network of one level of a nucleus cascade. Its weights are next to the card in ``model.safetensors``."""

    NAME: ClassVar[str] = "model card of a cascade level"
    REMEDY: ClassVar[str] = "Delete the folder of the level and run the workflow again, which trains the level again"

    level: Size
    """Number of the level; 1 is the finest."""
    mpp: PositiveMpp
    """Resolution of the level, in µm per pixel."""
    network: dict[str, Any]
    """The cascade's section ``network`` of the configuration."""
    field: Size
    """Edge of the field of view of an output pixel, in pixels of the level."""
    parameters: Count
    """Number of weights."""
    train: dict[str, Any]
    """The cascade's section ``train`` of the configuration."""
    seed: int
    """Seed of the training."""
    slides: list[str]
    """Slides that the network was trained on, sorted."""
    points: DrawnPoints
    """Number of drawn training points."""
    loss: float
    """Mean training loss since the last row of the history before the end."""
