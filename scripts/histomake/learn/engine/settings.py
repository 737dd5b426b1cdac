"""Settings of the training loop, independent of the objective."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Settings:
    """How one run is trained; built by the caller from its own configuration.

    steps: optimiser steps. accumulate: batches whose gradients are added up for one step. record_every: steps between
    rows of the history, each with a validation if the objective has one. clip: largest norm of the gradients of one
    update, None for any. ema: decay of the exponential moving average of the weights, None for no average. patience:
    validations without a better one after which training ends, None for never. checkpoint_minutes: minutes between
    checkpoints.
    """

    steps: int
    seed: int
    record_every: int
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    patience: int | None = None
    checkpoint_minutes: float = 10.0

    def shaping(self) -> dict[str, float | None]:
        """The settings that decide the trained weights: all but the time between checkpoints."""
        return {name: value for name, value in asdict(self).items() if name != "checkpoint_minutes"}
