"""Segmentation: outlines are learned, whole slides have no seams, and viewers can open the results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
import zarr
from histomake.base.layout import Layout
from histomake.config import Grid, Target, Task
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.learn.inference import segment
from histomake.learn.inference.predict import load_model
from histomake.learn.inference.segment import Lattice, outline, pixel_counts, segment_slide, window_weight
from histomake.learn.train import train
from hypothesis import given
from hypothesis import strategies as st
from small_cohort import CLASSES, GRID_NAME, SIDE, build_cohort, build_quarantined


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A segmentation model of the two textures, and a slide it has not seen."""
    root = tmp_path_factory.mktemp("segment")
    entries = build_cohort(root, 4)
    task = Task.model_validate(
        {
            "kind": "segmentation",
            "grid": GRID_NAME,
            "target": {"source": "mask", "classes": CLASSES},
            "model": {"name": "fast_scnn"},
            "train": {"steps": 60, "batch": 8, "validate_every": 30, "workers": 0, "learning_rate": 5e-3},
        }
    )
    places = {"output": root / "model", "state": root / "state"}
    train(task, train=entries[:2], val=entries[2:3], class_names=CLASSES, **places, seed=0, threads=1)
    return root / "model", entries[3]


def run(trained, folder: Path, **options):
    model, entry = trained
    settings = {"batch": 8, "threads": 1, "overlap": 0.25} | options
    return segment_slide(
        load_model(model), entry, labels=folder / "labels.zarr", polygons=folder / "outlines.geojson", **settings
    )


def test_unseen_slide_is_segmented_with_a_high_dice(trained, tmp_path: Path) -> None:
    table = run(trained, tmp_path)
    prediction = SlidePrediction("s3", "p3", 0, table)
    target = Target(source="mask", classes=CLASSES)
    evaluation = evaluate([prediction], kind="segmentation", target=target, aggregate="mean", seed=0, bootstraps=5)
    assert evaluation.record.levels["pixel"].metrics["all"]["dice"].value > 0.85


def test_labels_cover_tissue_patches_and_nothing_else(trained, tmp_path: Path) -> None:
    run(trained, tmp_path)
    labels = zarr.open_array(tmp_path / "labels.zarr/0", mode="r")[:]
    assert labels.shape == (SIDE, SIDE)
    assert (labels[:, :64] == 0).all()
    assert (labels[:, 64:] > 0).all()


def test_result_does_not_depend_on_blocks(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(trained, tmp_path / "one")
    monkeypatch.setattr(segment, "BLOCK", 128)
    monkeypatch.setattr(segment, "CHUNK", 64)
    run(trained, tmp_path / "many")
    one, many = (zarr.open_array(tmp_path / name / "labels.zarr/0", mode="r")[:] for name in ("one", "many"))
    assert (one != many).mean() < 1e-3


def test_levels_halve_and_metadata_name_the_classes(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "MIN_LEVEL", 128)
    run(trained, tmp_path)
    group = zarr.open_group(tmp_path / "labels.zarr", mode="r")
    ome = group.attrs["ome"]
    shapes = [group[dataset["path"]].shape for dataset in ome["multiscales"][0]["datasets"]]
    assert shapes == [(SIDE, SIDE), (SIDE // 2, SIDE // 2), (SIDE // 4, SIDE // 4)]
    assert np.array_equal(group["1"][:], group["0"][::2, ::2])
    assert [p["class"] for p in ome["image-label"]["properties"]] == CLASSES


def test_polygons_have_the_area_of_their_labels(trained, tmp_path: Path) -> None:
    run(trained, tmp_path)
    labels = zarr.open_array(tmp_path / "labels.zarr/0", mode="r")[:]
    features = json.loads((tmp_path / "outlines.geojson").read_text())["features"]
    for value, name in enumerate(CLASSES, start=1):
        drawn = [f for f in features if f["properties"]["classification"]["name"] == name]
        area = sum(shapely.from_geojson(json.dumps(f["geometry"])).area for f in drawn)
        assert area == pytest.approx((labels == value).sum(), rel=0.02)


def test_polygons_lie_where_their_pixels_are_and_keep_holes(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 20:50] = 1
    labels[15:20, 30:40] = 0
    array = zarr.create_array(tmp_path / "a.zarr", data=labels)
    ((name, polygon),) = outline([array], ("tumour",), scale=2.0)
    assert name == "tumour"
    assert polygon.bounds == pytest.approx((40, 20, 100, 60), abs=0.1)
    assert len(polygon.interiors) == 1
    assert polygon.area == pytest.approx(4 * (labels == 1).sum(), rel=0.02)


def test_quarantined_slide_gets_an_empty_table_image_and_file(trained, tmp_path: Path) -> None:
    lost = build_quarantined(Layout(tmp_path), "lost", grid=Grid(size=64, mpp=1.0))
    full = run(trained, tmp_path / "full")
    table = run((trained[0], lost), tmp_path / "lost")
    assert table.num_rows == 0
    assert table.schema == full.schema
    assert json.loads((tmp_path / "lost/outlines.geojson").read_text())["features"] == []


def test_averaging_over_flips_changes_scores_little_and_no_position(trained, tmp_path: Path) -> None:
    run(trained, tmp_path / "plain")
    run(trained, tmp_path / "flips", flips=True)
    plain, flips = (zarr.open_array(tmp_path / name / "labels.zarr/0", mode="r")[:] for name in ("plain", "flips"))
    assert (plain != flips).mean() < 0.1


@given(length=st.integers(1, 2000), size=st.integers(16, 300), overlap=st.floats(0, 0.75), cut=st.integers(1, 2000))
def test_windows_cover_every_pixel_for_any_slide_size(length: int, size: int, overlap: float, cut: int) -> None:
    lattice = Lattice(length, length, size, max(1, round(size * (1 - overlap))), 1.0)
    whole = lattice.starts(0, length, length)
    parts = [lattice.starts(low, min(low + cut, length), length) for low in range(0, length, cut)]
    assert np.array_equal(whole, np.unique(np.concatenate(parts)))
    covered = np.zeros(length + size + lattice.step, bool)
    for start in whole:
        covered[start : start + size] = True
    assert covered[:length].all()


def test_window_weight_is_largest_in_the_middle_and_nowhere_zero() -> None:
    weight = window_weight(32)
    assert weight.min() > 0
    assert weight.argmax() in (15 * 32 + 15, 15 * 32 + 16, 16 * 32 + 15, 16 * 32 + 16)
    assert torch.allclose(weight, weight.T)


def test_pixels_of_unknown_truth_do_not_count() -> None:
    truth = np.array([[0, 1], [-1, 1]])
    found = np.array([[0, 0], [1, 1]])
    assert pixel_counts(found, truth, 2).tolist() == [[1, 1, 0], [1, 0, 1]]
