"""Measures of a stain transfer on held-out patients: realism, the way there and back, structures, seams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from skimage.metrics import structural_similarity

from histomake.base.errors import SlideError
from histomake.base.layout import DESCRIPTION
from histomake.base.records.record import Quarantined
from histomake.base.records.transfer_card import TransferCard
from histomake.base.records.transfer_measures import CycleMeasure, NucleiMatch, SlideStructure, TransferMeasures
from histomake.features.encoders import ReadyEncoder
from histomake.generate.held_out import Box, HeldOut, OpenPair, read_patches, shares, spread
from histomake.generate.networks import StainGenerator
from histomake.generate.nuclei_excess import excess, excess_flags
from histomake.generate.realism_rows import PatchSet, PatchSets, realism_rows, unrealistic
from histomake.generate.reference import learned, reference_stains
from histomake.generate.seams import glass_change, seam_ratio
from histomake.generate.store import sampled_windows
from histomake.generate.structure import Views, compare
from histomake.generate.translate import SAMPLED_WINDOWS, SlideTranslator, direction_of, load_generator
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.engine.runtime import Runtime, choose_runtime
from histomake.patch.stain import Method, StainNormaliser

STAGE = "measure"

CYCLED = 64
"""Most patches that are translated there and back."""


@dataclass
class Measured:
    """The record, and for its picture the boxes of patches and the numbers of invented nuclei in them, by slide."""

    record: TransferMeasures
    invented: Mapping[str, tuple[list[Box], list[int]]]


@dataclass
class _Found:
    """What is known of the slides so far."""

    structures: list[SlideStructure] = field(default_factory=list)
    invented: dict[str, tuple[list[Box], list[int]]] = field(default_factory=dict)
    cycles: list[tuple[float, float]] = field(default_factory=list)
    sets: PatchSets = field(default_factory=PatchSets)
    real: PatchSet = field(default_factory=PatchSet)
    lost: list[Quarantined] = field(default_factory=list)


def measure_transfer(
    model: Path,
    *,
    name: str,
    side: int,
    held_out: Sequence[HeldOut],
    real: Sequence[SlideEntry],
    reference: Sequence[SlideEntry],
    encoder: ReadyEncoder | None,
    patches: int,
    seed: int,
    threads: int,
) -> Measured:
    """Measure one direction of a stain transfer on its virtual slides.

    Args:
        model: Folder of the generators.
        name: Name of the transfer.
        side: Side of the slides whose stain is changed, 0 for ``from``, 1 for ``to``.
        held_out: Held-out slides of this side.
        real: Held-out slides of the other side.
        reference: Training slides of the other side, for the reference of Reinhard's and Macenko's normalisation.
        encoder: The encoder of realism, if any.
        patches: Patches of each side for realism, and of each slide for structures.
        seed: Seed of the bootstrap.
        threads: Number of CPU threads.

    A slide that cannot be used is left out and named in the record.
    """
    card = TransferCard.read(model / DESCRIPTION)
    mpp, size = card.grid.mpp, card.grid.size
    runtime = choose_runtime("fp32", threads=threads)
    there, back = (load_generator(model, card, direction_of(s), runtime) for s in (side, 1 - side))
    stains, found = reference_stains(reference), _Found()
    counts = zip(held_out, shares(patches, len(held_out)), shares(CYCLED, len(held_out)), strict=True)
    for slide, share, cycled in counts:
        try:
            pair = OpenPair(slide, mpp, size=size, most=patches)
            known = learned(stains, slide.entry)
            first, second = _translators(pair, there, back, runtime, size=size)
            structure, invented = _structure(pair, known, first)
            cycles = [_cycle(pair, second, box) for box in spread(pair.boxes, cycled)]
            found.sets.add(pair, known, share)
        except SlideError as error:
            found.lost.append(Quarantined.of(error, STAGE))
            continue
        found.structures.append(structure)
        found.cycles += cycles
        found.invented[slide.entry.slide_id] = (pair.boxes, invented)
    for entry, share in zip(real, shares(patches, len(real)), strict=True) if encoder else ():
        try:
            found.real.add(read_patches(entry, mpp, size=size, most=share), entry.patient_id)
        except SlideError as error:
            found.lost.append(Quarantined.of(error, STAGE))
    record = _record(card, name, side, [entry.slide_id for entry in real], found, encoder, seed)
    return Measured(record, found.invented)


def _record(
    card: TransferCard,
    name: str,
    side: int,
    real: list[str],
    found: _Found,
    encoder: ReadyEncoder | None,
    seed: int,
) -> TransferMeasures:
    stains = card.stains if side == 0 else (card.stains[1], card.stains[0])
    lost = {entry.slide_id for entry in found.lost}
    invented, gone = (excess(found.structures, what, seed=seed) for what in ("invented", "lost"))
    realism = realism_rows(encoder, found.sets, found.real, seed=seed) if encoder else {}
    return TransferMeasures(
        transfer=name,
        direction=direction_of(side),
        stains=stains,
        weights_sha256=card.weights_sha256,
        slides=([s.slide_id for s in found.structures], [slide for slide in real if slide not in lost]),
        encoder=encoder.column if encoder else None,
        realism=realism,
        cycle=_mean_cycle(found.cycles),
        structures=found.structures,
        invented_per_mm2=_per_mm2(found.structures),
        invented_share=invented.share,
        invented_interval=invented.interval,
        lost_share=gone.share,
        lost_interval=gone.interval,
        flags=excess_flags(stains, invented, gone) + unrealistic(stains, realism),
        left_out=found.lost,
    )


# --- structures -------------------------------------------------------------------------------------------------------


def _structure(
    pair: OpenPair, stains: Mapping[Method, StainNormaliser], translator: SlideTranslator
) -> tuple[SlideStructure, list[int]]:
    """Structures, seams and glass of a slide, and the number of invented nuclei in each of its patches."""
    mpp, entry = pair.scanned.mpp, pair.slide.entry
    found = compare(pair.windows, mpp)
    normalised = {method: None if found.match is None else _normalised(pair, stain) for method, stain in stains.items()}
    place = pair.tissue, pair.width, pair.height
    structure = SlideStructure(
        slide_id=entry.slide_id,
        patient_id=entry.patient_id,
        patches=len(pair.boxes),
        area_mm2=found.tissue * mpp**2 / 1e6,
        haematoxylin_correlation=found.correlation,
        nuclei=found.nuclei,
        transfer=found.match,
        reinhard=normalised.get("reinhard"),
        macenko=normalised.get("macenko"),
        seam_ratio=seam_ratio(pair.changed, translator.translate, *place),
        glass_change=glass_change(pair.scanned.read, pair.changed, *place),
    )
    return structure, found.invented


def _normalised(pair: OpenPair, stain: StainNormaliser) -> NucleiMatch | None:
    """Nuclei of a slide under a normalisation of its stain."""
    slide = pair.slide.entry.slide_id

    def views() -> Iterator[Views]:
        return (Views(w.before, stain.apply(w.before, slide), w.tissue) for w in pair.windows())

    return compare(views, pair.scanned.mpp).match


def _per_mm2(structures: Sequence[SlideStructure]) -> float | None:
    counted = [(s.transfer.invented, s.area_mm2) for s in structures if s.transfer is not None and s.area_mm2]
    return sum(number for number, _ in counted) / sum(area for _, area in counted) if counted else None


# --- there and back ---------------------------------------------------------------------------------------------------


def _translators(
    pair: OpenPair, there: StainGenerator, back: StainGenerator, runtime: Runtime, *, size: int
) -> tuple[SlideTranslator, SlideTranslator]:
    """Translators of a slide into the other stain, and of what this makes back into its own."""
    windows = sampled_windows(pair.scanned, pair.mask, size=size, count=SAMPLED_WINDOWS)
    first = SlideTranslator(there, pair.scanned.read, runtime=runtime)
    first.measure(windows)
    second = SlideTranslator(back, first.translate, runtime=runtime)
    second.measure(first.apply(windows))
    return first, second


def _cycle(pair: OpenPair, second: SlideTranslator, box: Box) -> tuple[float, float]:
    """Structural similarity (Wang et al. 2004) and mean absolute difference of a patch and its return."""
    before, after = pair.scanned.read(*box), second.translate(*box)
    similarity = structural_similarity(before, after, channel_axis=2, data_range=255)
    return float(similarity), float(np.abs(before.astype(np.int16) - after).mean())


def _mean_cycle(cycles: Sequence[tuple[float, float]]) -> CycleMeasure | None:
    if not cycles:
        return None
    ssim, l1 = np.mean(cycles, axis=0).tolist()
    return CycleMeasure(patches=len(cycles), ssim=ssim, l1=l1)
