"""Prediction and features with tiles decoded on a device, and when they are decoded on the CPU instead.

Without a GPU, the device is the CPU, where libjpeg-turbo repeats chroma samples as nvJPEG does on a GPU.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
import torch
import zarr
from damaged_cohort import damage
from histomake.base.errors import SlideError
from histomake.config import Convert, Encoder, Grid, Model, Task
from histomake.features.encoders import load_group
from histomake.features.extract import SlidePixels, extract
from histomake.features.store import read_features
from histomake.learn.data import device_reading
from histomake.learn.data.batches import FixedBatches
from histomake.learn.data.device_jpeg import DeviceDecodeError, compare
from histomake.learn.data.device_reading import read_batches
from histomake.learn.data.reading import PatchReader
from histomake.learn.inference.predict import load_model, predict_slide, slide_patches
from histomake.learn.inference.segment import segment_slide
from histomake.learn.train import train
from histomake.patch.stain import StainNormaliser
from small_cohort import CLASSES, GRID_NAME, MPP, build_cohort

JPEG = Convert(codec="jpeg", shard_px=512, tile_px=64)
CPU = torch.device("cpu")
OPTIONS = {"batch": 16, "threads": 1}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Four slides with JPEG tiles of 64 px and 4:2:2 chroma, and patches of 48 px that are not aligned with them."""
    return build_cohort(tmp_path_factory.mktemp("cohort"), 4, size=48, store_as=JPEG)


def fitted(slides, folder, **settings):
    quick = {"steps": 4, "batch": 8, "validate_every": 4, "workers": 0}
    task = Task.model_validate({"grid": GRID_NAME, "target": {"classes": CLASSES}, "train": quick} | settings)
    places = {"output": folder / "model", "state": folder / "state"}
    train(task, train=slides[:2], val=slides[2:3], class_names=CLASSES, **places, seed=0, threads=1)
    return load_model(folder / "model")


@pytest.fixture(scope="module")
def predictor(slides, tmp_path_factory):
    return fitted(slides, tmp_path_factory.mktemp("model"), model={"name": "test_resnet"})


def decode_like_nvjpeg(files, shape, device):
    """Tiles with repeated chroma samples, as nvJPEG returns them; see `device_jpeg.decode_tiles`."""
    try:
        tiles = [simplejpeg.decode_jpeg(file.numpy(), fastupsample=True) for file in files]
    except ValueError as error:
        raise DeviceDecodeError(str(error)) from error
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).to(device)


@pytest.fixture
def device(monkeypatch):
    """The CPU as a device that decodes tiles like nvJPEG."""
    monkeypatch.setattr(device_reading, "DEVICES", {"cpu"})
    monkeypatch.setattr(device_reading, "decode_tiles", decode_like_nvjpeg)


def batches_of(predictor, entry, *, model: Model | None = None, **options) -> FixedBatches:
    reader = PatchReader(slide_patches(predictor, entry), model or Model(), **options)
    return FixedBatches(reader, batch=7)


