"""Keys of tasks whose targets belong to slides or patients: which patches a bag has, and how they are pooled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from histomake.config.probes import LOOP, ignored_train_keys
from histomake.config.section import Name, Section, Share

Width = Annotated[int, Field(ge=1, le=8192)]

BAG_TRAIN_KEYS = (
    *LOOP,
    "select",
    "balance",
    "loss",
    "intervals",
    "accumulate",
    "precision",
    "workers",
    "checkpoint_minutes",
    "audit",
)
"""Keys of train that a task on bags has."""

HEADED = ("attention", "gated", "additive", "clam", "transmil")
"""Poolings with several attentions side by side."""


class Bag(Section):
    """The patches of a slide or patient that are learned from together."""

    sampler: Literal["random", "spread", "cluster"] = Field(
        "random",
        description="Patches that are drawn from a bag for a training step. random: any; spread: one from each of size "
        "equal parts of the tissue; cluster: the same number of every cluster of similar features.",
    )
    size: int = Field(512, ge=1, description="Number of patches drawn per bag and step. Smaller bags are used whole.")
    min_tissue: Share = Field(0.0, description="Smallest tissue share of a patch of a bag, in training and prediction.")
    containing: dict[Name, Share] = Field(
        default_factory=dict,
        description="Share of the drawn patches that contain at least some of this annotation class, as far as a bag "
        "has so many. In training only: predictions use all patches.",
    )
    crop: int | None = Field(
        None,
        ge=8,
        description="Edge, in pixels, of the square that is taken from each patch: anywhere in training, the middle "
        "in prediction. Only without features; null: the whole patch.",
    )
    chunk: int = Field(
        32,
        ge=1,
        description="Number of patches that pass the network together. Only without features: the memory of a step is "
        "that of a chunk, since the others are computed again for their gradients.",
    )
    clusters: int = Field(10, ge=2, le=1000, description="Number of clusters of sampler cluster (k-means).")


class BagPooling(Section):
    """How the patches of a bag become one prediction."""

    name: Literal["mean", "max", "topk", "attention", "gated", "dsmil", "clam", "transmil", "additive"] = Field(
        "gated",
        description="mean, max: of the embedded patches; topk: mean of the highest logits of single patches; "
        "attention, gated: Ilse et al. 2018; dsmil: Li et al. 2021; clam: one branch, Lu et al. 2021; transmil: "
        "Shao et al. 2021, with neighbours by position; additive: Javed et al. 2022, gives the contribution of every "
        "patch to every logit.",
    )
    embed: Width | None = Field(
        256, description="Width to which features are embedded before pooling; null: they are pooled as they are."
    )
    hidden: list[Width] = Field(default=[128], min_length=1, description="Widths of the hidden layers of attention.")
    heads: int = Field(1, ge=1, le=64, description="Number of attentions side by side.")
    classifier: list[Width] = Field(
        default_factory=list, description="Widths of the hidden layers between the pooled vector and the outputs."
    )
    dropout: Share = Field(0.25, description="Dropout in embedding, attention and classifier.")
    top: int = Field(
        8,
        ge=1,
        description="Number of patches that topk averages, and of highest and of lowest ones in the loss of clam.",
    )
    patch_loss: Share = Field(0.3, description="Share of the loss that clam computes from patches.")
    normalise: bool = Field(
        True,
        description="additive: weight the logits of patches by an attention that sums to 1, so that duplicated patches "
        "change nothing. false: classify patches multiplied by their attention and sum, as in the paper.",
    )


def bag_problems(
    bag: Bag,
    pooling: BagPooling,
    *,
    train: Section,
    unused: Mapping[str, Section],
    classes_exclude: bool,
    pixels: bool,
) -> Iterator[str]:
    """Yield settings of a task on bags that it ignores or cannot have.

    ``unused``: sections of the task that only learning from single patches uses. ``classes_exclude``: whether each bag
    has exactly one class. ``pixels``: whether patches are images, not vectors of an encoder.
    """
    for name, section in unused.items():
        if section != type(section)():
            yield f"{name}: a task of slides or patients has no {name}; use bag and pooling"
    yield from ignored_train_keys(train, BAG_TRAIN_KEYS, "a task of slides or patients")
    if sum(bag.containing.values()) > 1:
        yield "bag.containing: the sum of the shares is more than 1"
    yield from _pixel_problems(bag) if pixels else _vector_problems(bag)
    if bag.sampler != "cluster" and bag.clusters != Bag().clusters:
        yield f"bag.clusters: sampler {bag.sampler} has no clusters; remove the key"
    yield from _pooling_problems(pooling, classes_exclude=classes_exclude)


def _pixel_problems(bag: Bag) -> Iterator[str]:
    if bag.sampler == "cluster":
        yield (
            "bag.sampler: cluster needs features: vectors of a network in training change with every step, and so "
            "would their clusters; use random or spread, or features"
        )


def _vector_problems(bag: Bag) -> Iterator[str]:
    usual = Bag()
    if (bag.crop, bag.chunk) != (usual.crop, usual.chunk):
        yield "bag.crop and bag.chunk are of tasks that learn from pixels; remove them, or features"


def _pooling_problems(pooling: BagPooling, *, classes_exclude: bool) -> Iterator[str]:
    usual = BagPooling()
    if pooling.heads > 1 and pooling.name not in HEADED:
        yield f"pooling.heads: {pooling.name} has one; use {', '.join(HEADED)}, or remove the key"
    if pooling.name == "transmil" and pooling.embed is not None and pooling.embed % pooling.heads:
        yield f"pooling.heads: {pooling.heads} does not divide pooling.embed ({pooling.embed})"
    if pooling.name == "clam" and not classes_exclude:
        yield "pooling.name: the loss of clam needs kind classification; use gated"
    if pooling.name != "additive" and pooling.normalise != usual.normalise:
        yield f"pooling.normalise: {pooling.name} is not additive; remove the key"
    if pooling.name != "clam" and pooling.patch_loss != usual.patch_loss:
        yield f"pooling.patch_loss: {pooling.name} has no loss on patches; remove the key"
