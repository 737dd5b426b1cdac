"""The model card of a stain transfer."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from histomake.base.records.model_card import ModelGrid
from histomake.base.records.record import Count, Quarantined, WeightsCard


class TransferCard(WeightsCard, frozen=True, kw_only=True):
    """The generators of a stain transfer. Their weights are next to the card in ``model.safetensors``: ``forward`` \
changes the stain of ``from`` into that of ``to``, ``backward`` the other way round."""

    NAME: ClassVar[str] = "model card of a stain transfer"
    REMEDY: ClassVar[str] = "Delete the folder of the transfer and run the workflow again, which trains it again"

    stains: tuple[str, str]
    """Values of ``from`` and ``to`` in the sheet."""
    generator: dict[str, Any]
    """The transfer's section ``generator`` of the configuration."""
    discriminator: dict[str, Any]
    """The transfer's section ``discriminator`` of the configuration."""
    loss: dict[str, Any]
    """The transfer's section ``loss`` of the configuration."""
    train: dict[str, Any]
    """The transfer's section ``train`` of the configuration, as far as it affects the weights."""
    grid: ModelGrid
    """The patches that were learned from."""
    slides: tuple[list[str], list[str]]
    """Training slides of both sides, sorted."""
    made_with: list[str]
    """First 20 digits of the sha256 of the training slides. None of them may test what the transfer is used for."""
    left_out: list[Quarantined] = msgspec.field(default_factory=list)
    """Slides that turned out to be damaged, so that the transfer was learned without them."""
    losses: dict[str, float]
    """Mean losses since the last row of the history before the end."""
    step: Count
    """Number of training steps."""
    seed: int
    """Seed of the training."""
    parameters: Count
    """Number of weights of one generator."""
    critic_parameters: Count
    """Number of weights of one discriminator, which is not kept."""
