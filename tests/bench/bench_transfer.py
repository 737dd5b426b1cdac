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

SLIDES, SIZE = 3, 64
"""Slides of each side to learn from; edge of their patches, in pixels."""

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
LOSSLESS = Convert(codec="zstd", shard_px=EDGE)


@dataclass(frozen=True)
class Tested:
    """A held-out slide: its pixels in both stains, uint8 (EDGE, EDGE, 3), and where they are compared."""

    entry: SlideEntry
    scanned: np.ndarray
    truth: np.ndarray

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
    tested = _tested(layout, tissue(20, parts[2]))
    start = time.perf_counter()
    model = _trained(folder / "model", source, target)
    took = time.perf_counter() - start
    return [
        Figure("training", took, "<= 480", took <= 480, "s"),
        *_against_truth(layout, tested, target, model),
        *_as_one_image(tested, model),
        *_planted(layout, tested, target, model),
        *_learned_to_invent(layout, tested, source, [tissue(10 + n, parts[1]) for n in range(SLIDES)]),
    ]


def _trained(model: Path, source: list[SlideEntry], target: list[SlideEntry]) -> Path:
    transfer, state = StainTransfer.model_validate(TRANSFER), model.with_name(f"{model.name}-state")
    train_transfer(transfer, source=source, target=target, output=model, state=state, seed=1, threads=1)
    return model


def _slide(layout: Layout, name: str, stained, amounts: np.ndarray) -> SlideEntry:
    return write_slide(layout, name, stained(amounts, np.random.default_rng(len(name))), size=SIZE)


def _tested(layout: Layout, amounts: np.ndarray) -> Tested:
    scanned, truth = in_first(amounts, np.random.default_rng(1)), in_second(amounts, np.random.default_rng(2))
    return Tested(write_slide(layout, "tested", scanned, size=SIZE), scanned, truth)


def _against_truth(layout: Layout, tested: Tested, target: list[SlideEntry], model: Path) -> list[Figure]:
    """Peak signal-to-noise ratio of the virtual slide in tissue, above those of references; and its glass."""
    with open_slide(_transferred(layout, NAME, tested, model)) as reader:
        virtual = reader.read_level(0, 0, 0, EDGE, EDGE)
    normalised = learned(reference_stains(target), tested.entry)
    others = {name: stain.apply(tested.scanned, "tested") for name, stain in normalised.items()}
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
    options = {"name": name, "side": 0, "store": files.store("tested").parent, "config": LOSSLESS, "threads": 1}
    transfer_slide(tested.entry.manifest, mask, model, **options).write(files.manifest("tested"))
    return files.manifest("tested")


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


def _planted(layout: Layout, tested: Tested, target: list[SlideEntry], model: Path) -> list[Figure]:
    """Measures of the virtual slide, of the truth, and of the truth with as many nuclei again."""
    virtual = _measured(layout, layout.transfer(NAME).manifest("tested"), tested, target, model)
    truth = _measured(layout, _write(layout, "truth", tested, tested.truth), tested, target, model)
    doubled = _write(layout, "planted", tested, _with_shifted_nuclei(tested))
    planted = _measured(layout, doubled, tested, target, model)
    seam = virtual.structures[0].seam_ratio
    return [
        Figure("seam ratio of the virtual slide", seam, "<= 1.05", seam <= 1.05),
        Figure("planted nuclei: invented share, flagged", planted.invented_share, "> 0.1", _is_flagged(planted)),
        Figure("known truth: invented share, not flagged", truth.invented_share, "<= 0.1", not _is_flagged(truth)),
        Figure("virtual slide: invented share", virtual.invented_share, "<= 0.1", not _is_flagged(virtual)),
    ]


def _learned_to_invent(
    layout: Layout, tested: Tested, source: list[SlideEntry], stains: list[np.ndarray]
) -> list[Figure]:
    """A generator whose target slides have about twice the nuclei: those of places 12 px away are added."""
    doubled = [np.maximum(amounts, np.roll(amounts, (12, 12), (0, 1))) for amounts in stains]
    target = [_slide(layout, f"doubled{n}", in_second, amounts) for n, amounts in enumerate(doubled)]
    model = _trained(layout.results / "doubling", source, target)
    record = _measured(layout, _transferred(layout, "doubling", tested, model), tested, target, model)
    (structure,), share = record.structures, record.invented_share
    note = f"{structure.transfer.nuclei} nuclei in silico for {structure.nuclei} as scanned"
    name = "trained on twice the nuclei: invented share, flagged"
    return [Figure(name, share, "> 0.1", _is_flagged(record), "", note)]


def _measured(layout: Layout, virtual: Path, tested: Tested, target: list[SlideEntry], model: Path) -> TransferMeasures:
    """Measures of a virtual slide, without an encoder."""
    files = layout.transfer(NAME)
    places = files.folder / "tissue.png", files.folder / "tissue.json"
    tissue_mask(tested.scanned).save(*places)
    return measure_transfer(
        model,
        name=NAME,
        side=0,
        held_out=[HeldOut(tested.entry, virtual, *places)],
        real=target[:1],
        reference=target,
        encoder=None,
        patches=200,
        seed=1,
        threads=1,
    ).record


def _is_flagged(record: TransferMeasures) -> bool:
    return any("invents" in flag for flag in record.flags)


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
            files.store("tested").parent,
            config=LOSSLESS,
            virtual=VirtualStain(transfer=name, stains=("first", "second"), weights_sha256=None),
        )
    manifest.write(files.manifest("tested"))
    return files.manifest("tested")
