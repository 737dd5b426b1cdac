"""The model card of a generator."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from histomake.base.records.record import Count, Positive, Quarantined, Size, WeightsCard


class GeneratorCard(WeightsCard, frozen=True, kw_only=True):
    """A growing generator, which makes images in silico. Its weights, an average over the steps, are next to the card \
in ``model.safetensors``."""

    NAME: ClassVar[str] = "model card of a generator"
    REMEDY: ClassVar[str] = "Delete the folder of the generator and run the workflow again, which trains it again"

    field_um: Positive
    """Edge of the field of view in µm."""
    sizes: list[Size]
    """Edges in pixels of the images that it can make."""
    latent: Size
    """Length of latent vectors."""
    network: dict[str, Any]
    """The generator's section ``network`` of the configuration."""
    train: dict[str, Any]
    """The generator's section ``train`` of the configuration, as far as it affects the weights."""
    images: Count
    """Images shown at each size, after it has been faded in."""
    fade: Count
    """Images shown while a size was faded in."""
    shown: Count
    """Images shown in all."""
    label: str | None
    """Column of the sheet that images are conditioned on; null: they are not."""
    labels: list[str]
    """Values of that column, in the order of the network's labels."""
    slides: list[str]
    """Training slides, sorted."""
    made_with: list[str]
    """First 20 digits of the sha256 of the training slides. None of them may test what is learned from samples."""
    left_out: list[Quarantined] = msgspec.field(default_factory=list)
    """Slides that turned out to be damaged, so that the generator was learned without them."""
    losses: dict[str, float]
    """Mean losses since the last row of the history before the end."""
    step: Count
    """Number of training steps."""
    seed: int
    """Seed of the training."""
    parameters: Count
    """Number of weights of the generator."""
    critic_parameters: Count
    """Number of weights of the critic, which is not kept."""
