"""Bars of training and prediction on a GPU; each prints its figure. Skipped without a GPU."""

from __future__ import annotations

import copy
import itertools
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from histomake.config import Model
from histomake.learn.data.batches import FixedBatches
from histomake.learn.data.loader import load_batches
from histomake.learn.data.reading import PatchReader
from histomake.learn.engine.runtime import Runtime
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.learn.inference.segment import segment_slide
from histomake.learn.objectives.losses import build_loss
from histomake.learn.train import known_patches, train
from histomake.model.build import build_model

from tests.bench import bench_train
from tests.bench.figures import Figure, show
from tests.bench.measure import spread

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

NETWORKS = {
    "ResNet-34": ("classification", Model(name="resnet34")),
    "U-Net": ("segmentation", Model(name="unet", encoder="resnet34")),
}
STEPS, WARM_UP, BATCH, SIZE = 20, 5, 64, 256
DEVICE = "cuda"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory):
    """The 24k slide, converted and tabulated."""
    return bench_train.prepare(tmp_path_factory.mktemp("gpu") / "train", bench_train.SIDE)


def threads() -> int:
    return min(16, len(os.sched_getaffinity(0)))


def report(figure: Figure) -> None:
    print(show([figure]))
    assert figure.ok, figure


def cost(network: str, dtype: torch.dtype) -> tuple[float, float]:
    """Peak megabytes and patches per second of training ``network`` in ``dtype``."""
    kind, model = NETWORKS[network]
    net = build_model(model, kind=kind, outputs=2, size=SIZE).to(DEVICE, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    images = torch.rand(BATCH, 3, SIZE, SIZE, device=DEVICE).contiguous(memory_format=torch.channels_last)
    shape = (BATCH,) if kind == "classification" else (BATCH, SIZE, SIZE)
    target, loss = torch.randint(0, 2, shape, device=DEVICE), build_loss("ce")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            torch.cuda.synchronize()
            started = time.perf_counter()
        with torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32):
            value = loss(net(images), target)
        value.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1e6, STEPS * BATCH / (time.perf_counter() - started)


