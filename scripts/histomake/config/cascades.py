"""Keys of RADHicaL cascades for nuclei, and of the search for thresholds, which patch cascades share."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from histomake.base.units import Microns, Mpp
from histomake.config.section import Name, Section, Share
from histomake.config.splits import Split
from histomake.config.training import RUNNING

SEARCHED: Final = "search"
"""A value that is chosen on validation patients."""


class CascadeNetwork(Section):
    """The network of a RADHicaL cascade. Every level has its own weights."""

    name: str = Field(
        "radhical",
        description="radhical: the network of the paper, 145,123 parameters; otherwise a segmentation-models-pytorch "
        "architecture.",
    )
    encoder: str = Field("resnet18", description="Encoder of a segmentation-models-pytorch architecture.")
    border: Literal["context", "zeros"] = Field(
        "context",
        description="Input of the paper's network outside its 32-pixel patch. context: the real pixels, so that a "
        "whole image is evaluated at once; zeros: zero padding as in the paper, which needs a network "
        "pass for every pixel.",
    )


class CascadeTrain(Section):
    """Sampling and training of every level of a cascade."""

    per_class: int = Field(500, ge=1, description="Number of points drawn per slide and class (paper: 500).")
    background: int = Field(
        150, ge=1, description="Number of background points per slide at the finest level (paper: 150)."
    )
    complete: bool = Field(
        True,
        description="false: the annotation is incomplete. Background is then drawn only where no dark pixel is near, "
        "and predictions that overlap no annotation are not counted as errors.",
    )
    steps: PositiveInt | list[PositiveInt] = Field(
        1500, description="Number of optimiser steps of every level, or a list with one number per level, finest first."
    )
    batch: int = Field(8, ge=1, description="Number of points per step. Larger batches do not fit the caches of a CPU.")
    lattice: int = Field(
        8,
        ge=1,
        le=32,
        description="Each point gives lattice x lattice training pixels, 8 px apart, that share most of their "
        "computation; 1: the point alone, as in the paper.",
    )
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    colour: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="Jitter of brightness, contrast, saturation and stain densities, as a share; hue is changed by a "
        "fifth of it.",
    )
    stain: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Slides are also shown as if stained elsewhere: up to this many doublings weaker or stronger, each "
        "stain by half of that besides, in other hues. For slides of laboratories that are not trained on.",
    )
    zoom: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Slides are also sampled at resolutions up to this many doublings finer or coarser, because "
        "nuclei differ in size and a stated resolution may be wrong.",
    )

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto: bf16 if the device multiplies matrices of it; otherwise fp16 on GPUs, fp32 on CPUs.",
    )
    gpus: int = Field(1, ge=1, le=16, description="Number of GPUs of one node that share each step; batch is per GPU.")
    workers: int | None = Field(None, ge=0, description="Number of loader processes per GPU; default: 1.")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Minutes between checkpoints, which is the most a killed job loses."
    )

    def fitting(self) -> dict[str, Any]:
        """Return the settings that affect the trained level: not how its job is run."""
        return {key: value for key, value in self.dump().items() if key not in RUNNING}


class ThresholdChoice(Section):
    """Choice of the thresholds of a cascade on validation patients."""

    max_loss: Share = Field(
        0.01,
        description="The cheapest thresholds are chosen whose loss against the finest stage alone is at most this on "
        "validation patients, and that read fewer pixels than it. If there are none, the finest stage alone is used.",
    )
    min_saving: Share = Field(
        0.0,
        description="Smallest share of the cost to save. If max_loss does not allow it, min_saving has priority; 0: "
        "max_loss always has.",
    )
    candidates: int = Field(
        32,
        ge=2,
        le=300,
        description="Number of values tried per threshold, distributed over the scores of the networks (paper: 32).",
    )
    joint: int = Field(
        192, ge=0, description="Number of threshold sets tried in the joint search; 0: coordinate-wise search only."
    )


class CascadeSearch(ThresholdChoice):
    """Choice of the thresholds of a nucleus cascade on validation patients."""

    max_loss: Share = Field(
        0.01,
        description="The cheapest thresholds are chosen for which neither the F of pixels nor the F of nuclei is more "
        "than this below that of the dense network on validation patients, and that need fewer multiply-adds than it. "
        "If there are none, the dense network is used.",
    )
    min_saving: Share = Field(
        0.0,
        description="Smallest share of pixel evaluations to save. If max_loss does not allow it, min_saving has "
        "priority; 0: max_loss always has.",
    )
    cost: Literal["evaluations", "blocks"] = Field(
        "evaluations",
        description="Cost to minimise. evaluations: pixels that a network must evaluate, as in the paper; blocks: the "
        "mean of these and of the pixels of all blocks that contain them, which determines the time.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_max_f_loss(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "max_f_loss" in raw:
            raise ValueError("max_f_loss is now max_loss, as in cascades; rename the key")
        return raw


class CascadeThresholds(Section):
    """Thresholds of a cascade on the probabilities p0 (nothing), p1 (nucleus; mixed) and p2 (wholly nucleus)."""

    cut: Share = Field(description="A level-1 pixel is nucleus if its p1 is above this.")
    lower: list[Share] = Field(
        description="One value for each of levels 2, 3, …: the next finer level is computed where p1 + p2 of this "
        "level is at least this. With 0 it is computed wherever p1 + p2 is above zero."
    )
    upper: list[Share] = Field(
        description="One value for each of levels 2, 3, …: pixels are accepted as nucleus where p2 is at least this, "
        "with priority over lower. With 1 this practically never happens."
    )


class CascadeBaselines(Section):
    """Baselines with which a cascade is compared on the test slides."""

    naive_pixels: int = Field(
        1024,
        ge=1,
        description="Number of pixels per slide that are evaluated patch by patch; the time of the naive way is "
        "extrapolated from them.",
    )
    repeats: int = Field(
        3, ge=1, description="Number of timed repetitions of dense and cascade; the median is reported."
    )


class Radhical(Section):
    """A RADHicaL cascade: low magnifications decide which pixels are computed at higher magnifications."""

    mpp: Mpp = Field(Mpp(0.5), gt=0.05, le=64, description="Resolution of level 1, the finest, in µm per pixel.")
    max_upsampling: float = Field(
        1.1,
        ge=1,
        le=64,
        description="Slides whose pixels are larger than this many times mpp are left out: enlarged, they would look "
        "like slides at mpp, but show less.",
    )
    scales: list[float] = Field(
        default_factory=lambda: [1.0, 0.5, 0.25, 0.1],
        description="Scale of every level relative to level 1, finest first; the first is 1.",
    )
    objects: list[Name] = Field(
        default_factory=list,
        description="Annotation classes that are nuclei. By default all regions, or all non-zero values of a mask.",
    )
    split: Split = Field(
        default_factory=Split,
        description="Assignment of patients to roles. Of several folds a cascade has one, see fold.",
    )
    fold: int = Field(
        0,
        ge=0,
        description="The fold of split.folds whose patients are tested, counted from 0. For all folds, make "
        "a cascade of each; with the same split they divide the patients alike.",
    )
    network: CascadeNetwork = Field(default_factory=CascadeNetwork, description="The network.")
    train: CascadeTrain = Field(default_factory=CascadeTrain, description="Sampling and training.")
    search: CascadeSearch = Field(default_factory=CascadeSearch, description="Choice of thresholds.")
    thresholds: CascadeThresholds | None = Field(None, description="Thresholds to use without a search.")
    block_px: int = Field(
        128,
        ge=32,
        le=1024,
        multiple_of=32,
        description="Edge in pixels of the blocks that are computed or skipped. Smaller blocks skip more pixels, but "
        "cost more per pixel.",
    )
    neck_um: Annotated[Microns, Field(gt=0)] | Literal["search"] | None = Field(
        SEARCHED,
        description="Touching nuclei are parted at necks whose half width, in µm, is at least this much smaller than "
        "that of the nuclei on both sides; null: never; search: the value with the best F of objects on validation "
        "patients.",
    )
    baselines: CascadeBaselines = Field(default_factory=CascadeBaselines, description="Baselines.")

    @field_validator("scales")
    @classmethod
    def _falling(cls, scales: list[float]) -> list[float]:
        if scales[:1] != [1.0] or any(b >= a or b <= 0 for a, b in pairwise(scales)):
            raise ValueError("scales must start at 1 and decrease, for example [1, 0.5, 0.25, 0.1]")
        return scales

    @model_validator(mode="after")
    def _fit(self) -> Radhical:
        if self.fold >= self.split.folds:
            raise ValueError(f"fold: {self.fold} is not among split.folds ({self.split.folds}), counted from 0")
        if self.split.like is not None:
            raise ValueError("split.like: slides without an annotation have no role in a nucleus cascade; remove like")
        coarse = len(self.scales) - 1
        if self.thresholds and {len(self.thresholds.lower), len(self.thresholds.upper)} != {coarse}:
            raise ValueError(f"thresholds.lower and thresholds.upper need {coarse} values: levels 2 to {coarse + 1}")
        if isinstance(self.train.steps, list) and len(self.train.steps) != len(self.scales):
            raise ValueError(
                f"train.steps: {len(self.scales)} values are needed, one per level, not {len(self.train.steps)}"
            )
        if self.network.border == "zeros" and self.train.lattice != 1:
            raise ValueError("network.border: zeros evaluates single patches, so train.lattice must be 1")
        return self

    def fitting(self) -> dict[str, Any]:
        """Return the settings that affect the trained levels: not those of thresholds and inference."""
        used = {"mpp", "max_upsampling", "scales", "objects", "network"}
        kept = {key: value for key, value in self.dump().items() if key in used}
        return kept | {"train": self.train.fitting()}
