"""A growing generator on the sampler: what histo-fetch's figure 1c compares, and whether a tiny one learns on a CPU.

Chopping cuts all fields of all sizes out of the slides before the first step; on the fly, a training reads each size
directly from the store. Finding tissue is needed for both and not timed; tabulating the fields counts for reading on
the fly only.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from histomake.annotation.model import Annotation
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.rng import counter_rng
from histomake.base.units import Level0Pixels, Mpp
from histomake.config import Convert, Generator
from histomake.generate.growing.fields import FieldBatch, FieldBatches, FieldSet, index_fields
from histomake.generate.growing.objective import GrowingObjective
from histomake.generate.growing.samples import GeneratedImages
from histomake.generate.growing.schedule import Schedule
from histomake.generate.growing.sliced_wasserstein import sliced_wasserstein
from histomake.generate.growing.training import train_generator
from histomake.learn.data.loader import load_batches
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.data.source import NEW, BatchSource, Room, needed
from histomake.learn.engine.runtime import choose_runtime
from histomake.patch.field_grid import field_grid
from histomake.patch.grid import SlideGrid
from histomake.patch.tabulate import tabulate, write_patch_table
from histomake.slide.convert import convert
from histomake.slide.reader import open_slide

from tests import sample_records
from tests.bench.figures import Figure
from tests.bench.slides import big_slide

SIDE = 24_576
SLIDES = 8
DOWNSAMPLE = 32
CHOPPED_QUALITY = 90
STEPS, ROUNDS = 5, 15

PAPER = {"field_um": 512, "sizes": [4, 8, 16, 32, 64, 128, 256, 512], "tissue": 0.34}
"""histo-fetch's field, 2,048 px of level 0 at 0.25 µm per px, and its sizes."""

TINY = {
    "field_um": 64,
    "sizes": [4, 8, 16, 32],
    "latent": 32,
    "images": 2400,
    "fade": 1600,
    "network": {"features": 1024, "most": 48},
    "train": {"batch": 16, "ema": 0.99, "record_every": 100, "workers": 1},
}


def run(work: Path) -> list[Figure]:
    """Return the figures of issue 22's table that concern growing generators."""
    folder = work / "generators"
    shutil.rmtree(folder, ignore_errors=True)
    manifests = slides(work, folder)
    return [*figure_1c(manifests, folder), learns(manifests, folder)]


def slides(work: Path, folder: Path) -> list[Manifest]:
    """Converted slides with tissue: copies of one, by links, under ids of their own."""
    source, layout = big_slide(work, SIDE), Layout(folder)
    store = folder / "slides" / "s0.zarr"
    made = convert(source, store, slide_id="s0", config=Convert(), threads=2)
    made.write(layout.manifest("s0"))
    for number in range(1, SLIDES):
        (folder / "slides" / f"s{number}.zarr").symlink_to(store)
        text = layout.manifest("s0").read_text().replace('"s0"', f'"s{number}"').replace("s0.zarr", f"s{number}.zarr")
        layout.manifest(f"s{number}").write_text(text)
    return [Manifest.read_usable(layout.manifest(f"s{n}")) for n in range(SLIDES)]


def tabulated(manifests: list[Manifest], folder: Path, generator: Generator, name: str) -> list[SlideEntry]:
    """Write the tables of fields; the tissue is the ellipse of `big_slide`."""
    layout, grid = Layout(folder), field_grid(generator)
    edge = -(-SIDE // DOWNSAMPLE)
    y, x = (np.mgrid[:edge, :edge] + 0.5) / edge - 0.5
    tissue = sample_records.tissue_mask(np.hypot(x, y) < 0.4, DOWNSAMPLE)
    artefacts = sample_records.artefact_map(np.zeros((edge, edge), np.uint8))
    annotation = Annotation((), [])
    for manifest in manifests:
        table = tabulate(manifest, tissue, artefacts, annotation, grid, [], grid_name=name, max_share=0.5)
        write_patch_table(table, layout.table(name, manifest.slide_id))
    return [SlideEntry.at(layout, name, m.slide_id, f"patient-{m.slide_id}", {}) for m in manifests]


# --- figure 1c -------------------------------------------------------------------------------------------------------


def figure_1c(manifests: list[Manifest], folder: Path) -> list[Figure]:
    """Chopped against on the fly: seconds to the first step, bytes, and time of a step."""
    generator = Generator.model_validate(PAPER)
    schedule = Schedule.of(generator)
    started = time.perf_counter()
    entries = tabulated(manifests, folder, generator, "fields")
    fields = index_fields(entries, generator, what="slides")
    on_the_fly = FieldBatches(fields, schedule, min_tissue=generator.tissue, seed=1)
    on_the_fly.prepare(0)
    soon = time.perf_counter() - started
    started = time.perf_counter()
    chopped = chop(fields, generator, folder / "chopped")
    ChoppedBatches(chopped, fields, schedule).prepare(0)
    late = time.perf_counter() - started
    listed = sum(entry.table.stat().st_size for entry in entries)
    held = sum(path.stat().st_size for path in chopped.rglob("*.jpg"))
    note = f"{late:.1f} s against {soon:.2f} s, {SLIDES} slides of {SIDE} px, 8 sizes"
    return [
        Figure("chopped against on the fly: to the first step", late / soon, ">= 50", late >= 50 * soon, "times", note),
        Figure(
            "chopped against on the fly: disk",
            held / listed,
            ">= 1000",
            held >= 1000 * listed,
            "times",
            f"{held / 1e6:.1f} MB against {listed / 1e6:.3f} MB",
        ),
        step_time(chopped, fields),
    ]


def chop(fields: FieldSet, generator: Generator, folder: Path) -> Path:
    """Write the fields of all sizes, without overlap, as JPEG."""
    for entry in fields.patches.entries:
        reader = open_slide(entry.manifest)
        grid = field_grid(generator).model_copy(update={"stride": None})
        x, y = SlideGrid(reader.width, reader.height, reader.mpp, grid).cells()
        mine = fields.patches.slide == fields.patches.entries.index(entry)
        known = set(zip(fields.patches.x[mine].tolist(), fields.patches.y[mine].tolist(), strict=True))
        for size in generator.sizes:
            (folder / str(size)).mkdir(parents=True, exist_ok=True)
            for left, top in zip(x.tolist(), y.tolist(), strict=True):
                if (left, top) in known:
                    place = Level0Pixels(left), Level0Pixels(top)
                    pixels = reader.read(*place, size, Mpp(generator.field_um / size))
                    path = folder / str(size) / f"{entry.slide_id}_{left}_{top}.jpg"
                    cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, CHOPPED_QUALITY])
    os.sync()
    return folder


