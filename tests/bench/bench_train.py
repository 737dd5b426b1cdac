"""Benchmarks of training and prediction: waiting for data, the loader against OpenSlide, kills, memory."""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import openslide
import shapely
import torch
from histomake.annotation.model import Annotation
from histomake.annotation.write import write_annotation
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.config import Convert, Grid, Task, Tissue
from histomake.learn.data.batches import Batch, TrainingBatches
from histomake.learn.data.loader import load_batches
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.data.reading import PatchReader
from histomake.learn.engine.loop import Trainer
from histomake.learn.engine.runtime import choose_runtime
from histomake.learn.objectives.patches import PatchObjective
from histomake.learn.train import known_patches, settings_of
from histomake.patch.sampler import Sampler
from histomake.patch.tabulate import tabulate, write_patch_table
from histomake.slide.convert import convert
from histomake.slide.reader import open_slide
from histomake.tissue.mask import presegment

from tests import sample_records
from tests.bench.figures import Figure
from tests.bench.measure import ROUNDS, ratio, seconds, side_by_side, spread
from tests.bench.slides import MPP, big_slide
from tests.workshop import ROOT

SIDE = 24_576
SMALL_SIDE = 4_096
GRID, CLASSES = "native", ["left", "right"]
KILLS = 10
LOADER_BATCHES = 16
FEW, MANY = 30, 1_000
WAIT_SECONDS = 150


def run(work: Path) -> list[Figure]:
    """Return the figures of issue 5's table that can be measured without a GPU."""
    entry = prepare(work / "train", SIDE)
    return [
        loader_throughput(work, entry),
        many_slides(work),
        data_wait(entry, work / "train/wait", threads=2, steps=1, budget=WAIT_SECONDS, bar=0.03),
        memory_of_prediction(work, entry),
        kills(work / "train/kills"),
    ]


