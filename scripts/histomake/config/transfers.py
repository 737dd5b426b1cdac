"""Keys of stain transfers: two sides of unpaired slides, the networks, their training and where they are applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from histomake.config.encoders import Encoder
from histomake.config.section import Name, Section, Share
from histomake.config.slides import Grid
from histomake.config.tasks import Task
from histomake.config.training import RUNNING

EDGE_STEP = 4
"""The generator halves its input twice."""

LEAST_EDGE = 64
"""Edge in pixels of the smallest patches that a generator learns from."""

UNMEASURING = ("task", "h5")
"""Sources of encoders that cannot measure realism: models of folds, and features of scanned slides."""

TransferredRole = Literal["train", "test", "predict"]


class TransferSide(Section):
    """The slides of one side: those with a value in a column of the sheet."""

    column: str = Field(description="Column of the sheet that names the stain.")
    value: str = Field(min_length=1, description="Value of the column for the slides of this side.")


class TransferGenerator(Section):
    """The generators, one per direction."""

    blocks: int = Field(
        9, ge=1, le=20, description="Number of residual blocks (Zhu et al. 2017: 9 for patches of 256 px, 6 below)."
    )
    filters: int = Field(64, ge=4, le=256, description="Channels at full resolution, four times as many in the blocks.")
    residual: bool = Field(
        False,
        description="true: the change of an image is learned, and added to it (de Bel et al. 2021). Learns with fewer "
        "steps and moves structures less; false, as in CycleGAN, can change more.",
    )


class TransferCritic(Section):
    """The discriminators, one per side."""

    layers: int = Field(
        3, ge=1, le=5, description="Convolutions that halve their input; 3 judge overlapping patches of 70 x 70 px."
    )
    filters: int = Field(64, ge=4, le=256, description="Channels of the first convolution.")


class TransferLoss(Section):
    """Weights of the losses; that of the discriminators' judgement is 1."""

    cycle: float = Field(10.0, gt=0, description="Weight of the difference between an image and its return.")
    identity: float = Field(
        0.0,
        ge=0,
        description="Weight of the change of images that already have the stain; 5 keeps colours more alike.",
    )


class TransferTrain(Section):
    """Training of a stain transfer."""

    steps: int = Field(
        100_000, ge=2, description="Optimiser steps. The rate is constant in the first half, then falls linearly to 0."
    )
    batch: int = Field(1, ge=1, description="Number of patches of each side per step.")
    learning_rate: float = Field(2e-4, gt=0, description="Learning rate of Adam, with a first beta of 0.5.")
    ema: float | None = Field(
        0.999, gt=0, lt=1, description="Decay of the average of the generators that is kept; null: the last ones."
    )
    record_every: int = Field(500, ge=1, description="Steps between rows of history.csv.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 if the GPU supports it, else fp16; fp32 on a CPU."
    )
    workers: int | None = Field(None, ge=0, description="Loader processes. By default as many as cores allow, up to 7.")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Minutes between checkpoints. A killed job loses at most this time."
    )

    def fitting(self) -> dict[str, Any]:
        """Return the settings that affect the weights: not how the job is run."""
        return {key: value for key, value in self.dump().items() if key not in RUNNING}


