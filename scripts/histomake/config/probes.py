"""Keys of tasks that learn from stored features instead of pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from histomake.config.section import Section, Share

Penalty = Annotated[float, Field(gt=0, le=1e6)]

DRAWING = ("balance", "shares", "factors", "containing", "validate_patches", "select")
"""Keys of train that say which patches are learned from and how a model is chosen: every head has them."""

LOOP = (
    "steps",
    "batch",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "schedule",
    "clip",
    "validate_every",
    "patience",
)
"""Keys of train that a head has which is trained step by step."""

TRAIN_KEYS = {
    "linear": (*DRAWING, "readers"),
    "knn": DRAWING,
    "mlp": (*DRAWING, *LOOP, "readers", "loss", "accumulate", "precision", "workers", "checkpoint_minutes"),
}
"""Keys of train by head."""


class Probe(Section):
    """What a head learns from features; for tasks with features."""

    penalties: list[Penalty] = Field(
        default=[1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0],
        min_length=1,
        description="linear: L2 penalties to try, relative to the mean loss, with features scaled to unit variance. "
        "The one that is best on validation patients by train.select is taken.",
    )
    neighbours: list[Annotated[int, Field(ge=1, le=10_000)]] = Field(
        default=[1, 5, 20, 100],
        min_length=1,
        description="knn: numbers of nearest training patches (cosine) to try, chosen on validation patients.",
    )
    hidden: list[Annotated[int, Field(ge=1, le=8192)]] = Field(
        default=[256], description="mlp: widths of the hidden layers."
    )
    dropout: Share = Field(0.25, description="mlp: dropout after each hidden layer.")
    patches: int = Field(
        100_000,
        ge=10,
        description="Largest number of training patches of linear and knn. With more, so many are drawn with "
        "train.balance.",
    )


def head_problems(head: str, *, train: Section, unused: Mapping[str, Section], flips: bool) -> Iterator[str]:
    """Yield settings of a task on features that its head ignores.

    ``unused``: sections of the task that only learning from pixels uses.
    """
    for name, section in unused.items():
        if section != type(section)():
            yield f"{name}: a task on features has no {name}; use head and probe, and the keys of the encoder"
    yield from ignored_train_keys(train, TRAIN_KEYS[head], f"the head {head}")
    if flips:
        yield "predict.flips: the views of features are those of the encoder; set encoders.<name>.views: mean"


def ignored_train_keys(train: Section, used: Sequence[str], what: str) -> Iterator[str]:
    """Yield the keys of train that ``what`` does not use and that are not left at their default."""
    usual = type(train)()
    given = [key for key in type(train).model_fields if getattr(train, key) != getattr(usual, key)]
    if ignored := [key for key in given if key not in used]:
        yield f"train.{', train.'.join(ignored)}: {what} does not use it; remove the key"
