"""Bags of pixels: a network and a pooling that are trained together, chunks, crops, prediction, and refusals."""

from __future__ import annotations

import os
import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from histomake.bags import pixel_objective
from histomake.bags.batch import Bags
from histomake.bags.pixel_predict import load_pixel_bag_model, predict_pixel_bag
from histomake.bags.pixel_training import pixel_bags, train_pixel_bags
from histomake.bags.pixels import Featurizer, PixelBagNetwork, read_pixels
from histomake.bags.predict import load_bag_model
from histomake.base.errors import ConfigError, HistomakeError, Reason, SlideError
from histomake.base.layout import Layout
from histomake.base.rng import counter_rng
from histomake.base.tables import lost_slide
from histomake.config import Augment, BagPooling, Grid, Model, parse_config
from histomake.evaluate.bags import baselines
from histomake.evaluate.items import SlidePrediction
from histomake.explain.summaries import bag_table
from histomake.learn.data.patch_index import annotated_areas
from histomake.learn.data.reading import PatchReader
from histomake.learn.engine.runtime import PreemptedError
from histomake.learn.inference.predict import load_model
from histomake.patch.augment import draw_parameters
from histomake.report.task_section import training
from msgspec import structs
from sklearn.linear_model import LogisticRegression
from small_cohort import GRID_NAME, MPP, build_cohort, build_quarantined, changed_task

GRID = Grid(size=64, mpp=MPP)
TARGET = {"source": "sheet", "column": "grade", "classes": ["low", "high"]}
SHORT = {"steps": 24, "batch": 4, "validate_every": 12, "workers": 0, "learning_rate": 0.003}


def task(**values):
    told = {"grid": GRID_NAME, "level": "slide", "target": TARGET, "model": {"name": "resnet10t"}, "train": SHORT}
    told |= {"pooling": {"embed": 16, "hidden": [16], "dropout": 0.0}, "bag": {"size": 8, "crop": 48, "chunk": 8}}
    return changed_task(told, values)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def slides(root):
    """Six slides, in turn of either grade; the share of the class speckled decides it."""
    entries = build_cohort(root, 6)
    shares = np.array([float(annotated_areas(e, pq.read_table(e.table))["speckled"].mean()) for e in entries])
    order = np.argsort(shares)
    graded = [replace(entries[i], labels={"grade": "low" if rank < 3 else "high"}) for rank, i in enumerate(order)]
    return [graded[i] for i in (0, 3, 1, 4, 2, 5)]


def trained(settings, slides, folder, **values):
    roles = {"train": slides[:4], "val": slides[4:]} | values
    return train_pixel_bags(
        settings, **roles, output=folder / "model", state=folder / "state", seed=1, threads=1, max_lost=0.5
    )


@pytest.fixture(scope="module")
def made(slides, tmp_path_factory):
    """A trained model: its folder and its card."""
    folder = tmp_path_factory.mktemp("made")
    return folder, trained(task(pooling={"name": "additive"}), slides, folder)


def test_a_network_is_trained_through_the_pooling_and_predicts_slides(made, slides):
    folder, card = made
    assert (card.features, card.bag.level) == (None, "slide")
    assert card.architecture["name"] == "resnet10t"
    predictor = load_pixel_bag_model(folder / "model")
    assert not any(name.startswith("featurizer.network.fc.") for name in predictor.network.state_dict())
    tables = [predict_pixel_bag(predictor, slide, []) for slide in slides]
    scores = [table["score_high"][0].as_py() for table in tables]
    assert np.mean(scores[1::2]) > np.mean(scores[::2])
    logits = np.array([tables[0][f"contribution_{name}"].to_numpy().sum() for name in ("low", "high")])
    assert np.exp(logits)[1] / np.exp(logits).sum() == pytest.approx(scores[0], abs=1e-5)
    assert tables[0]["attention"].to_numpy().sum() == pytest.approx(1, abs=1e-5)


