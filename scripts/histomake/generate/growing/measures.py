"""Measures of a generator: its samples against fields of held-out patients and against those it was learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from histomake.base.errors import HistomakeError, SlideError
from histomake.base.records.generator_measures import (
    FeatureDistances,
    GeneratorMeasures,
    Memorisation,
    ScaleDistance,
)
from histomake.base.records.record import Quarantined
from histomake.base.rng import DRAW, ORDER, counter_rng
from histomake.features.encoders import CPU_ROWS, ReadyEncoder
from histomake.generate.growing.fields import FieldSet
from histomake.generate.growing.neighbours import FLAGGED, Nearness, copies, coverage, nearness
from histomake.generate.growing.samples import GeneratedImages
from histomake.generate.growing.sliced_wasserstein import sliced_wasserstein
from histomake.generate.realism import fid, kid
from histomake.learn.data.images import to_unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAGE = "measure"

LEAST = 16
"""Fields of each role that measures need."""

SEARCHED = 10
"""Training fields in which copies are searched, as a multiple of the samples."""

READ = 256
"""Of them, fields that are read at a time."""

SHOWN = 64
"""Samples that are returned with their nearest training fields."""

COMPARED_PX = 32
"""Edge of the images whose pixels are compared without an encoder."""


type Vectors = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""Images to what their distances are of."""


@dataclass
class RealFields:
    """Fields of slides: uint8 (n, size, size, 3), the slide of each, and its position in the index."""

    images: NDArray[np.uint8]
    slides: list[str]
    index: NDArray[np.int64]


@dataclass
class MeasuredGenerator:
    """The record; and for its picture samples, the most copied first, beside their nearest training fields."""

    record: GeneratorMeasures
    pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def read_fields(fields: FieldSet, index: NDArray[np.int64], *, size: int, lost: list[Quarantined]) -> RealFields:
    """Fields by position; those of slides that turn out damaged are left out, and the slides added to ``lost``."""
    patches = fields.patches
    pixels, errors = fields.reader(size).read(index, patches.x[index], patches.y[index])
    for error in errors.values():
        if not isinstance(error, SlideError):
            raise error
        if error.slide_id not in {entry.slide_id for entry in lost}:
            lost.append(Quarantined.of(error, STAGE))
    kept = [slot for slot in range(len(index)) if slot not in errors]
    slides = [patches.entries[patches.slide[position]].slide_id for position in index[kept]]
    return RealFields(pixels[kept], slides, index[kept])


def measure_generator(
    samples: GeneratedImages,
    *,
    name: str,
    training: FieldSet,
    held_out: FieldSet,
    encoder: ReadyEncoder | None,
    count: int,
    seed: int,
) -> MeasuredGenerator:
    """Compare samples with fields of both roles.

    Args:
        samples: Samples of the generator.
        name: Its name.
        training: Fields that it was learned from.
        held_out: Fields of other patients.
        encoder: The encoder of features, if any.
        count: Number of samples, and most fields of each role.
        seed: Seed of all draws.

    Raises HistomakeError if a role has fewer than LEAST usable fields.
    """
    size, lost = samples.card.sizes[-1], list[Quarantined]()
    made = samples.images(count)
    orders = [counter_rng(seed, stream=ORDER).permutation(len(f.patches)) for f in (training, held_out)]
    learned, other = (
        read_fields(f, order[:count], size=size, lost=lost)
        for f, order in zip((training, held_out), orders, strict=True)
    )
    for what, found in (("training", learned), ("held-out", other)):
        if len(found.images) < LEAST:
            raise HistomakeError(
                f"generators.{name}: the {what} slides have {len(found.images)} usable fields, measures need {LEAST}; "
                "hold out more patients, or take a smaller field_um"
            )
    vectors: Vectors = _pixels if encoder is None else partial(_encoded, encoder)
    searched = orders[0][: SEARCHED * count]
    known, places = _known(training, searched, vectors, size=size, lost=lost)
    near, usual = (nearness(_posed(vectors, images), known) for images in (made, other.images))
    memorised = _memorisation("pixels" if encoder is None else encoder.name, near, usual)
    of_made = of_real = None
    if encoder is not None:
        of_made, of_real = (_by_features(encoder, images, other, seed=seed) for images in (made, learned.images))
    record = GeneratorMeasures(
        generator=name,
        weights_sha256=samples.card.weights_sha256,
        images=(len(made), len(learned.images), len(other.images)),
        slides=(_names(learned), _names(other)),
        encoder=None if encoder is None else encoder.name,
        scales=_scales(made, learned.images, other.images, seed=seed),
        made=of_made,
        real=of_real,
        memorisation=memorised,
        flags=_flags(memorised, of_made),
        left_out=lost,
    )
    first = np.argsort(near.ratio)[:SHOWN]
    shown = read_fields(training, places[near.nearest[first]], size=size, lost=lost)
    return MeasuredGenerator(record, list(zip(made[first], shown.images, strict=False)))