class ChoppedBatches(BatchSource[FieldBatch]):
    """Batches of chopped fields, in random order and poses."""

    def __init__(self, folder: Path, fields: FieldSet, schedule: Schedule) -> None:
        self.folder, self.fields, self.schedule = folder, fields, schedule
        self.paths: dict[int, list[Path]] = {}

    @property
    def room_bytes(self) -> int:
        """See BatchSource."""
        return max(needed((p.batch, p.size, p.size, 3), np.uint8) for p in self.schedule.phases)

    def prepare(self, number: int, room: Room = NEW) -> FieldBatch:
        """See BatchSource."""
        phase, rng = self.schedule.at(number), counter_rng(1, step=number)
        if phase.size not in self.paths:
            self.paths[phase.size] = sorted((self.folder / str(phase.size)).iterdir())
        paths = self.paths[phase.size]
        out = room.array((phase.batch, phase.size, phase.size, 3), np.uint8)
        for slot, chosen in enumerate(rng.integers(0, len(paths), phase.batch)):
            turned = np.rot90(cv2.imread(str(paths[chosen]))[..., ::-1], int(rng.integers(4)))
            out[slot] = turned[:, ::-1] if rng.random() < 0.5 else turned
        index = np.zeros(phase.batch, np.int64)
        return FieldBatch(torch.from_numpy(out), torch.zeros(phase.batch, dtype=torch.int64), index, [])


def step_time(chopped: Path, fields: FieldSet) -> Figure:
    """Time of a step at 64 px with one process that trains and one that loads, on two cores."""
    settings = {**PAPER, "sizes": [4, 8, 16, 32, 64], "fade": 0, "images": 16, "latent": 64}
    settings |= {"network": {"features": 2048, "most": 64}, "train": {"batch": 64, "workers": 1}}
    generator = Generator.model_validate(settings)
    objective = GrowingObjective(generator, fields=fields, runtime=choose_runtime("fp32", threads=1), seed=1, threads=2)
    last = Schedule([64], images=10**9, fade=0, batch=16)
    objective.schedule = last
    sources = (
        FieldBatches(fields, last, min_tissue=generator.tissue, seed=1),
        ChoppedBatches(chopped, fields, last),
    )
    took = [[_per_step(objective, source) for source in sources] for _ in range(ROUNDS)]
    ratios = [on_the_fly / from_files for on_the_fly, from_files in took]
    share = statistics.median(ratios) - 1
    note = f"{1000 * statistics.median(pair[0] for pair in took):.0f} ms, 64 px, median of {ROUNDS} rounds"
    return Figure("on the fly against chopped: time of a step", 100 * share, "<= 5", share <= 0.05, "% more", note)


def _per_step(objective: GrowingObjective, source: BatchSource[FieldBatch]) -> float:
    """Seconds of a step, once the loader is at work."""
    with load_batches(source, range(STEPS + 2), workers=1) as batches:
        for step, batch in enumerate(batches):
            if step == 2:
                started = time.perf_counter()
            _step(objective, batch, step)
        return (time.perf_counter() - started) / STEPS


def _step(objective: GrowingObjective, batch: FieldBatch, step: int) -> None:
    objective.begin(step)
    for turn in objective.turns(batch, step):
        turn.loss.backward()
        optimiser = objective.optimisers[turn.optimiser].optimiser
        optimiser.step()
        for network in objective.networks.values():
            network.zero_grad(set_to_none=True)


# --- learning --------------------------------------------------------------------------------------------------------


def learns(manifests: list[Manifest], folder: Path) -> Figure:
    """Sliced Wasserstein distance of a tiny generator at 32 px, after a short training on a CPU."""
    generator = Generator.model_validate(TINY)
    entries = tabulated(manifests[:1], folder, generator, "tiny")
    fields = index_fields(entries, generator, what="slides")
    index = counter_rng(5).permutation(len(fields.patches))[:512]
    real, _ = fields.reader(32).read(index, fields.patches.x[index], fields.patches.y[index])
    distances = []
    started = time.perf_counter()
    for images, fade in ((1, 0), (TINY["images"], TINY["fade"])):
        settings = generator.model_copy(update={"images": images, "fade": fade})
        output = folder / f"model{images}"
        train_generator(settings, entries=entries, output=output, state=folder / "state", seed=1, threads=1)
        made = GeneratedImages(output, seed=2, threads=1).images(512)
        distances.append(statistics.mean(sliced_wasserstein(made, real, counter_rng(3)).values()))
    share = distances[1] / distances[0]
    note = f"{distances[1]:.0f} against {distances[0]:.0f} untrained, {time.perf_counter() - started:.0f} s"
    return Figure("sliced Wasserstein after training, 32 px", share, "<= 0.5", share <= 0.5, "of untrained", note)
