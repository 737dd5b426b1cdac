"""Bars of decoding on the GPU; each prints its figure. Skipped without a GPU."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from histomake.base.errors import SlideError
from histomake.base.units import Mpp
from histomake.config import Convert, Model
from histomake.features.extract import SlidePixels
from histomake.learn.data import device_reading
from histomake.learn.data.batches import FixedBatches
from histomake.learn.data.device_jpeg import MOST_BEYOND, compare
from histomake.learn.data.device_reading import DeviceDecoder, EncodedBatches, checked_decoder, read_batches
from histomake.learn.data.reading import PatchReader
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.learn.train import known_patches, train
from histomake.slide.convert import convert

from tests.bench import bench_train
from tests.bench.figures import Figure, show
from tests.bench.measure import spread
from tests.bench.slides import MPP, big_slide

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

BATCH, SIDE = 64, 2404
GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu") / "train"


@pytest.fixture(scope="module")
def slide(root):
    """The 24k slide with YCbCr tiles, as most scanners write them, converted and tabulated."""
    return bench_train.prepare(root, bench_train.SIDE, colour="YCBCR")


@pytest.fixture(scope="module")
def predictor(slide, root):
    """A ResNet-18 that has seen one step."""
    task = bench_train.make_task(train={"steps": 1, "batch": 8, "validate_patches": 8})
    places = {"output": root / "model", "state": root / "state"}
    train(task, train=[slide], val=[slide], class_names=bench_train.CLASSES, **places, seed=0, threads=threads())
    return load_model(root / "model", threads=threads())


def threads() -> int:
    return min(16, len(os.sched_getaffinity(0)))


def report(figure: Figure) -> None:
    print(show([figure]))
    assert figure.ok, figure


class Stored(SlidePixels):
    """Unaligned patches of a store without a manifest."""

    def __init__(self, store: Path, *, mpp: float, count: int = 100) -> None:
        corners = np.random.default_rng(0).integers(-100, SIDE - 100, (count, 2))
        super().__init__("a", store, corners, size=128, mpp=Mpp(mpp), batch=count, stains=[None])
        self._reader = device_reading.SlideReader(store)


@pytest.fixture(scope="module", params=["RGB", "YCBCR", "422"])
def store(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Tissue as scanners encode it, and as histomake encodes it again at a quality of 90."""
    folder, coded = tmp_path_factory.mktemp("store"), request.param
    path = folder / "a.zarr"
    if coded == "422":
        with_tiles = convert_again(folder)
        convert(with_tiles, path, slide_id="a", config=Convert(), mpp=MPP)
    else:
        convert(big_slide(folder, SIDE, colour=coded), path, slide_id="a", config=Convert())
    return coded, path


def convert_again(folder: Path) -> Path:
    """Pixels of the slide as an array, which has no tiles to copy. They are darkened, so that none is saturated."""
    convert(big_slide(folder, SIDE), folder / "source.zarr", slide_id="a", config=Convert())
    pixels = device_reading.SlideReader(folder / "source.zarr").read_level(0, 0, 0, SIDE, SIDE)
    np.save(folder / "a.npy", (pixels * 0.8 + 20).astype(np.uint8))
    return folder / "a.npy"


@pytest.mark.parametrize("mpp", [MPP, 0.7, 2 * MPP, 4 * MPP])
def test_pixels_are_within_two_levels_of_the_cpus_or_refused(store, mpp: float) -> None:
    coded, path = store
    source = Stored(path, mpp=mpp)
    decoder = checked_decoder(source, GPU)
    what = f"GPU decoding, {coded}, {mpp:.2f} µm per pixel: values beyond 2 levels"
    if isinstance(decoder, str):
        # nvJPEG converts the colours of RGB-coded tiles a second time; saturated tiles cannot be reduced alike.
        print(f"{what}: refused: {decoder}")
        assert coded != "422"
        return
    agreement = compare(decoder.images(EncodedBatches(source, decoder.frames).prepare(0)), source.prepare(0).images)
    note = f"at most {agreement.largest}; chroma interpolated here: {decoder.interpolated}"
    report(Figure(what, agreement.beyond, f"<= {MOST_BEYOND}", agreement.good, "share", note))