def test_the_linear_baseline_is_a_logistic_regression_of_the_means_of_the_trained_vectors(made, slides):
    folder, card = made
    predictor = load_pixel_bag_model(folder / "model")
    bags = pixel_bags(task(), slides)
    bags.reader.featurizer = predictor.network.featurizer
    means = np.stack([bags.reader.read(members).mean(axis=0) for members in bags.members])
    grades = [slide.labels["grade"] == "high" for slide in slides]
    spread = means[:4].std(axis=0)
    spread[spread < 1e-6] = 1
    fitted = LogisticRegression(C=1 / (card.bag.penalty * 4), max_iter=1000).fit(means[:4] / spread, grades[:4])
    expected = fitted.predict_proba(means / spread)[:, 1]
    tables = [predict_pixel_bag(predictor, slide, []) for slide in slides]
    assert [table["linear_high"][0].as_py() for table in tables] == pytest.approx(expected, abs=0.01)


def test_both_baselines_are_measured_and_listed_beside_the_bag(made, slides):
    folder, card = made
    table = predict_pixel_bag(load_pixel_bag_model(folder / "model"), slides[0], [])
    given = [SlidePrediction(slides[0].slide_id, slides[0].patient_id, 0, table, labels=slides[0].labels)]
    assert set(baselines(given, card.class_names, {0: card.bag.usual})) == {"mean_features", "usual_target"}
    header, rows = bag_table(table, card.class_names)
    assert header == ["output", "score", "mean features, linear", "truth"]
    assert {row[3] for row in rows} == {"yes", ""}


def test_the_report_gives_the_penalty_of_the_baseline_in_a_column_of_its_own(made, tmp_path):
    layout = Layout(tmp_path)
    shutil.copytree(made[0] / "model", layout.description("grade", 0).parent)
    shown = str(training("grade", task(), layout, [0]))
    assert "penalty of the baseline" in shown
    assert len(re.findall("<th[ >]", shown)) == len(re.findall("<td[ >]", shown)) == 4


def test_models_of_pixels_of_features_and_of_patches_are_not_taken_for_each_other(made):
    with pytest.raises(HistomakeError, match="train the task again"):
        load_bag_model(made[0] / "model")
    with pytest.raises(HistomakeError, match="predicts a slide as a bag"):
        load_model(made[0] / "model")


def test_the_slides_of_a_patient_are_one_bag_of_pixels(slides, tmp_path):
    pairs = [replace(slide, patient_id=f"{slide.labels['grade']}{i // 4}") for i, slide in enumerate(slides)]
    trained(task(level="patient", train={"steps": 2, "validate_every": 2}), pairs, tmp_path)
    predictor = load_pixel_bag_model(tmp_path / "model")
    both = [predict_pixel_bag(predictor, pairs[a], [pairs[b]]) for a, b in ((0, 2), (2, 0))]
    assert both[0]["score_high"][0] == both[1]["score_high"][0]
    assert sum(table["attention"].to_numpy().sum() for table in both) == pytest.approx(1, abs=1e-5)


def test_a_model_of_pixels_is_the_same_every_time_and_after_it_is_stopped(slides, tmp_path, monkeypatch):
    settings = task(train={"steps": 6, "validate_every": 3, "audit": True}, bag={"chunk": 5})
    trained(settings, slides, tmp_path / "whole")
    prepare, stops = pixel_objective.PixelBagBatches.prepare, {1, 4}

    def interrupted(self, number, *room):
        if number in stops:
            stops.discard(number)
            os.kill(os.getpid(), signal.SIGTERM)
        return prepare(self, number, *room)

    monkeypatch.setattr(pixel_objective.PixelBagBatches, "prepare", interrupted)
    for _ in range(2):
        with pytest.raises(PreemptedError):
            trained(settings, slides, tmp_path / "stopped")
    trained(settings, slides, tmp_path / "stopped")
    whole, stopped = (tmp_path / name / "model" for name in ("whole", "stopped"))
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    drawn = [pq.read_table(folder / "training" / "drawn.parquet").combine_chunks() for folder in (whole, stopped)]
    assert drawn[0].equals(drawn[1])


def network_of(chunk):
    torch.manual_seed(0)
    model = Model(name="shufflenet_v2")
    featurizer = Featurizer(model, kind="classification", size=64, chunk=chunk)
    pooling = BagPooling(name="attention", embed=None, hidden=[16], dropout=0.0)
    return PixelBagNetwork(pooling, featurizer=featurizer, size=64, outputs=2)