def prepare(root: Path, side: int, *, colour: str = "RGB") -> SlideEntry:
    """Return a converted, presegmented and tabulated slide of ``side`` px, annotated left and right; created once."""
    layout, slide_id = Layout(root / f"{side}{colour}"), f"big{side}"
    entry = SlideEntry.at(layout, GRID, slide_id, slide_id, {})
    if entry.table.exists():
        return entry
    source = big_slide(root.parent / "slides", side, colour=colour)
    store = layout.results / "slides" / f"{slide_id}.zarr"
    manifest = convert(source, store, slide_id=slide_id, config=Convert(), threads=2)
    manifest.write(entry.manifest)
    halves = [shapely.box(0, 0, side // 2, side), shapely.box(side // 2, 0, side, side)]
    record = sample_records.annotation(slide_id, width=side, height=side, class_names=tuple(CLASSES))
    annotation = Annotation(tuple(CLASSES), list(zip(CLASSES, halves, strict=True)), record=record)
    entry.annotation.parent.mkdir(parents=True, exist_ok=True)
    labels = store_of(layout.label_image(slide_id))
    write_annotation(annotation, record=entry.annotation, geojson=layout.outlines(slide_id), labels=labels)
    with open_slide(entry.manifest) as reader:
        tissue = presegment(reader, Tissue(), slide_id=slide_id)
    artefacts = sample_records.artefact_map(np.zeros(tissue.mask.shape, np.uint8))
    grid = Grid(size=256, mpp=MPP)
    options = {"grid_name": GRID, "max_share": 0.5}
    write_patch_table(tabulate(manifest, tissue, artefacts, annotation, grid, CLASSES, **options), entry.table)
    return entry


def make_task(**sections) -> Task:
    """Return a task that classifies the halves of the big slide."""
    return Task.model_validate({"grid": GRID, "target": {"classes": CLASSES}, **sections})


class OpenSlideReader(PatchReader):
    """The same loader, but with patches read from the source file by OpenSlide."""

    def __init__(self, *arguments, source: Path) -> None:
        super().__init__(*arguments)
        self.source = source
        self._slide: openslide.OpenSlide | None = None

    def _read_views(self, _slide: int, x: int, y: int) -> np.ndarray:
        if self._slide is None:
            self._slide = openslide.OpenSlide(self.source)
        region = self._slide.read_region((x, y), 0, (self.patches.size, self.patches.size))
        return np.asarray(region.convert("RGB"))


def loader_throughput(work: Path, entry: SlideEntry) -> Figure:
    """Compare patches per second of two loader processes, 256 px on the grid, with the same loader over OpenSlide."""
    task = make_task(train={"batch": 64})
    patches = known_patches([entry], task)
    sampler = Sampler.from_weights(np.ones(len(patches)), seed=0)
    readers = (
        OpenSlideReader(patches, task.model, source=big_slide(work / "slides", SIDE)),
        PatchReader(patches, task.model),
    )

    def drain(reader: PatchReader) -> None:
        dataset = TrainingBatches(reader, sampler, task, worker=0)
        with load_batches(dataset, range(LOADER_BATCHES), workers=2) as batches:
            for batch in batches:
                if batch.read_errors:
                    raise RuntimeError(batch.read_errors[0])

    peer, ours = side_by_side(*(lambda reader=reader: drain(reader) for reader in readers), rounds=ROUNDS)
    gain = ratio(peer, ours)
    speed = LOADER_BATCHES * 64 / statistics.median(ours)
    note = f"{speed:.0f} patches/s"
    return Figure("loader, 2 workers, 256 px on the grid, against OpenSlide", gain, ">= 1.5", gain >= 1.5, "x", note)


def many_slides(work: Path) -> Figure:
    """Compare patches per second of one loader process that draws from MANY slides and from FEW, all at random.

    The slides are hard links to the files of one small slide, so disk reads have no effect. The cost measured is that
    of opening slides and their shards. Both loaders have opened most of their slides before.
    """
    entries = linked(prepare(work / "train", SMALL_SIDE), work / "train/many", MANY)
    task = make_task(train={"batch": 64})

    def loader(count: int) -> TrainingBatches:
        patches = known_patches(entries[:count], task)
        sampler = Sampler.from_weights(np.ones(len(patches)), seed=0)
        return TrainingBatches(PatchReader(patches, task.model), sampler, task, worker=0)

    datasets = [loader(FEW), loader(MANY)]
    steps = itertools.count()
    drains = [lambda dataset=dataset: [dataset[next(steps)] for _ in range(LOADER_BATCHES)] for dataset in datasets]
    for _ in range(4 * MANY // (64 * LOADER_BATCHES)):
        drains[1]()
    drains[0]()
    few, many = side_by_side(*drains, rounds=ROUNDS)
    share = ratio(few, many)
    speeds = [LOADER_BATCHES * 64 / statistics.median(took) for took in (few, many)]
    note = f"{speeds[1]:.0f} patches/s from {MANY} slides, {speeds[0]:.0f} from {FEW}"
    return Figure("one loader, 1,000 slides against 30", share, ">= 0.8", share >= 0.8, "x", note)


def linked(entry: SlideEntry, root: Path, count: int) -> list[SlideEntry]:
    """Create ``count`` slides that are hard links to the files of one slide."""
    layout, record = Layout(root), Manifest.read_usable(entry.manifest)
    entries = [SlideEntry.at(layout, GRID, f"{entry.slide_id}-{i}", f"p{i}", {}) for i in range(count)]
    store = entry.manifest.parent / record.store
    for new in entries:
        if new.table.exists():
            continue
        target = new.manifest.parent / f"{new.slide_id}.zarr"
        shutil.copytree(store, target, copy_function=os.link, dirs_exist_ok=True)
        msgspec.structs.replace(record, slide_id=new.slide_id, store=target.name).write(new.manifest)
        for old, path in ((entry.annotation, new.annotation), (entry.table, new.table)):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(old, path)
        os.link(entry.annotation.with_suffix(".geojson"), new.annotation.with_suffix(".geojson"))
    return entries


def data_wait(entry: SlideEntry, state: Path, *, threads: int, steps: int, budget: float, bar: float) -> Figure:
    """Return the share by which ResNet-34 steps (256 px, batch 64) are slower than on batches ready in pinned memory.

    A round is ``steps`` steps as in training and the same number on stored batches. Both are adjacent in time and
    subject to the same noise; their order alternates, so that a machine that becomes slower favours neither. Rounds
    are repeated for ``budget`` seconds, and the figure is the median. Loaders keep running between the two parts, as
    they do between training steps, so ``steps`` must be much larger than the number of batches that they prefetch.
    """
    task = make_task(model={"name": "resnet34"}, train={"batch": 64, "steps": 10_000})
    patches = known_patches([entry], task)
    places = {"patches": patches, "held_out": patches.take(np.arange(8)), "state": state}
    runtime = choose_runtime(task.train.precision, threads=threads)
    objective = PatchObjective(task, **places, runtime=runtime, seed=0, threads=threads)
    trainer = Trainer(objective, settings_of(task, seed=0), runtime=runtime, state=state)
    dataset = objective.dataset()
    preparing = statistics.median(seconds(lambda step=step: dataset[step]) for step in range(10))
    waits, took, with_loader = [], [], []
    with load_batches(dataset, range(task.train.steps), workers=objective.workers) as live:
        ready = list(itertools.islice(kept(live), steps))
        parts = [
            (lambda: _steps(trainer, live, steps), with_loader),
            (lambda: _steps(trainer, iter(ready), steps), took),
        ]
        for part, _ in parts:
            part()
        trainer.running.waited = 0.0
        end = time.monotonic() + budget
        while time.monotonic() < end or len(waits) < ROUNDS:
            for part, times in parts if len(waits) % 2 else reversed(parts):
                times.append(seconds(part))
            waits.append(with_loader[-1] / took[-1] - 1)
    wait = statistics.median(waits)
    step = statistics.median(took) / steps
    note = f"{step:.4f} s a step on {trainer.runtime.device.type}; {spread(waits)}; blocked for a batch "
    note += f"{trainer.running.waited / sum(with_loader):.2%} of the time; a batch takes one core "
    note += f"{preparing:.3f} s to prepare, {objective.workers} loaders"
    return Figure("data wait, ResNet-34, 256 px, batch 64", wait, f"<= {bar}", wait <= bar, "share of a step", note)


def kept(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Copy the pixels of batches, to pinned memory if there is a GPU, because loaders reuse their buffers."""
    for batch in batches:
        images = batch.images.clone()
        yield replace(batch, images=images.pin_memory() if torch.cuda.is_available() else images)


def _steps(trainer: Trainer, batches: Iterator[Batch], steps: int) -> None:
    for _ in itertools.repeat(None, steps):
        trainer.train_step(batches)
    # Reading the losses waits for the device, so that its work is included.
    trainer.check_losses()


def memory_of_prediction(work: Path, entry: SlideEntry) -> Figure:
    """Compare the peak memory of predicting the big slide with that of a slide with a thirty-sixth of its area."""
    peaks = [_peak_megabytes(each, work / "train/memory") for each in (prepare(work / "train", SMALL_SIDE), entry)]
    growth = peaks[1] / peaks[0]
    note = f"{peaks[0]:.0f} MB at {SMALL_SIDE} px, {peaks[1]:.0f} MB at {SIDE} px"
    return Figure("memory of prediction, 24k slide over 4k slide", growth, "<= 1.1", growth <= 1.1, "x", note)


PREDICT = """
import sys
from pathlib import Path
from histomake.config import Task
from histomake.base.layout import Layout
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import load_model, predict_slide
model, results, slide = sys.argv[1:]
entry = SlideEntry.at(Layout(Path(results)), "native", slide, slide, {})
table = predict_slide(load_model(Path(model), threads=2), entry, batch=64, threads=1)
assert table.num_rows, "no patch was predicted"
print(next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) / 1024)
"""


def _peak_megabytes(entry: SlideEntry, folder: Path) -> float:
    from histomake.learn.train import train

    model = folder / "model"
    if not (model / "model.json").exists():
        task = make_task(model={"name": "test_resnet"}, train={"steps": 1, "batch": 8, "validate_patches": 8})
        places = {"output": model, "state": folder / "state"}
        train(task, train=[entry], val=[entry], class_names=CLASSES, **places, seed=0, threads=2)
    results = entry.manifest.parents[1]
    command = [sys.executable, "-c", PREDICT, str(model), str(results), entry.slide_id]
    environment = {"PYTHONPATH": str(ROOT / "scripts"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def kills(folder: Path) -> Figure:
    """Kill a run at random moments, ten times its duration in total; compare weights with an uninterrupted run."""
    sys.path.insert(0, str(ROOT / "tests/unit"))
    import small_cohort
    import train_killed

    shutil.rmtree(folder, ignore_errors=True)
    small_cohort.build_cohort(folder / "cohort", 3)
    options = {"steps": 600, "batch": 8, "validate_every": 50, "workers": 0, "checkpoint_minutes": 0.003}
    task = Task.model_validate(
        {
            "grid": small_cohort.GRID_NAME,
            "target": {"classes": small_cohort.CLASSES},
            "model": {"name": "test_resnet"},
            "train": options,
        }
    )
    whole = seconds(lambda: train_killed.main(folder / "cohort", task.dump(), folder / "whole"))
    # Pauses average half of this, so that kills are spread over 60 % of the run on any machine.
    pause = 1.2 * whole / KILLS
    step = train_killed.kill_repeatedly(folder / "cohort", task, folder / "killed", kills=KILLS, pause=pause)
    train_killed.main(folder / "cohort", task.dump(), folder / "killed")
    files = [folder / name / "model.safetensors" for name in ("whole", "killed")]
    equal = files[0].read_bytes() == files[1].read_bytes()
    note = f"killed {KILLS} times, the last at step {step} of {options['steps']}"
    return Figure("weights after SIGKILL equal the uninterrupted run's", float(equal), "= 1", equal, "", note)
