"""How far the patches of virtual slides, and those they are compared with, are from real ones with the wanted stain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from histomake.base.records.transfer_measures import Realism
from histomake.base.rng import DRAW, counter_rng
from histomake.features.encoders import CPU_ROWS, ReadyEncoder
from histomake.generate.held_out import OpenPair, spread
from histomake.generate.realism import LEAST_IMAGES, fid, kid
from histomake.generate.reference import METHODS, Stains
from histomake.learn.data.images import to_unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNTOUCHED, TRANSFER, REAL = "untouched", "transfer", "real"
ROWS = (UNTOUCHED, *METHODS, TRANSFER, REAL)
REFERENCES = {
    UNTOUCHED: "the slides as scanned",
    "reinhard": "those of Reinhard's normalisation",
    "macenko": "those of Macenko's normalisation",
}
"""What virtual slides are compared with, in a sentence."""
"""All rows, in the order in which they are shown."""


@dataclass
class PatchSet:
    """Patches uint8 (size, size, 3), and the patient of each."""

    images: list[NDArray[np.uint8]] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)

    def add(self, images: Sequence[NDArray[np.uint8]], patient: str) -> None:
        """Add patches of a patient."""
        self.images += images
        self.patients += [patient] * len(images)


class PatchSets:
    """Patches of held-out slides as scanned, normalised and in silico, by row."""

    def __init__(self) -> None:
        self.rows = {row: PatchSet() for row in (UNTOUCHED, *METHODS, TRANSFER)}

    def add(self, pair: OpenPair, stains: Stains, count: int) -> None:
        """Add up to ``count`` patches of a slide; normalised ones by those ``stains`` that know its colours."""
        slide = pair.slide.entry
        for box in spread(pair.boxes, count):
            scanned = pair.scanned.read(*box)
            found = {UNTOUCHED: scanned, TRANSFER: pair.changed(*box)}
            found |= {method: stain.apply(scanned, slide.slide_id) for method, stain in stains.items()}
            for row, image in found.items():
                self.rows[row].add([image], slide.patient_id)


@dataclass(frozen=True)
class _Encoded:
    """Features float32 (n, d), and the patient of each row, (n,)."""

    vectors: NDArray[np.float32]
    patients: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.vectors)

    def chosen(self, where: NDArray[np.bool_]) -> _Encoded:
        return _Encoded(self.vectors[where], self.patients[where])

    def thinned(self, count: int) -> NDArray[np.float32]:
        return self.vectors[np.linspace(0, len(self) - 1, count).astype(int)]


def realism_rows(encoder: ReadyEncoder, sets: PatchSets, real: PatchSet, *, seed: int) -> dict[str, Realism]:
    """Distances of all rows from real patches, which the row of other real ones has from one half of them to the other.

    KID compares with all real patches. FID depends on the number of patches, so it compares as many of each row with as
    many of one half. Empty without enough real patches.
    """
    known = _encoded(encoder, real)
    half = _half(known.patients)
    first = known.chosen(half)
    compared = {row: _encoded(encoder, found) for row, found in sets.rows.items()} | {REAL: known.chosen(~half)}
    compared = {row: found for row, found in compared.items() if len(found) >= LEAST_IMAGES}
    if len(first) < LEAST_IMAGES or REAL not in compared:
        return {}
    equal = min(len(found) for found in (first, *compared.values()))
    return {
        row: _distances(found, first if row == REAL else known, first, equal=equal, seed=seed)
        for row, found in compared.items()
    }


def unrealistic(stains: tuple[str, str], rows: Mapping[str, Realism]) -> list[str]:
    """A sentence if virtual slides are no closer to real ones than without a network."""
    own = rows.get(TRANSFER)
    nearer = {name: rows[name].kid for name in (UNTOUCHED, *METHODS) if name in rows and own is not None}
    if own is None or not nearer or own.kid < min(nearer.values()):
        return []
    name = min(nearer, key=lambda row: nearer[row])
    return [
        f"Slides with {stains[0]} made {stains[1]} are no closer to real ones (KID {own.kid:.3g}) than "
        f"{REFERENCES[name]} ({nearer[name]:.3g}): the transfer has learned nothing that needs a network."
    ]


def _distances(found: _Encoded, real: _Encoded, first: _Encoded, *, equal: int, seed: int) -> Realism:
    of_patients = min(len(set(found.patients)), len(set(real.patients))) > 1
    distance = kid(
        found.vectors,
        real.vectors,
        counter_rng(seed, stream=DRAW),
        groups_a=found.patients.tolist() if of_patients else None,
        groups_b=real.patients.tolist() if of_patients else None,
    )
    return Realism(
        images=len(found),
        kid=distance.value,
        kid_interval=distance.interval,
        drawn="patients" if of_patients else "patches",
        fid=fid(found.thinned(equal), first.thinned(equal)),
    )


def _half(patients: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Which patches are of one half: every second patient, or every second patch of a single patient."""
    names, number = np.unique(patients, return_inverse=True)
    return np.asarray((number if len(names) > 1 else np.arange(len(patients))) % 2 == 0)


def _encoded(encoder: ReadyEncoder, found: PatchSet) -> _Encoded:
    if not found.images:
        return _Encoded(np.zeros((0, encoder.card.dimensions), np.float32), np.zeros(0, np.str_))
    device = encoder.runtime.device
    parts = [np.stack(found.images[start : start + CPU_ROWS]) for start in range(0, len(found.images), CPU_ROWS)]
    vectors = [encoder.encode(to_unit(torch.from_numpy(part), device)).cpu().numpy() for part in parts]
    return _Encoded(np.concatenate(vectors), np.array(found.patients, np.str_))