def images(count):
    pixels = torch.randint(0, 256, (count, 64, 64, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Bags(pixels, [count - 2, 2], torch.zeros(count, 3, dtype=torch.int64))


def test_chunks_change_neither_logits_nor_gradients():
    parameters = draw_parameters(Augment(rotate=30), 8, counter_rng(1))
    found = {}
    for chunk in (3, 8):
        # In eval mode, since batch normalisation takes the statistics of a chunk in training.
        network = network_of(chunk).eval()
        logits = network(images(8), parameters).logits
        logits.square().sum().backward()
        found[chunk] = logits.detach(), [p.grad for p in network.parameters() if p.grad is not None]
    torch.testing.assert_close(found[3][0], found[8][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[3][1], found[8][1], atol=1e-4, rtol=1e-3)


def test_running_statistics_are_those_of_one_pass_per_chunk():
    network, once = network_of(4).train(), network_of(4).train()
    network(images(8)).logits.sum().backward()
    with torch.no_grad():
        once(images(8))
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(value, once.state_dict()[name], msg=name)


def test_what_is_kept_for_the_gradients_does_not_grow_with_the_chunks():
    def kept(count):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            network_of(4).train()(images(count))
        return sum(sizes)

    patch = 64 * 64 * 3
    assert kept(16) - kept(8) < 8 * 2 * patch


def test_a_crop_is_drawn_in_training_and_is_the_middle_in_prediction(slides):
    bags = pixel_bags(task(), slides[:1])
    reader, index = PatchReader(bags.patches, Model()), np.arange(3)
    whole, middle = read_pixels(reader, index, None), read_pixels(reader, index, 48)
    assert (middle == whole[:, 8:56, 8:56]).all()
    drawn = [read_pixels(reader, index, 48, counter_rng(1, step=step)) for step in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


def test_a_damaged_slide_is_left_out_of_training_and_has_no_predictions(made, slides, tmp_path, monkeypatch):
    read, damaged = PatchReader.read, slides[0].slide_id

    def damaged_read(self, index, x, y, out=None):
        pixels, errors = read(self, index, x, y, out)
        error = SlideError(Reason.DAMAGED_TILES, slide_id=damaged, path="s", detail="a tile", remedy="Restore it")
        slots = [
            i for i, patch in enumerate(index) if self.patches.entries[self.patches.slide[patch]].slide_id == damaged
        ]
        return pixels, errors | dict.fromkeys(slots, error)

    monkeypatch.setattr(PatchReader, "read", damaged_read)
    # The others of the first four still have both grades.
    card = trained(task(train={"steps": 2, "validate_every": 2}), slides, tmp_path)
    assert [entry.slide_id for entry in card.left_out] == [damaged]
    predictor = load_pixel_bag_model(made[0] / "model")
    assert lost_slide(predict_pixel_bag(predictor, slides[0], [slides[1]])).slide_id == damaged
    patient = structs.replace(predictor.card, bag=structs.replace(predictor.card.bag, level="patient"))
    together = [replace(slide, patient_id="p") for slide in slides[:3:2]]
    alone = predict_pixel_bag(replace(predictor, card=patient), together[1], [])
    assert predict_pixel_bag(replace(predictor, card=patient), together[1], [together[0]]).equals(alone)


def test_a_slide_without_patches_has_no_rows_and_all_columns_from_pixels(root, made, slides):
    predictor = load_pixel_bag_model(made[0] / "model")
    table = predict_pixel_bag(predictor, build_quarantined(Layout(root), "lost", grid=GRID), [])
    assert table.num_rows == 0
    assert table.schema == predict_pixel_bag(predictor, slides[0], []).schema


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "a", "model": {}}, "remove them, or features"),
        ({"bag": {"sampler": "cluster"}}, "cluster needs features"),
        ({"model": {"stain": "macenko"}}, "has neither"),
        ({"model": {"layer_decay": 0.5}}, "has neither"),
        ({"train": {"positions": "random"}}, "does not use it"),
        ({"train": {"gpus": 2}}, "does not use it"),
    ],
)
def test_settings_that_bags_of_pixels_cannot_have_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)


def test_a_crop_that_is_larger_than_a_patch_is_refused():
    with pytest.raises(ConfigError, match=r"bag\.crop: 48 px is more than a patch"):
        parse_config({"grids": {GRID_NAME: {"size": 32}}, "tasks": {"t": task().dump()}})