def test_tiles_of_most_scanners_are_decoded_on_the_gpu(slide) -> None:
    """The other tests would pass if every slide were refused."""
    patches = known_patches([slide], bench_train.make_task())
    found = checked_decoder(FixedBatches(PatchReader(patches, Model()), batch=BATCH), GPU)
    assert isinstance(found, DeviceDecoder), found


def test_prediction_hardly_waits_for_tiles_that_the_gpu_decodes(slide, predictor) -> None:
    """From the first batch's scores to the last's, against the same batches ready in pinned memory."""
    patches = known_patches([slide], bench_train.make_task())
    dataset = FixedBatches(PatchReader(patches, Model()), batch=BATCH)
    count, options = len(dataset), {"workers": threads() - 1, "device": GPU}
    with read_batches(dataset, decode="cpu", **options) as reading:
        ready = list(bench_train.kept(reading.batches))

    def predict(batches) -> float:
        predictor.scores(next(batches).images)
        started = time.perf_counter()
        for batch in itertools.islice(batches, count - 1):
            predictor.scores(batch.images)
        return time.perf_counter() - started

    waits, taken = [], []
    for _ in range(7):
        with read_batches(dataset, decode="auto", **options) as reading:
            assert reading.decoder == "gpu"
            taken.append(predict(reading.batches))
        waits.append(taken[-1] / predict(iter(ready)) - 1)
    wait, speed = statistics.median(waits), BATCH * (count - 1) / statistics.median(taken)
    note = f"{speed:.0f} patches/s; {spread(waits)}"
    report(
        Figure("GPU waits in prediction, decoded on the GPU, ResNet-18", wait, "<= 0.05", wait <= 0.05, "share", note)
    )


def test_memory_of_prediction_does_not_grow_with_the_slide(root, slide, predictor) -> None:
    small = bench_train.prepare(root, bench_train.SMALL_SIDE, colour="YCBCR")
    peaks = []
    for entry in (small, slide):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        table = predict_slide(predictor, entry, batch=BATCH, threads=threads(), decode="auto")
        assert table.schema.metadata[b"decoder"] == b"gpu"
        peaks.append(torch.cuda.max_memory_allocated() / 1e6)
    growth, note = peaks[1] / peaks[0], f"{peaks[0]:.0f} and {peaks[1]:.0f} MB"
    report(
        Figure("GPU memory, decoded on the GPU, 24k slide over 4k slide", growth, "<= 1.05", growth <= 1.05, "x", note)
    )


def test_scores_are_those_of_tiles_that_the_cpu_decodes(root, predictor) -> None:
    small = bench_train.prepare(root, bench_train.SMALL_SIDE, colour="YCBCR")
    tables = [predict_slide(predictor, small, batch=BATCH, threads=4, decode=decode) for decode in ("cpu", "auto")]
    cpu, gpu = (table[f"score_{bench_train.CLASSES[0]}"].to_numpy() for table in tables)
    apart = float(np.abs(cpu - gpu).max())
    report(Figure("scores, decoded on the GPU against the CPU", apart, "<= 0.02", apart <= 0.02, "", ""))


def test_a_damaged_tile_fails_as_on_the_cpu(predictor, tmp_path: Path) -> None:
    entry = bench_train.prepare(tmp_path / "train", bench_train.SMALL_SIDE, colour="YCBCR")
    (shard,) = entry.manifest.parent.glob("*.zarr/0/c/0/0/0")
    with shard.open("r+b") as stream:
        # Tiles, and not the index at the end.
        stream.write(bytes(shard.stat().st_size * 3 // 4))
    errors = []
    for decode in ("auto", "cpu"):
        with pytest.raises(SlideError) as caught:
            predict_slide(predictor, entry, batch=BATCH, threads=2, decode=decode)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
