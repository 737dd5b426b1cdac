"""Tests of stain normalisation: per slide, to a real slide, reproducible, and without effect on glass."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from histomake.base.errors import HistomakeError
from histomake.config import Model, Task
from histomake.learn.data.reading import PatchReader
from histomake.learn.data.stains import fit_normaliser, learn_slide
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.learn.train import known_patches, train
from histomake.patch.stain import StainNormaliser, choose_reference, learn_colours, read_reference
from PIL import Image
from small_cohort import CLASSES, GRID_NAME, build_cohort
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

METHODS = ("macenko", "reinhard")
TORCHSTAIN = {"macenko": NumpyMacenkoNormalizer, "reinhard": NumpyReinhardNormalizer}
both = pytest.mark.parametrize("method", METHODS)


STAINS = np.array([[0.65, 0.70, 0.29], [0.09, 0.95, 0.28]])
OTHER_STAINS = np.array([[0.55, 0.76, 0.35], [0.14, 0.92, 0.37]])


@pytest.fixture(scope="module")
def amounts(data: Path) -> np.ndarray:
    """Amounts of two stains in real tissue, (512, 512, 2)."""
    image = tifffile.imread(data / "slides" / "CMU-1-Small-Region.svs")[600:1112, 600:1112]
    density = -np.log((image.astype(float) + 1) / 256)
    return np.clip(density @ np.linalg.pinv(STAINS), 0, None)


def stained(amounts: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Render the tissue with these stains: uint8 (512, 512, 3)."""
    return np.clip(240 * np.exp(-amounts @ stains), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def tissue(amounts: np.ndarray) -> np.ndarray:
    return stained(amounts, STAINS)


@pytest.fixture(scope="module")
def other(amounts: np.ndarray) -> np.ndarray:
    """The same tissue from another laboratory: other dyes, less haematoxylin."""
    return stained(amounts * [0.6, 0.85], OTHER_STAINS)


def normaliser(method: str, image: np.ndarray, **slides: np.ndarray) -> StainNormaliser:
    known = {name: learn_colours(method, pixels) for name, pixels in slides.items()}
    return StainNormaliser(method, reference=learn_colours(method, image), slides=known)


@both
def test_a_slide_of_another_laboratory_gets_the_colours_of_the_reference(tissue, other: np.ndarray, method) -> None:
    found = normaliser(method, tissue, other=other).apply(other, "other")
    before = np.abs(other.astype(int) - tissue).mean()
    assert before > 8
    assert np.abs(found.astype(int) - tissue).mean() < before / 2.5


@both
def test_the_reference_itself_is_almost_unchanged(tissue: np.ndarray, method: str) -> None:
    found = normaliser(method, tissue, same=tissue).apply(tissue, "same")
    assert np.abs(found.astype(int) - tissue).mean() < 1.5


@both
def test_on_stained_pixels_the_result_equals_torchstain(tissue: np.ndarray, other: np.ndarray, method: str) -> None:
    dark = (tissue.min(axis=2) < 199) & (other.min(axis=2) < 199)
    rows = int(dark.sum()) // 256
    first, second = (image[dark][: rows * 256].reshape(rows, 256, 3) for image in (tissue, other))
    theirs = TORCHSTAIN[method]()
    theirs.fit(first)
    expected = theirs.normalize(second)
    expected = (expected[0] if isinstance(expected, tuple) else expected).astype(float)
    found = normaliser(method, first, second=second)
    computed = found.normalise(second.astype(np.float32), found.slides["second"])
    weight = np.minimum((255 - second.min(axis=2, keepdims=True)) / 55, 1)
    # torchstain truncates fractions.
    assert np.abs(computed - (weight * (expected + 0.5) + (1 - weight) * second)).mean() < 0.7
    assert np.abs(found.apply(second, "second") - computed).mean() < 1


@both
def test_a_colour_is_changed_equally_in_every_patch_of_a_slide(tissue: np.ndarray, other, method: str) -> None:
    stain = normaliser(method, tissue, other=other)
    assert np.array_equal(stain.apply(other, "other")[:64, :64], stain.apply(other[:64, :64], "other"))


@both
def test_glass_is_unchanged(tissue: np.ndarray, other: np.ndarray, method: str) -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    assert np.array_equal(normaliser(method, tissue, other=other).apply(white, "other"), white)


@both
def test_a_slide_with_too_little_stain_is_unchanged(tissue: np.ndarray, method: str) -> None:
    pale = np.full((64, 64, 3), 230, np.uint8)
    stain = normaliser(method, tissue, pale=pale)
    assert stain.slides == {"pale": None}
    assert np.array_equal(stain.apply(tissue, "pale"), tissue)


@both
def test_the_reference_is_the_slide_nearest_to_the_median(tissue: np.ndarray, other, method: str) -> None:
    slides = {"odd": other, "usual": tissue, "twin": tissue[::-1], "pale": np.full_like(tissue, 240)}
    learned = {name: learn_colours(method, pixels) for name, pixels in slides.items()}
    assert choose_reference(method, learned) in ("usual", "twin")
    assert choose_reference(method, {"pale": learned["pale"]}) is None


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    return build_cohort(tmp_path_factory.mktemp("stains"), 4)


@both
def test_estimated_colours_are_cached_and_reproducible(cohort, tmp_path: Path, method: str) -> None:
    def fit(folder: Path, threads: int) -> dict:
        stain = fit_normaliser(method, cohort, reference_from=cohort[:2], memory=folder, threads=threads)
        return {"reference": stain.reference, "slides": stain.slides}

    first = fit(tmp_path / "a", 1)
    assert fit(tmp_path / "b", 2) == first
    kept = json.loads((tmp_path / "a/stains.json").read_text())
    assert kept["reference"] in {"s0", "s1"}
    assert kept["slides"] == first["slides"]
    kept["slides"]["s3"] = None
    (tmp_path / "a/stains.json").write_text(json.dumps(kept))
    assert fit(tmp_path / "a", 1)["slides"]["s3"] is None


@both
def test_training_and_prediction_normalise_equally_and_record_it(cohort, tmp_path: Path, method: str) -> None:
    quick = {"steps": 4, "batch": 8, "validate_every": 4, "workers": 0}
    model = {"name": "test_resnet", "stain": method, "context": [2.0]}
    task = Task(grid=GRID_NAME, target={"classes": CLASSES}, model=model, train=quick)
    places = {"output": tmp_path / "model", "state": tmp_path / "state"}
    train(task, train=cohort[:2], val=cohort[2:3], class_names=CLASSES, **places, seed=3, threads=1)
    remembered = json.loads((tmp_path / "model/training/stains.json").read_text())
    assert set(remembered["slides"]) == {"s0", "s1", "s2"}
    predictor = load_model(tmp_path / "model")
    assert predictor.stain.reference == remembered["slides"][remembered["reference"]]
    table = predict_slide(predictor, cohort[3], batch=16, threads=2)
    recorded = json.loads(table.schema.metadata[b"stain"])
    assert recorded == {"method": method, "slide": learn_slide(predictor.stain, cohort[3])}
    pq.write_table(table, tmp_path / "table.parquet")
    assert pq.read_schema(tmp_path / "table.parquet").metadata[b"stain"] == table.schema.metadata[b"stain"]
    # A training slide predicted later is normalised as it was in training.
    assert learn_slide(predictor.stain, cohort[0]) == remembered["slides"]["s0"]


def test_every_view_of_a_position_is_normalised_like_its_slide(cohort) -> None:
    patches = known_patches(cohort[:1], Task(grid=GRID_NAME, target={"classes": CLASSES}))
    stain = StainNormaliser("reinhard", reference={"mean": [50, 20, -20], "std": [10, 5, 5]})
    index = np.array([len(patches) // 2])
    places = index, patches.x[index].astype(np.int64), patches.y[index].astype(np.int64)
    plain, _ = PatchReader(patches, Model(context=[2.0])).read(*places)
    found, errors = PatchReader(patches, Model(context=[2.0]), stain=stain).read(*places)
    assert not errors
    for view in (slice(0, 3), slice(3, 6)):
        assert np.array_equal(found[0, ..., view], stain.apply(plain[0, ..., view], "s0"))


def test_images_of_real_nuclei_become_more_similar(data: Path) -> None:
    paths = sorted((data / "nuclei").glob("*.png"))[:2]
    first, second = (np.asarray(Image.open(path).convert("RGB"))[:256, :256] for path in paths)
    for method in METHODS:
        changed = normaliser(method, first, second=second).apply(second, "second")
        distance = np.abs(second.mean((0, 1)) - first.mean((0, 1))).sum()
        assert np.abs(changed.mean((0, 1)) - first.mean((0, 1))).sum() < distance


@both
def test_processes_share_the_tables_of_many_slides(method: str, tissue: np.ndarray, other: np.ndarray) -> None:
    """A table filled by a forked process is visible to all. Slides without a table are computed, with nearly equal
    results."""
    stain = normaliser(method, tissue, a=other, b=tissue)
    alone = stain.apply(other, "a")
    stain.share()
    child = multiprocessing.get_context("fork").Process(target=stain.apply, args=(other, "a"))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert [filled[0] for _, filled in stain._shared.values()] == [1, 0]
    assert np.array_equal(stain.apply(other, "a"), alone)
    stain._shared.pop("a")
    computed = stain.apply(other, "a").astype(int)
    assert np.abs(computed - alone).mean() < 1


def test_colours_of_a_reference_are_read_as_they_were_written():
    for method, colours in REFERENCES_OF_CARDS.items():
        assert read_reference(method, colours) == colours


REFERENCES_OF_CARDS = {
    "macenko": {"stains": [[0.5, 0.2], [0.7, 0.9], [0.4, 0.3]], "strong": [1.9, 1.0]},
    "reinhard": {"mean": [60.0, 20.0, -10.0], "std": [9.0, 4.0, 3.0]},
}


@pytest.mark.parametrize(
    ("method", "content"),
    [
        ("macenko", REFERENCES_OF_CARDS["reinhard"]),
        ("reinhard", {}),
        ("reinhard", {"mean": [60.0, 20.0, -10.0], "std": [9.0, 4.0, 0.0]}),
        ("reinhard", {"mean": [60.0, 20.0], "std": [9.0, 4.0, 3.0]}),
        ("reinhard", {"mean": ["a", "b", "c"], "std": [9.0, 4.0, 3.0]}),
        ("macenko", {"stains": [[0.5, 0.2], [0.7, 0.9]], "strong": [1.9, 1.0]}),
        ("macenko", {"stains": REFERENCES_OF_CARDS["macenko"]["stains"], "strong": [-1.9, 1.0]}),
        ("macenko", "purple"),
    ],
)
def test_colours_that_the_method_does_not_have_are_refused(method, content):
    with pytest.raises(ValueError, match=r"Object|Expected"):
        read_reference(method, content)


@both
def test_a_card_with_other_colours_than_its_method_has_is_refused(cohort, tmp_path: Path, method: str) -> None:
    model = {"name": "test_resnet", "stain": method}
    task = Task(grid=GRID_NAME, target={"classes": CLASSES}, model=model, train={"steps": 1, "batch": 8, "workers": 0})
    places = {"output": tmp_path / "model", "state": tmp_path / "state"}
    train(task, train=cohort[:2], val=cohort[2:3], class_names=CLASSES, **places, seed=3, threads=1)
    place = tmp_path / "model/model.json"
    card = json.loads(place.read_text())
    for damaged in ({}, {"mean": [1.0]}, {key: [] for key in card["stain"]}):
        place.write_text(json.dumps(card | {"stain": damaged}))
        with pytest.raises(HistomakeError, match=r"model\.json describes no network that can be built"):
            load_model(tmp_path / "model")
