"""Owns the keys of cascades: RADHicaL over nuclei, and classifiers of several magnifications over patches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from histomake.base.units import Mpp
from histomake.config.section import Name, Section, Share
from histomake.config.tasks import Split


class CascadeNetwork(Section):
    """The network of a RADHicaL cascade; every level has its own weights."""

    name: str = Field(
        "radhical",
        description="radhical: the paper's net, 145,123 parameters; else a segmentation-models-pytorch architecture.",
    )
    encoder: str = Field("resnet18", description="Encoder of a segmentation-models-pytorch architecture.")
    border: Literal["context", "zeros"] = Field(
        "context",
        description="What the paper's net sees beyond its 32-pixel patch: context, the real pixels, so that a whole "
        "image is evaluated at once; zeros, as in the paper, which costs a network pass for every pixel.",
    )


class CascadeTrain(Section):
    """Samples and training of every level of a cascade."""

    per_class: int = Field(500, ge=1, description="Points drawn per slide and class (paper: 500).")
    background: int = Field(150, ge=1, description="Background points per slide at the finest level (paper: 150).")
    complete: bool = Field(
        True,
        description="false: annotation is incomplete, so background is drawn only where no dark pixel is near, and "
        "predictions that touch no annotation are not counted as errors.",
    )
    steps: PositiveInt | list[PositiveInt] = Field(
        1500, description="Optimiser steps: of every level, or a list with those of each, finest first."
    )
    batch: int = Field(8, ge=1, description="Points per step; larger batches leave a CPU's caches.")
    lattice: int = Field(
        8,
        ge=1,
        le=32,
        description="A point brings lattice x lattice pixels, 8 apart, that share most of their computation; 1: the "
        "point alone, as in the paper.",
    )
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    colour: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="Jitter of brightness, contrast, saturation and stain densities, as a share; hue by a fifth of it.",
    )
    zoom: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Slides are learned from at up to this many doublings finer and coarser than they are, too: nuclei "
        "differ in size, and a stated resolution may be wrong.",
    )


class CascadeSearch(Section):
    """How thresholds are chosen on validation patients."""

    max_f_loss: Share = Field(
        0.01,
        description="The cheapest thresholds are taken with which neither F, of pixels or of nuclei, lies further "
        "below the dense network's on validation patients.",
    )
    min_saving: Share = Field(
        0.0,
        description="Least share of pixel evaluations to save; where both cannot be had, this one wins.",
    )
    cost: Literal["evaluations", "blocks"] = Field(
        "evaluations",
        description="What thresholds are to save: evaluations, the pixels a network must answer for, as in the paper; "
        "blocks, the mean of those and of the pixels of all blocks they lie in, which is what time goes by.",
    )
    candidates: int = Field(
        32, ge=2, le=300, description="Values tried per threshold, spread over what the networks answer (paper: 32)."
    )
    joint: int = Field(192, ge=0, description="Threshold sets tried in the joint search; 0: coordinate-wise only.")


class CascadeThresholds(Section):
    """Thresholds of a cascade, on the probabilities p0 (nothing), p1 (nucleus; mixed), p2 (wholly nucleus)."""

    cut: Share = Field(description="A level-1 pixel is nucleus when its p1 is above this.")
    lower: list[Share] = Field(
        description="Levels 2, 3, …: the next finer level is computed where p1 + p2 of this level is at least this; "
        "0 sends on whatever is not certain."
    )
    upper: list[Share] = Field(
        description="Levels 2, 3, …: accepted as nucleus where p2 is at least this, which wins over lower; 1: "
        "practically never."
    )


class CascadeBaselines(Section):
    """What a cascade is measured against, on the test slides."""

    naive_pixels: int = Field(
        1024, ge=1, description="Pixels per slide evaluated patch by patch; the naive time is scaled up from them."
    )
    repeats: int = Field(3, ge=1, description="Timed repetitions of dense and cascade; the median counts.")


class Radhical(Section):
    """A RADHicaL cascade: a network per magnification, the low ones decide where the high ones must look."""

    mpp: Mpp = Field(Mpp(0.5), gt=0.05, le=64, description="Resolution of level 1, the finest, in µm per pixel.")
    scales: list[float] = Field(
        default_factory=lambda: [1.0, 0.5, 0.25, 0.1],
        description="Scale of every level relative to mpp, finest first; the first is 1.",
    )
    objects: list[Name] = Field(
        default_factory=list,
        description="Annotation classes that are nuclei; default: everything drawn, or every non-zero mask value.",
    )
    split: Split = Field(default_factory=Split, description="How patients are divided.")
    network: CascadeNetwork = Field(default_factory=CascadeNetwork, description="The network.")
    train: CascadeTrain = Field(default_factory=CascadeTrain, description="Samples and training.")
    search: CascadeSearch = Field(default_factory=CascadeSearch, description="Choice of thresholds.")
    thresholds: CascadeThresholds | None = Field(None, description="Thresholds in place of a search.")
    block_px: int = Field(
        128,
        ge=32,
        le=1024,
        multiple_of=32,
        description="Edge in pixels of the blocks that are computed or skipped; smaller skips more, but costs more.",
    )
    baselines: CascadeBaselines = Field(default_factory=CascadeBaselines, description="Baselines.")

    @field_validator("scales")
    @classmethod
    def _falling(cls, scales: list[float]) -> list[float]:
        if scales[:1] != [1.0] or any(b >= a or b <= 0 for a, b in pairwise(scales)):
            raise ValueError("scales start at 1 and fall from there, for example [1, 0.5, 0.25, 0.1]")
        return scales

    @model_validator(mode="after")
    def _fit(self) -> Radhical:
        if self.split.folds != 1:
            raise ValueError("split.folds: a cascade has one split, give test and val shares or roles in the sheet")
        coarse = len(self.scales) - 1
        if self.thresholds and {len(self.thresholds.lower), len(self.thresholds.upper)} != {coarse}:
            raise ValueError(f"thresholds.lower and thresholds.upper need {coarse} values: levels 2 to {coarse + 1}")
        if isinstance(self.train.steps, list) and len(self.train.steps) != len(self.scales):
            raise ValueError(f"train.steps: {len(self.train.steps)} values for {len(self.scales)} levels")
        if self.network.border == "zeros" and self.train.lattice != 1:
            raise ValueError("network.border: zeros sees single patches, so it needs train.lattice: 1")
        return self

    def fitting(self) -> dict[str, Any]:
        """What the trained levels depend on: neither thresholds nor how they are used."""
        used = {"mpp", "scales", "objects", "network", "train"}
        return {key: value for key, value in self.dump().items() if key in used}


class CascadeStage(Section):
    """One magnification of a patch cascade: a task, and what happens next to the patches it has scored."""

    task: Name = Field(description="A classification task under tasks; its grid is the stage's magnification.")
    lower: Share = Field(0.05, description="The next finer stage looks where this stage's score is at least this.")
    upper: Share = Field(
        1.0, description="Accepted without looking closer where this stage's score is at least this; 1: hardly ever."
    )


class PatchCascade(Section):
    """Prediction of whole slides by classifiers of several magnifications: the coarse ones say where to look."""

    class_name: Name = Field(description="The class that is looked for; every stage's task must have it.")
    stages: list[CascadeStage] = Field(min_length=2, description="Stages, coarsest grid first.")
