"""Benchmarks of stain transfer: tissue whose truth in the other stain is known, windows, glass, planted nuclei."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest, VirtualStain
from histomake.base.records.transfer_card import TransferCard
from histomake.base.records.transfer_measures import TransferMeasures
from histomake.base.units import Mpp
from histomake.config import Convert, StainTransfer
from histomake.generate.apply import transfer_slide
from histomake.generate.held_out import HeldOut
from histomake.generate.lattice import SlideLattice
from histomake.generate.measures import measure_transfer
from histomake.generate.nuclei_excess import FLOOR, control
from histomake.generate.reference import learned, reference_stains
from histomake.generate.store import sampled_windows, write_virtual_slide
from histomake.generate.training import train_transfer
from histomake.generate.translate import FORWARD, SAMPLED_WINDOWS, SlideTranslator, load_generator
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.engine.runtime import choose_runtime
from histomake.slide.reader import open_slide

from tests.bench.figures import Figure
from tests.bench.restained import (
    EDGE,
    GLASS_PX,
    MASK,
    MPP,
    in_first,
    in_second,
    parts_of_tissue,
    tissue,
    tissue_mask,
    write_slide,
)

SLIDES, TESTED, SIZE = 3, 4, 64
"""Slides of each side to learn from; slides to test on, each of a patient; edge of patches, in pixels."""

NAME = "restained"
TRANSFER = {
    "from": {"column": "stain", "value": "first"},
    "to": {"column": "stain", "value": "second"},
    "grid": "patches",
    "generator": {"blocks": 2, "filters": 16, "residual": True},
    "discriminator": {"layers": 2, "filters": 16},
    "loss": {"cycle": 10, "identity": 5},
    "train": {"steps": 1200, "learning_rate": 5e-4, "ema": 0.99, "record_every": 200, "workers": 0},
}
INVENTING = TRANSFER | {
    "discriminator": {"layers": 3, "filters": 32},
    "loss": {"cycle": 0.5, "identity": 0},
    "train": TRANSFER["train"] | {"steps": 1600},
}
"""Settings under which a generator can add what its discriminator misses: a return that differs costs little."""

LOSSLESS = Convert(codec="zstd", shard_px=EDGE)


@dataclass(frozen=True)
class Tested:
    """A held-out slide: its pixels in both stains, uint8 (EDGE, EDGE, 3), and where they are compared."""

    entry: SlideEntry
    scanned: np.ndarray
    truth: np.ndarray

    @property
    def name(self) -> str:
        """Id of the slide."""
        return self.entry.slide_id

    @property
    def inside(self) -> np.ndarray:
        """Which pixels are tissue, bool (EDGE, EDGE)."""
        return np.kron(tissue_mask(self.scanned).mask, np.ones((MASK, MASK), bool))


def run(work: Path) -> list[Figure]:
    """Train on restained slides, apply the generator to a held-out one, and compare it with the truth."""
    folder = work / "transfer"
    shutil.rmtree(folder, ignore_errors=True)
    layout, parts = Layout(folder), parts_of_tissue(3)
    source = [_slide(layout, f"first{n}", in_first, tissue(n, parts[0])) for n in range(SLIDES)]
    target = [_slide(layout, f"second{n}", in_second, tissue(10 + n, parts[1])) for n in range(SLIDES)]
    tested = [_tested(layout, f"tested{n}", tissue(20 + n, parts[2])) for n in range(TESTED)]
    start = time.perf_counter()
    model = _trained(folder / "model", source, target, TRANSFER)
    took = time.perf_counter() - start
    return [
        Figure("training", took, "<= 480", took <= 480, "s"),
        *_against_truth(layout, tested[0], target, model),
        *_as_one_image(tested[0], model),
        *_planted(layout, tested, target, model),
        *_learned_to_invent(layout, tested, source, [tissue(10 + n, parts[1]) for n in range(SLIDES)]),
    ]


def _trained(model: Path, source: list[SlideEntry], target: list[SlideEntry], settings: dict) -> Path:
    transfer, state = StainTransfer.model_validate(settings), model.with_name(f"{model.name}-state")
    train_transfer(transfer, source=source, target=target, output=model, state=state, seed=1, threads=1)
    return model


def _slide(layout: Layout, name: str, stained, amounts: np.ndarray) -> SlideEntry:
    return write_slide(layout, name, stained(amounts, np.random.default_rng(len(name))), size=SIZE)


def _tested(layout: Layout, name: str, amounts: np.ndarray) -> Tested:
    scanned, truth = in_first(amounts, np.random.default_rng(1)), in_second(amounts, np.random.default_rng(2))
    return Tested(write_slide(layout, name, scanned, size=SIZE), scanned, truth)


def _against_truth(layout: Layout, tested: Tested, target: list[SlideEntry], model: Path) -> list[Figure]:
    """Peak signal-to-noise ratio of the virtual slide in tissue, above those of references; and its glass."""
    with open_slide(_transferred(layout, NAME, tested, model)) as reader:
        virtual = reader.read_level(0, 0, 0, EDGE, EDGE)
    normalised = learned(reference_stains(target), tested.entry)
    others = {name: stain.apply(tested.scanned, tested.name) for name, stain in normalised.items()}
    own, untouched = _psnr(virtual, tested), _psnr(tested.scanned, tested)
    found = {name: _psnr(image, tested) for name, image in others.items()}
    white = tested.scanned.min(axis=2) >= 240
    change = float(np.abs(virtual.astype(int) - tested.scanned)[white].max())
    note = f"{own:.1f} dB; untouched {untouched:.1f}, " + ", ".join(f"{n} {v:.1f}" for n, v in found.items())
    gains = own - untouched, own - found["reinhard"]
    return [
        Figure("PSNR to the known truth, above untouched", gains[0], ">= 1", gains[0] >= 1, "dB", note),
        Figure("PSNR to the known truth, above Reinhard", gains[1], ">= 1", gains[1] >= 1, "dB"),
        Figure("largest change of white pixels", change, "<= 1", change <= 1, "levels"),
    ]


def _transferred(layout: Layout, name: str, tested: Tested, model: Path) -> Path:
    """The manifest of the virtual slide that a generator makes."""
    files, mask = layout.transfer(name), tissue_mask(tested.scanned)
    options = {"name": name, "side": 0, "store": files.store(tested.name).parent, "config": LOSSLESS, "threads": 1}
    transfer_slide(tested.entry.manifest, mask, model, **options).write(files.manifest(tested.name))
    return files.manifest(tested.name)


def _psnr(image: np.ndarray, tested: Tested) -> float:
    error = (image.astype(float) - tested.truth)[tested.inside]
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def _as_one_image(tested: Tested, model: Path) -> list[Figure]:
    """Largest difference of windows of 96 px from the slide as one image."""
    card, runtime = TransferCard.read(model / "model.json"), choose_runtime("fp32", threads=1)
    with open_slide(tested.entry.manifest) as reader:
        lattice = SlideLattice(reader, Mpp(MPP))
        translator = SlideTranslator(load_generator(model, card, FORWARD, runtime), lattice.read, runtime=runtime)
        translator.measure(sampled_windows(lattice, tissue_mask(tested.scanned), size=SIZE, count=SAMPLED_WINDOWS))
        start, edge = GLASS_PX, 4 * 96
        whole = translator.translate(start, start, edge, edge).astype(int)
        places = [(x, y) for y in range(0, edge, 96) for x in range(0, edge, 96)]
        differences = [
            np.abs(translator.translate(start + x, start + y, 96, 96) - whole[y : y + 96, x : x + 96]).max()
            for x, y in places
        ]
    worst = float(max(differences))
    return [Figure("windows against the slide as one image", worst, "<= 1", worst <= 1, "levels")]


def _planted(layout: Layout, tested: list[Tested], target: list[SlideEntry], model: Path) -> list[Figure]:
    """Measures of the virtual slides, of the truth, and of the truth with as many nuclei again."""
    made = {
        "virtual": [_transferred(layout, NAME, slide, model) for slide in tested],
        "truth": [_write(layout, "truth", slide, slide.truth) for slide in tested],
        "planted": [_write(layout, "planted", slide, _with_shifted_nuclei(slide)) for slide in tested],
    }
    found = {name: _measured(layout, slides, tested, target, model) for name, slides in made.items()}
    virtual, truth, planted = found.values()
    seam = max(structure.seam_ratio for structure in virtual.structures)
    wrong = [max(s.transfer.invented, control(s).invented) / s.nuclei for s in truth.structures]
    return [
        Figure("seam ratio of the virtual slides", seam, "<= 1.05", seam <= 1.05),
        Figure("nuclei that the measure invents by itself", max(wrong), "<= 1/3 of the floor", max(wrong) <= FLOOR / 3),
        _invented("planted nuclei: invented share, flagged", planted, is_flagged=True),
        _invented("known truth: invented share, not flagged", truth, is_flagged=False),
        _invented("virtual slides: invented share, not flagged", virtual, is_flagged=False),
    ]


def _learned_to_invent(
    layout: Layout, tested: list[Tested], source: list[SlideEntry], stains: list[np.ndarray]
) -> list[Figure]:
    """A generator whose target slides have about twice the nuclei: those of places 12 px away are added."""
    doubled = [np.maximum(amounts, np.roll(amounts, (12, 12), (0, 1))) for amounts in stains]
    target = [_slide(layout, f"doubled{n}", in_second, amounts) for n, amounts in enumerate(doubled)]
    start = time.perf_counter()
    model = _trained(layout.results / "doubling", source, target, INVENTING)
    took = time.perf_counter() - start
    slides = [_transferred(layout, "doubling", slide, model) for slide in tested]
    record = _measured(layout, slides, tested, target, model)
    return [
        Figure("training on twice the nuclei", took, "<= 480", took <= 480, "s"),
        _invented("trained on twice the nuclei: invented share, flagged", record, is_flagged=True),
    ]


def _invented(name: str, record: TransferMeasures, *, is_flagged: bool) -> Figure:
    """The share of invented nuclei, and whether the flag of the record is as expected."""
    structures, (low, high) = record.structures, record.invented_interval
    scanned, silico = sum(s.nuclei for s in structures), sum(s.transfer.nuclei for s in structures)
    note = f"{low:.3f} to {high:.3f}; {silico} nuclei in silico for {scanned} as scanned"
    told = any("invents" in flag for flag in record.flags)
    return Figure(name, record.invented_share, "flagged" if is_flagged else "not flagged", told == is_flagged, "", note)


def _measured(
    layout: Layout, virtual: list[Path], tested: list[Tested], target: list[SlideEntry], model: Path
) -> TransferMeasures:
    """Measures of virtual slides, without an encoder."""
    folder = layout.transfer(NAME).folder
    held_out = []
    for slide, manifest in zip(tested, virtual, strict=True):
        places = folder / f"{slide.name}_tissue.png", folder / f"{slide.name}_tissue.json"
        tissue_mask(slide.scanned).save(*places)
        held_out.append(HeldOut(slide.entry, manifest, *places))
    return measure_transfer(
        model,
        name=NAME,
        side=0,
        held_out=held_out,
        real=target[:1],
        reference=target,
        encoder=None,
        patches=200,
        seed=1,
        threads=1,
    ).record


def _with_shifted_nuclei(tested: Tested) -> np.ndarray:
    """The truth with the dark pixels of places 12 px away where it is pale: about 40 % more nuclei."""
    moved = np.roll(tested.truth, (12, 12), (0, 1))
    dark = cv2.GaussianBlur(moved, (0, 0), 1).max(axis=2) < 175
    return np.where((dark & tested.inside)[..., None], np.minimum(moved, tested.truth), tested.truth)


def _write(layout: Layout, name: str, tested: Tested, image: np.ndarray) -> Path:
    """The manifest of a virtual slide with the pixels of an image."""
    files = layout.transfer(name)
    with open_slide(tested.entry.manifest) as reader:
        manifest = write_virtual_slide(
            lambda x, y, width, height: image[y : y + height, x : x + width],
            SlideLattice(reader, Mpp(MPP)),
            Manifest.read_usable(tested.entry.manifest),
            files.store(tested.name).parent,
            config=LOSSLESS,
            virtual=VirtualStain(transfer=name, stains=("first", "second"), weights_sha256=None),
        )
    manifest.write(files.manifest(tested.name))
    return files.manifest(tested.name)
