"""Tests of training a level, running a cascade on a slide, and comparing it with naive and dense evaluation."""

from __future__ import annotations

import csv
import json

import killed
import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from cascade_slide import disc_field as field
from cascade_slide import random_networks, state_of, train_discs
from histomake.base.errors import ConfigError, HistomakeError
from histomake.cascade.answers import NetworkAnswers, StoredAnswers
from histomake.cascade.compare import HALF_TISSUE, IMAGES, SLIDES, bars, compare_slide, group_of, summarise, table
from histomake.cascade.infer import load_networks, segment_slide, whole_labels, whole_maps
from histomake.cascade.net import load_network
from histomake.cascade.plots import draw_front
from histomake.cascade.run import run_cascade
from histomake.cascade.search import Case, search_thresholds
from histomake.cells.parting import part_array
from histomake.config import CascadeBaselines, CascadeSearch, CascadeThresholds, Radhical
from PIL import Image

from tests import sample_records

CPU = torch.device("cpu")
THRESHOLDS = CascadeThresholds(cut=0.5, lower=[0.3] * 3, upper=[0.95] * 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder and description of a level-1 model that was trained to find discs."""
    folder = tmp_path_factory.mktemp("level1") / "model"
    return folder, train_discs(folder, {"steps": 60, "batch": 4, "lattice": 6}, slides=2)


def test_a_level_learns_to_find_discs(trained):
    folder, description = trained
    net = load_network(folder, CPU)
    unseen = field(2)
    answers = NetworkAnswers(unseen.reader, {1: net}, 64, CPU)
    finest = run_cascade(unseen.levels[:1], answers, THRESHOLDS, block=64)[0]
    found, truth = whole_labels(finest, cut=0.5) > 0, unseen.truth.whole() > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
    assert (description.parameters, description.field) == (145_123, 67)


def test_every_training_point_of_a_level_is_recorded(trained):
    folder, description = trained
    points = pq.read_table(folder / "points.parquet").to_pandas()
    assert len(points) == sum(msgspec.structs.astuple(description.points))
    assert set(points.slide_id) == {"discs0", "discs1"}


def test_the_history_of_a_level_has_the_documented_columns(trained):
    folder, description = trained
    with open(folder / "history.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["step", "train_loss", "train_accuracy", "learning_rate", "seconds", "data_wait"]
    assert [int(row["step"]) for row in rows] == [50, 60]
    assert description.loss == float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert list((folder / "training/events").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_training_is_repeatable_with_any_number_of_loader_processes(tmp_path, workers):
    settings = {"steps": 3, "batch": 2, "lattice": 2}
    train_discs(tmp_path / "a", settings | {"workers": 0}, level=2)
    train_discs(tmp_path / "b", settings | {"workers": workers}, level=2)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.timeout(300)
def test_a_level_killed_ten_times_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    settings = {"steps": 120, "batch": 2, "lattice": 2, "checkpoint_minutes": 0.0005, "workers": 1}
    train_discs(tmp_path / "whole", settings)

    def begin():
        return killed.start(train_discs, tmp_path / "killed", settings)

    steps = killed.kill_repeatedly(begin, state_of(tmp_path / "killed"), kills=10, pause=0.1)
    assert steps[-1] < settings["steps"]
    assert not (tmp_path / "killed/model.safetensors").exists()
    train_discs(tmp_path / "killed", settings)
    for file in ("model.safetensors", "points.parquet", "model.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_loss_that_is_not_a_number_names_level_step_slide_and_place(tmp_path):
    settings = {"steps": 3, "batch": 2, "lattice": 2, "learning_rate": 1e30}
    with pytest.raises(HistomakeError, match=r"not a number at step \d; .*for level 3.*: discs0 \(\d+, \d+\)"):
        train_discs(tmp_path / "model", settings, level=3)


def test_a_missing_level_is_named(tmp_path):
    with pytest.raises(HistomakeError, match=r"no trained level in .*level1"):
        load_networks([tmp_path / f"level{n}" / "model.safetensors" for n in range(1, 5)], Radhical(), threads=1)
    with pytest.raises(ConfigError, match="4 levels needs as many models, but got 3"):
        load_networks([tmp_path / "m"] * 3, Radhical(), threads=1)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """A segmented slide: its field, its store, its GeoJSON and its record."""
    folder = tmp_path_factory.mktemp("segmented")
    one = field(3)
    answers = NetworkAnswers(one.reader, random_networks(), 64, CPU)
    chosen = CascadeThresholds(cut=0.4, lower=[0.2] * 3, upper=[0.7] * 3)
    store, geojson = folder / "s.zarr", folder / "s.geojson"
    return (
        one,
        answers,
        chosen,
        store,
        geojson,
        segment_slide(one.reader, one.levels, answers, chosen, neck_um=0.5, store=store, geojson=geojson),
    )


def test_the_label_image_is_the_mask_of_the_cascade_and_the_geojson_has_its_objects(segmented):
    one, answers, chosen, store, geojson, record = segmented
    group = zarr.open_group(store, mode="r")
    maps = run_cascade(one.levels, answers, chosen, block=64)
    mask = whole_labels(maps[-1], cut=chosen.cut) > 0
    np.testing.assert_array_equal(group["labels"][:], part_array(mask, depth=1))
    features = json.loads(geojson.read_text())["features"]
    assert len(features) == record.nuclei == group["labels"][:].max()
    assert sorted(p.name for p in store.parent.iterdir()) == ["s.geojson", "s.zarr"]


def test_the_shares_of_every_level_add_up_and_give_the_saving(segmented):
    one, _, _, store, _, record = segmented
    group = zarr.open_group(store, mode="r")
    computed = 0
    for level in record.levels:
        assert level.computed + level.accepted + level.rejected == pytest.approx(1)
        state = group[f"state{level.level}"][:]
        assert (state == 1).mean() == pytest.approx(level.computed)
        computed += (state == 1).sum()
    assert record.saved == pytest.approx(1 - computed / one.levels[0].pixels)


def test_thresholds_of_the_dense_network_compute_level_1_alone_in_its_blocks(tmp_path):
    one = field(3)
    answers = NetworkAnswers(one.reader, random_networks(), 64, CPU)
    dense = CascadeThresholds(cut=0.4, lower=[], upper=[])
    places = {"store": tmp_path / "s.zarr", "geojson": tmp_path / "s.geojson"}
    record = segment_slide(one.reader, one.levels, answers, dense, neck_um=None, **places)
    assert [level.level for level in record.levels] == [1]
    assert record.multiply_adds.cascade == record.multiply_adds.dense
    assert record.saved == 0
    assert sorted(zarr.open_group(tmp_path / "s.zarr", mode="r").array_keys()) == ["labels", "probability", "state1"]


def test_the_pareto_figure_is_drawn(tmp_path):
    one = field(4)
    answers = NetworkAnswers(one.reader, random_networks(), 64, CPU)
    case = Case("s", "p", one.levels, StoredAnswers(whole_maps(answers, one.levels)), one.truth.whole())
    result = search_thresholds([case], Radhical(search=CascadeSearch(candidates=4, joint=5)), seed=0)
    draw_front(result.table(), result.dense.f, tmp_path / "front.png", cost="pixel evaluations", quality="F")
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.size[0] > 800


def compared(one, tissue, networks=None, **settings):
    return compare_slide(
        one.levels,
        NetworkAnswers(one.reader, networks or random_networks(), 64, CPU),
        THRESHOLDS,
        dense_cut=0.5,
        truth=one.truth.whole(),
        tissue=tissue,
        complete=True,
        config=CascadeBaselines(naive_pixels=16, repeats=1),
        seed=0,
        **settings,
    )


def test_naive_dense_and_cascade_are_compared_in_one_run():
    one = field(5)
    mask = np.zeros((18, 20), bool)
    mask[:9, :10] = True
    record = compared(one, sample_records.tissue_mask(mask, 8.0))
    assert record.dense_difference <= 1e-5
    assert record.simulated_identical
    assert record.tissue == pytest.approx(0.25)
    assert record.tissue <= HALF_TISSUE
    assert record.seconds.naive > record.seconds.dense > 0
    slide = msgspec.structs.replace(record, area_mm2=1.2)
    assert [group_of(r) for r in (record, slide)] == [IMAGES, SLIDES]
    groups = summarise([slide, compared(one, None)])
    assert set(groups) == {SLIDES, IMAGES}
    found = bars(groups)
    figures = {bar.figure for bar in found}
    assert {"whole slides: pixel evaluations saved vs naive", "images: pixel Dice, dense"} <= figures
    assert "multiply-adds saved" in table(groups, found)


def test_sites_are_judged_separately_and_by_the_named_measure():
    """In a pool of both sites, the good one would compensate for the bad one."""
    record = compared(field(6), None)
    good, bad = (msgspec.structs.replace(replace_scores(record, **f), site=site) for site, f in SITES.items())
    found = {bar.figure: bar.ok for bar in bars(summarise([good, bad]))}
    assert found["images of north: RADHicaL F, cascade above Otsu"]
    assert not found["images of south: RADHicaL F, cascade above Otsu"]
    assert found["images of south: pixel Dice, cascade above Otsu"]


SITES = {
    "north": {"cascade": {"f": 0.9, "pixel_f": 0.9}, "otsu": {"f": 0.6, "pixel_f": 0.6}},
    "south": {"cascade": {"f": 0.653, "pixel_f": 0.8}, "otsu": {"f": 0.687, "pixel_f": 0.7}},
}


def test_patients_count_equally_however_many_slides_they_have():
    record = compared(field(6), None)
    of_first = [msgspec.structs.replace(replace_scores(record, cascade={"f": f}), patient_id="p1") for f in (0.2, 0.4)]
    of_second = msgspec.structs.replace(replace_scores(record, cascade={"f": 0.9}), patient_id="p2")
    (group,) = summarise([*of_first, of_second]).values()
    assert group.scores["cascade"].f == pytest.approx((0.3 + 0.9) / 2)
    assert (group.scored, group.patients) == (3, 2)


def test_every_way_is_parted_alike_and_measured_by_objects():
    one = field(6)
    whole, parts = (compared(one, None, neck_um=neck).scores for neck in (None, 0.5))
    for way, scores in parts.items():
        assert scores.pixel_f == whole[way].pixel_f
        assert scores.found >= whole[way].found
        assert scores.count_error == pytest.approx(abs(scores.found - scores.nuclei) / scores.nuclei)


def test_a_missed_bound_is_reported():
    one = field(6)
    record = compared(one, None)
    groups = summarise([replace_scores(record, dense={"pixel_f": 0.9}, cascade={"pixel_f": 0.8})])
    found = {bar.figure: bar for bar in bars(groups)}
    assert not found["images: pixel F lost vs dense"].ok
    assert found["images: pixel Dice, dense"].ok
    assert "NO" in table(groups, list(found.values()))


def replace_scores(record, **scores):
    replaced = {way: msgspec.structs.replace(record.scores[way], **values) for way, values in scores.items()}
    return msgspec.structs.replace(record, scores=record.scores | replaced)