@pytest.mark.parametrize("network", NETWORKS)
def test_mixed_precision_saves_memory_and_time(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The comparison is with true single precision, not with TF32.
    monkeypatch.setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee")
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")
    full, mixed = cost(network, torch.float32), cost(network, torch.bfloat16)
    memory, speed = mixed[0] / full[0], mixed[1] / full[1]
    note = f"{mixed[0]:.0f} of {full[0]:.0f} MB, {mixed[1]:.0f} against {full[1]:.0f} patches/s"
    report(Figure(f"GPU memory, bf16 over fp32, {network}", memory, "<= 0.6", memory <= 0.6, "x", note))
    report(Figure(f"GPU throughput, bf16 over fp32, {network}", speed, ">= 1.8", speed >= 1.8, "x", note))


def test_training_does_not_wait_for_data(slide, tmp_path: Path) -> None:
    report(bench_train.data_wait(slide, tmp_path, threads=threads(), steps=200, budget=40, bar=0.01))


@pytest.fixture(scope="module")
def predictor(slide, tmp_path_factory: pytest.TempPathFactory):
    """A ResNet-18 that has seen one step."""
    root = tmp_path_factory.mktemp("resnet18")
    task = bench_train.make_task(train={"steps": 1, "batch": 8, "validate_patches": 8})
    places = {"output": root / "model", "state": root / "state"}
    train(task, train=[slide], val=[slide], class_names=bench_train.CLASSES, **places, seed=0, threads=threads())
    return load_model(root / "model", threads=threads())


def test_prediction_hardly_waits_for_data(slide, predictor) -> None:
    """From the first batch's scores to the last's, against the same batches ready in pinned memory."""
    patches = known_patches([slide], bench_train.make_task())
    dataset = FixedBatches(PatchReader(patches, Model()), batch=BATCH)
    count = len(dataset)
    with load_batches(dataset, range(count), workers=threads() - 1) as batches:
        ready = list(bench_train.kept(batches))

    def predict(batches) -> float:
        predictor.scores(next(batches).images)
        started = time.perf_counter()
        # Not to the iterator's end, where the loader processes' own end is waited for.
        for batch in itertools.islice(batches, count - 1):
            predictor.scores(batch.images)
        return time.perf_counter() - started

    waits = []
    for _ in range(7):
        with load_batches(dataset, range(count), workers=threads() - 1) as batches:
            live = predict(batches)
        took = predict(iter(ready))
        waits.append(live / took - 1)
    wait = statistics.median(waits)
    note = f"{1000 * took / (count - 1):.2f} ms a batch of {BATCH}; {spread(waits)}"
    report(Figure("GPU waits in prediction, ResNet-18, 24k slide", wait, "<= 0.05", wait <= 0.05, "share", note))


def test_memory_of_prediction_does_not_grow_with_the_slide(slide, predictor) -> None:
    small = bench_train.prepare(slide.manifest.parents[2], bench_train.SMALL_SIDE)
    peaks = []
    for entry in (small, slide):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        assert predict_slide(predictor, entry, batch=BATCH, threads=threads()).num_rows
        peaks.append(torch.cuda.max_memory_allocated() / 1e6)
    growth, note = peaks[1] / peaks[0], f"{peaks[0]:.0f} and {peaks[1]:.0f} MB"
    report(Figure("GPU memory of prediction, 24k slide over 4k slide", growth, "<= 1.05", growth <= 1.05, "x", note))


def test_segmentation_of_a_slide_runs_in_mixed_precision(slide, tmp_path: Path) -> None:
    """The U-Net of the bars, from training to labels of the whole slide, in memory that its blocks bound."""
    target = {"source": "mask", "classes": bench_train.CLASSES}
    model = {"name": "unet", "encoder": "resnet34"}
    quick = {"steps": 20, "batch": 16, "validate_every": 20, "validate_patches": 32}
    task = bench_train.make_task(kind="segmentation", target=target, model=model, train=quick)
    places = {"output": tmp_path / "model", "state": tmp_path / "state"}
    train(task, train=[slide], val=[slide], class_names=bench_train.CLASSES, **places, seed=0, threads=threads())
    outputs = {"labels": tmp_path / "labels.zarr", "polygons": tmp_path / "outlines.geojson"}
    trained = load_model(tmp_path / "model", threads=threads())
    table = segment_slide(trained, slide, **outputs, batch=BATCH, threads=threads(), overlap=0.25)
    hit = sum(table[f"tp_{name}"].to_numpy().sum() for name in bench_train.CLASSES)
    assert hit > 0
    assert torch.cuda.max_memory_allocated() < 8e9


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="without a second GPU")
def test_two_gpus_share_a_step(slide, tmp_path: Path) -> None:
    task = bench_train.make_task(train={"steps": 20, "batch": 16, "validate_every": 20, "gpus": 2})
    places = {"output": tmp_path / "model", "state": tmp_path / "state"}
    described = train(
        task, train=[slide], val=[slide], class_names=bench_train.CLASSES, **places, seed=0, threads=threads()
    )
    assert np.isfinite(described.metrics["loss"])


def test_scores_of_gpu_and_cpu_agree(slide, predictor) -> None:
    patches = known_patches([slide], bench_train.make_task())
    images = FixedBatches(PatchReader(patches, Model()), batch=16)[0].images
    network = copy.deepcopy(predictor.network).cpu()
    on_cpu = replace(predictor, network=network, runtime=Runtime(torch.device("cpu"), torch.float32))
    assert np.abs(predictor.scores(images) - on_cpu.scores(images)).max() < 0.02


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"precision": "bf16"}, {"compile": True}])
def test_every_way_of_computing_learns(slide, tmp_path: Path, options: dict) -> None:
    task = bench_train.make_task(train={"steps": 40, "batch": 16, "validate_every": 20, **options})
    places = {"output": tmp_path / "model", "state": tmp_path / "state"}
    described = train(
        task, train=[slide], val=[slide], class_names=bench_train.CLASSES, **places, seed=0, threads=threads()
    )
    assert np.isfinite(described.metrics["loss"])