def reasons(caplog) -> list[str]:
    """Why tiles were decoded on the CPU, as the log has it."""
    start = "tiles are decoded on the CPU: "
    return [record.message.removeprefix(start) for record in caplog.records if record.message.startswith(start)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("context", [[], [2.0, 3.5]])
def test_batches_have_the_pixels_places_and_targets_of_those_of_the_cpu(slides, predictor, device, workers, context):
    source = batches_of(predictor, slides[3], model=Model(context=context))
    with read_batches(source, workers=workers, device=CPU, decode="auto") as reading:
        found = [(batch, batch.images.clone()) for batch in reading.batches]
    assert (reading.decoder, len(found)) == ("gpu", len(source))
    for number, (batch, images) in enumerate(found):
        expected = source.prepare(number)
        assert batch.step == number
        assert np.array_equal(batch.index, expected.index)
        assert torch.equal(batch.target, expected.target)
        assert compare(images, expected.images).good


def test_a_prediction_says_where_its_tiles_were_decoded(slides, predictor, device):
    by_device = predict_slide(predictor, slides[3], decode="auto", **OPTIONS)
    by_cpu = predict_slide(predictor, slides[3], **OPTIONS)
    assert by_device.schema.metadata[b"decoder"] == b"gpu"
    assert by_cpu.schema.metadata[b"decoder"] == b"cpu"
    assert by_device["patch_id"] == by_cpu["patch_id"]
    for name in CLASSES:
        column = f"score_{name}"
        assert by_device[column].to_numpy() == pytest.approx(by_cpu[column].to_numpy(), abs=0.01)


def test_a_segmentation_decodes_on_the_device_too(slides, device, tmp_path):
    target = {"source": "mask", "classes": CLASSES}
    model = fitted(slides, tmp_path, kind="segmentation", target=target, model={"name": "fast_scnn"})
    tables = {
        decode: segment_slide(
            model,
            slides[3],
            labels=tmp_path / f"{decode}.zarr",
            polygons=tmp_path / f"{decode}.geojson",
            overlap=0.25,
            decode=decode,
            **OPTIONS,
        )
        for decode in ("cpu", "auto")
    }
    assert {key: table.schema.metadata[b"decoder"] for key, table in tables.items()} == {"cpu": b"cpu", "auto": b"gpu"}
    cpu, auto = (zarr.open_array(tmp_path / f"{decode}.zarr/0", mode="r")[:] for decode in ("cpu", "auto"))
    assert (cpu != auto).mean() < 0.01


def test_features_say_where_their_tiles_were_decoded_and_by_their_identity_are_others(slides, device, tmp_path):
    found = {}
    for decode in ("cpu", "auto"):
        encoder = Encoder(grid=GRID_NAME, name="resnet10t", weights=False, dtype="float32", decode=decode)
        ready = load_group({"a": encoder}, Grid(size=48, mpp=MPP), models={}, threads=1)
        torch.manual_seed(0)
        ready = [replace(one, network=found["network"]) if found else one for one in ready]
        found["network"] = ready[0].network
        extract(ready, slides[0], tmp_path / decode, batch=16, threads=1, code="c", made_of="m")
        found[decode] = read_features(tmp_path / decode)
    assert {decode: found[decode].record.decoder for decode in ("cpu", "auto")} == {"cpu": "cpu", "auto": "gpu"}
    assert found["cpu"].record.columns[0].identity != found["auto"].record.columns[0].identity
    assert found["cpu"].vectors("a") == pytest.approx(found["auto"].vectors("a"), rel=0.05, abs=0.05)


def test_without_a_gpu_tiles_are_decoded_on_the_cpu(slides, predictor, caplog):
    caplog.set_level(logging.INFO)
    found = predict_slide(predictor, slides[3], decode="auto", **OPTIONS)
    assert found.schema.metadata[b"decoder"] == b"cpu"
    assert reasons(caplog) == ["there is no GPU"]
    assert found.equals(predict_slide(predictor, slides[3], **OPTIONS))


def test_slides_whose_stains_are_normalised_are_decoded_on_the_cpu(slides, predictor, device, caplog):
    caplog.set_level(logging.INFO)
    stain = StainNormaliser("macenko", reference={"stains": [[0.5, 0.2], [0.7, 0.8], [0.4, 0.5]], "strong": [2.0, 1.0]})
    with read_batches(batches_of(predictor, slides[3], stain=stain), workers=0, device=CPU, decode="auto") as reading:
        assert reading.decoder == "cpu"
    assert reasons(caplog) == ["stains are normalised"]


def test_tiles_of_another_codec_are_decoded_on_the_cpu(predictor, device, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    (lossless,) = build_cohort(tmp_path, 1, size=48)
    found = predict_slide(predictor, lossless, decode="auto", **OPTIONS)
    assert found.schema.metadata[b"decoder"] == b"cpu"
    assert reasons(caplog) == ["the tiles are zstd, not JPEG"]


def test_a_device_that_shows_other_colours_is_refused(slides, predictor, device, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    decode = device_reading.decode_tiles
    monkeypatch.setattr(device_reading, "decode_tiles", lambda *args: decode(*args).flip(1))
    found = predict_slide(predictor, slides[3], decode="auto", **OPTIONS)
    assert found.schema.metadata[b"decoder"] == b"cpu"
    (reason,) = reasons(caplog)
    assert "of the values that the GPU decodes differ by more than 2 grey levels" in reason
    assert found.equals(predict_slide(predictor, slides[3], **OPTIONS))


def test_a_device_that_decodes_nothing_is_refused(slides, predictor, device, caplog, monkeypatch):
    def fails(*_args):
        raise DeviceDecodeError("not compiled with nvJPEG")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(device_reading, "decode_tiles", fails)
    assert predict_slide(predictor, slides[3], decode="auto", **OPTIONS).num_rows
    assert reasons(caplog) == ["the GPU does not decode them (not compiled with nvJPEG)"]


def test_a_batch_that_the_device_cannot_decode_has_the_pixels_of_the_cpu(
    slides, predictor, device, caplog, monkeypatch
):
    caplog.set_level(logging.INFO)
    calls = []

    def fails_later(*args):
        calls.append(args)
        if len(calls) == 5:
            raise DeviceDecodeError("a rare layout")
        return decode_like_nvjpeg(*args)

    source = batches_of(predictor, slides[3])
    monkeypatch.setattr(device_reading, "decode_tiles", fails_later)
    with read_batches(source, workers=0, device=CPU, decode="auto") as reading:
        same = [torch.equal(one.images, source.prepare(number).images) for number, one in enumerate(reading.batches)]
    (told,) = [record.message for record in caplog.records if "a rare layout" in record.message]
    assert sum(same) == 1
    assert told == f"batch {same.index(True)} is decoded on the CPU: a rare layout"


@pytest.mark.parametrize("first", [True, False], ids=["from the first tile", "later"])
def test_a_damaged_slide_fails_as_on_the_cpu(predictor, device, tmp_path, monkeypatch, first):
    (slide,) = build_cohort(tmp_path, 1, size=48, store_as=JPEG)
    if not first:  # the first batch was whole when it was compared
        compared = device_reading.checked_decoder

        def damaged_afterwards(*args):
            decoder = compared(*args)
            damage(slide.manifest)
            return decoder

        monkeypatch.setattr(device_reading, "checked_decoder", damaged_afterwards)
    else:
        damage(slide.manifest)
    errors = []
    for decode in ("auto", "cpu"):
        with pytest.raises(SlideError) as caught:
            predict_slide(predictor, slide, decode=decode, **OPTIONS)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    assert errors[0].reason == errors[1].reason


def test_tiles_that_do_not_fit_into_the_room_of_a_batch_are_sent(slides, device, monkeypatch):
    places = np.array([[64, 64], [200, 300]])
    source = SlidePixels("s0", slides[0].manifest, places, size=48, mpp=MPP, batch=2, stains=[None])
    monkeypatch.setattr(SlidePixels, "room_bytes", 64)
    with read_batches(source, workers=1, device=CPU, decode="auto") as reading:
        (batch,) = reading.batches
    assert reading.decoder == "gpu"
    assert compare(batch.images, source.prepare(0).images).good