class TransferApply(Section):
    """The slides that are made in the other stain, as virtual slides."""

    direction: Literal["forward", "backward", "both"] = Field(
        "both", description="forward: slides of from; backward: slides of to."
    )
    roles: list[TransferredRole] = Field(
        default=["test", "predict"],
        description="Roles of these slides; those in train are slides that the generators have learned from.",
    )

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides: 0 for ``from``, 1 for ``to``."""
        return {"forward": (0,), "backward": (1,), "both": (0, 1)}[self.direction]


class TransferMeasure(Section):
    """The measures on held-out patients."""

    encoder: Name | None = Field(
        None,
        description="Encoder by whose features realism (KID, FID) is measured: a network under encoders with the grid "
        "of the transfer. null: realism is not measured.",
    )
    patches: int = Field(
        500,
        ge=16,
        description="Most patches of each side whose realism is measured, and most patches of each slide whose "
        "structures are compared, spread over the slide.",
    )


class StainTransfer(Section):
    """A stain transfer by CycleGAN (Zhu et al. 2017), learned from slides that are not paired."""

    model_config = ConfigDict(validate_by_alias=True, validate_by_name=False, serialize_by_alias=True)

    source: TransferSide = Field(alias="from", description="Slides whose stain is changed.")
    target: TransferSide = Field(alias="to", description="Slides with the stain that is wanted.")
    grid: Name = Field(description="Grid of the patches that are learned from; its mpp is that of the virtual slides.")
    generator: TransferGenerator = Field(default_factory=TransferGenerator, description="The generators.")
    discriminator: TransferCritic = Field(default_factory=TransferCritic, description="The discriminators.")
    loss: TransferLoss = Field(default_factory=TransferLoss, description="Weights of the losses.")
    test: Share = Field(
        0.25,
        gt=0,
        lt=1,
        description="Share of the patients of each side that are held out and measured. A patient has one role on both "
        "sides. In the column split of the sheet, val counts as train.",
    )
    train: TransferTrain = Field(default_factory=TransferTrain, description="Training.")
    apply: TransferApply = Field(default_factory=TransferApply, description="Which slides are made in the other stain.")
    measure: TransferMeasure = Field(default_factory=TransferMeasure, description="Measures on held-out patients.")

    @model_validator(mode="after")
    def _two_sides(self) -> StainTransfer:
        if self.source == self.target:
            raise ValueError(
                f"from and to are the same slides (column {self.source.column}, value {self.source.value})"
            )
        return self

    @property
    def sides(self) -> tuple[TransferSide, TransferSide]:
        """Both sides, ``from`` first."""
        return self.source, self.target

    def fitting(self) -> dict[str, Any]:
        """Return the settings that affect the weights."""
        kept = self.dump("source", "target", "grid", "generator", "discriminator", "loss")
        return kept | {"train": self.train.fitting()}


def transfer_problems(
    transfers: Mapping[str, StainTransfer], *, grids: Mapping[str, Grid], encoders: Mapping[str, Encoder]
) -> Iterator[str]:
    """Names that do not exist, grids that a generator cannot learn from, and encoders that cannot measure."""
    for name, transfer in transfers.items():
        if transfer.grid not in grids:
            yield f"stain_transfers.{name}.grid: {transfer.grid!r} is not under grids ({', '.join(grids)})"
            continue
        size = grids[transfer.grid].size
        if size % EDGE_STEP or size < LEAST_EDGE:
            yield (
                f"stain_transfers.{name}.grid: patches of {size} px; take a multiple of {EDGE_STEP} px that is "
                f"at least {LEAST_EDGE}"
            )
        if (encoder := transfer.measure.encoder) is None:
            continue
        place = f"stain_transfers.{name}.measure.encoder"
        if encoder not in encoders:
            yield f"{place}: {encoder!r} is not under encoders ({', '.join(encoders) or 'none'})"
        elif encoders[encoder].source in UNMEASURING:
            yield f"{place}: {encoders[encoder].name} cannot encode virtual slides; take a network from elsewhere"
        elif encoders[encoder].grid != transfer.grid:
            yield f"{place}: {encoder} has grid {encoders[encoder].grid}; take an encoder of grid {transfer.grid}"


def transferred_task_problems(
    tasks: Mapping[str, Task], transfers: Mapping[str, StainTransfer], grids: Mapping[str, Grid]
) -> Iterator[str]:
    """Tasks that cannot predict the slides of a stain transfer."""
    for name, task in tasks.items():
        place, chosen = f"tasks.{name}.predict.transfer", task.predict.transfer
        if chosen is None:
            if task.predict.allow_virtual:
                yield f"tasks.{name}.predict.allow_virtual: there are virtual slides with predict.transfer only"
            continue
        if chosen not in transfers:
            yield f"{place}: {chosen!r} is not under stain_transfers ({', '.join(transfers) or 'none'})"
        elif task.features or task.graph or task.on_bags:
            yield f"{place}: only tasks on the pixels of single patches can predict virtual slides; remove it"
        elif (own := grids.get(task.grid)) and (made := grids.get(transfers[chosen].grid)) and own.mpp < made.mpp:
            yield f"{place}: grid {task.grid} has {own.mpp:g} µm/px, finer than the virtual slides ({made.mpp:g})"