def _names(fields: RealFields) -> list[str]:
    return sorted(set(fields.slides))


def _scales(
    made: NDArray[np.uint8], learned: NDArray[np.uint8], other: NDArray[np.uint8], *, seed: int
) -> list[ScaleDistance]:
    equal = min(map(len, (made, learned, other)))
    of_made, of_real = (
        sliced_wasserstein(images[:equal], other[:equal], counter_rng(seed, stream=DRAW)) for images in (made, learned)
    )
    return [ScaleDistance(edge=edge, made=of_made[edge], real=of_real[edge]) for edge in of_made]


def _by_features(encoder: ReadyEncoder, images: NDArray[np.uint8], other: RealFields, *, seed: int) -> FeatureDistances:
    found, real = _encoded(encoder, images), _encoded(encoder, other.images)
    equal = min(len(found), len(real))
    several = len(set(other.slides)) > 1
    distance = kid(found, real, counter_rng(seed, stream=DRAW), groups_b=other.slides if several else None)
    return FeatureDistances(
        kid=distance.value,
        kid_interval=distance.interval if several else None,
        fid=fid(found[:equal], real[:equal]),
        precision=coverage(found[:equal], real[:equal]),
        recall=coverage(real[:equal], found[:equal]),
    )


def _known(
    fields: FieldSet, index: NDArray[np.int64], vectors: Vectors, *, size: int, lost: list[Quarantined]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Vectors of training fields, read a few at a time, and their positions in the index."""
    parts, places = [], []
    for start in range(0, len(index), READ):
        found = read_fields(fields, index[start : start + READ], size=size, lost=lost)
        if len(found.images):
            parts.append(vectors(found.images))
            places.append(found.index)
    return np.concatenate(parts), np.concatenate(places)


def _posed(vectors: Vectors, images: NDArray[np.uint8]) -> NDArray[np.floating]:
    return np.stack([vectors(pose) for pose in poses(images)])


def _memorisation(space: str, near: Nearness, usual: Nearness) -> Memorisation:
    share = copies(near, usual)
    return Memorisation(
        space=space,
        made=float(np.median(near.distance)),
        held_out=float(np.median(usual.distance)),
        copies=share,
        flagged=share > FLAGGED,
    )


def poses(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Images (n, s, s, 3) in the eight poses in which fields are learned from."""
    turned = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return [np.ascontiguousarray(pose) for one in turned for pose in (one, one[:, :, ::-1])]


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Levels in [0, 1] of images, reduced where they are larger than COMPARED_PX: (n, values)."""
    if images.shape[1] > COMPARED_PX:
        edge = (COMPARED_PX, COMPARED_PX)
        images = np.stack([cv2.resize(image, edge, interpolation=cv2.INTER_AREA) for image in images])
    return (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32)


def _encoded(encoder: ReadyEncoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    device = encoder.runtime.device
    parts = [torch.from_numpy(images[start : start + CPU_ROWS]) for start in range(0, len(images), CPU_ROWS)]
    return np.concatenate([encoder.encode(to_unit(part, device)).cpu().numpy() for part in parts])


def _flags(memorised: Memorisation, made: FeatureDistances | None) -> list[str]:
    found = []
    if memorised.flagged:
        found.append(
            f"{memorised.copies:.0%} of the samples are copies of training fields (expected 1 %): they show tissue of "
            "patients, and must not be shared as if they did not. Take more slides, or fewer images per phase."
        )
    if made is not None and made.precision == 0:
        found.append("No sample lies among fields of held-out patients (precision 0): the generator must learn longer.")
    return found
