"""Encoders that see only the patches that a model chose on a coarser grid: choice, files, bags, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from histomake.bags.index import index_bags
from histomake.bags.predict import load_bag_model, predict_bag
from histomake.bags.training import train_bags
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.base.tables import without_rows, write_table
from histomake.cohort.sheet import Slide
from histomake.config import Encoder, Grid, PatchChoice, Task, parse_config
from histomake.features.choice import Chooser, choose
from histomake.features.encoders import load_group
from histomake.features.extract import extract
from histomake.features.extract_chosen import ScoredSlide, open_chosen, write_chosen
from histomake.features.store import read_features
from histomake.learn.data.patch_index import index_patches, usable_patches
from histomake.planning.choice_plan import ChoicePlan
from histomake.planning.plan import make_plan
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_cohort import GRID_NAME, MPP, build_cohort, build_quarantined, changed_task

from tests import sample_records

GRID = Grid(size=64, mpp=MPP)
SCORES = pa.schema([("patch_id", pa.uint32()), ("x", pa.int32()), ("y", pa.int32()), ("attention", pa.float32())])


def choice(**limits) -> PatchChoice:
    return PatchChoice(task="cheap", **limits)


scores = hnp.arrays(
    np.float32, st.integers(1, 60), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0, float("nan")])
)


@given(scores, st.floats(0.01, 1), st.integers(1, 60))
def test_the_highest_known_scores_are_chosen_within_all_limits(found, budget, most):
    chosen = choose(found, choice(budget=budget, most=most))
    known = np.isfinite(found)
    assert not (chosen & ~known).any()
    assert chosen.sum() <= max(1, min(most, budget * len(found) + 1e-6))
    assert chosen.sum() >= min(known.sum(), max(1, min(most, int(budget * len(found)))))
    if chosen.any():
        assert (found[chosen].min() >= found[known & ~chosen]).all()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"budget": 0.4}, [0, 1]),
        ({"budget": 0.01}, [1]),
        ({"most": 3}, [0, 1, 3]),
        ({"class_name": "a", "least_score": 0.7}, [1]),
        ({"class_name": "a", "least_score": 1.0}, [1]),
        ({"class_name": "a", "least_score": 0.2, "most": 2}, [0, 1]),
    ],
)
def test_limits_choose_as_by_hand(limits, expected):
    """Equal scores: the first patch; never a patch without a score; always one."""
    found = np.array([0.5, 0.9, np.nan, 0.5, 0.1], np.float32)
    assert np.flatnonzero(choose(found, choice(**limits))).tolist() == expected


def test_a_budget_is_not_cut_by_rounding():
    assert choose(np.arange(100, dtype=np.float32), choice(budget=0.29)).sum() == 29


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def slides(root):
    entries = build_cohort(root, 6)
    return [replace(e, labels={"grade": "low" if i % 2 else "high"}) for i, e in enumerate(entries)]


@pytest.fixture(scope="module")
def encoder():
    return load_group({"e": Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}, GRID, models={}, threads=1)[0]


def chooser(*weights: str, **limits) -> Chooser:
    """Models of as many folds as ``weights``."""
    cards = [sample_records.model_card(weights_sha256=w, made_with=[f"learned {w}"]) for w in weights]
    return Chooser(choice(**limits), list(range(len(weights))), cards)


def scored(entry, folder: Path, *attentions) -> ScoredSlide:
    """A slide with predictions on its own grid: patches have the attention in the order of the table."""
    patches, _ = usable_patches(entry)
    files = []
    for fold, attention in enumerate(attentions):
        values = np.resize(np.asarray(attention, np.float32), patches.num_rows)
        columns = [patches[name] for name in ("patch_id", "x", "y")]
        table = pa.table([*columns, pa.array(values, pa.float32())], schema=SCORES)
        files.append(folder / f"{entry.slide_id}.{fold}.parquet")
        write_table(table, files[-1])
    return ScoredSlide(entry, entry.table, files)


def encoded(encoder, slide, models, output, code="c"):
    with open_chosen(encoder, slide, models, batch=16, threads=1, code=code) as opened:
        write_chosen(encoder, models, opened, output, code=code, made_of="m")
    return read_features(output)


def test_chosen_patches_have_the_vectors_that_they_have_among_all(slides, encoder, tmp_path):
    extract([encoder], slides[0], tmp_path / "all.arrow", batch=16, threads=1, code="c", made_of="m")
    everything = read_features(tmp_path / "all.arrow")
    rising = np.arange(len(everything))
    models = chooser("w0", "w1", budget=0.1)
    found = encoded(encoder, scored(slides[0], tmp_path, rising, rising[::-1]), models, tmp_path / "a.arrow")
    count = int(0.1 * len(everything))
    assert len(found) == 2 * count
    assert found.patch_id[found.given("e.fold0")].tolist() == everything.patch_id[-count:].tolist()
    assert found.patch_id[found.given("e.fold1")].tolist() == everything.patch_id[:count].tolist()
    rows = np.searchsorted(everything.patch_id, found.patch_id)
    assert np.array_equal(found.vectors("e.fold0"), everything.vectors("e")[rows])


def test_a_column_names_the_model_that_chose_and_what_it_has_learned(slides, encoder, tmp_path):
    models = chooser("w0", "w1", budget=0.1)
    record = encoded(encoder, scored(slides[0], tmp_path, [1], [1]), models, tmp_path / "a.arrow").record
    first, second = record.columns
    assert (first.fold, first.chooser.weights, first.chooser.budget) == (0, "w0", 0.1)
    assert first.made_with == ["learned w0"]
    assert len({first.identity, second.identity, encoder.column.identity}) == 3


def test_patches_without_a_score_are_not_chosen(slides, encoder, tmp_path):
    found = encoded(encoder, scored(slides[0], tmp_path, [np.nan]), chooser("w", budget=0.5), tmp_path / "a.arrow")
    assert len(found) == 0
    assert found.record.columns


def test_a_slide_in_quarantine_has_no_rows_and_the_same_columns(root, slides, encoder, tmp_path):
    entry = build_quarantined(Layout(root), "bad", grid=GRID)
    slide = replace(scored(slides[0], tmp_path, [1]), entry=entry, coarse_table=entry.table)
    found = encoded(encoder, slide, chooser("w", budget=0.5), tmp_path / "a.arrow")
    assert isinstance(found.record, Quarantined)
    assert (len(found), found.table.column_names[-1]) == (0, "e.fold0")


def test_damage_that_the_choosing_model_met_is_passed_on(slides, encoder, tmp_path):
    slide = scored(slides[0], tmp_path, [1])
    lost = sample_records.lost(slides[0].slide_id)
    write_table(without_rows(SCORES, lost), slide.predictions[0])
    assert encoded(encoder, slide, chooser("w", budget=0.5), tmp_path / "a.arrow").record == lost


# --- bags ------------------------------------------------------------------------------------------------------------


def bag_task() -> Task:
    return changed_task(
        {
            "kind": "classification",
            "grid": GRID_NAME,
            "features": "e",
            "level": "slide",
            "target": {"source": "sheet", "column": "grade", "classes": ["low", "high"]},
            "train": {"steps": 4, "batch": 2, "validate_every": 2, "workers": 0},
            "pooling": {"embed": 8, "hidden": [8], "dropout": 0.0},
        },
        {},
    )


@pytest.fixture(scope="module")
def files(slides, encoder, root):
    """Features of a quarter of the patches of each slide."""
    models, found = chooser("w", budget=0.25), {}
    for entry in slides:
        found[entry.slide_id] = root / f"{entry.slide_id}.arrow"
        encoded(encoder, scored(entry, root, np.arange(1000)), models, found[entry.slide_id])
    return found


def test_bags_have_the_chosen_patches_alone(slides, files):
    task = bag_task()
    patches = index_patches(slides, kind=task.kind, target=task.target)
    bags = index_bags(patches, files, "e.fold0", level="slide", min_tissue=0.0)
    for entry, members in zip(slides, bags.members, strict=True):
        assert set(bags.patches.patch_id[members]) == set(read_features(files[entry.slide_id]).patch_id)


@pytest.fixture(scope="module")
def model(slides, files, root):
    settings = {"files": files, "column": "e.fold0", "seed": 1, "threads": 1}
    train_bags(bag_task(), train=slides[:4], val=slides[4:], output=root / "model", state=root / "state", **settings)
    return load_bag_model(root / "model")


def test_predictions_have_the_chosen_patches_and_attention_adds_up(slides, files, model):
    table = predict_bag(model, slides[0], (), files)
    assert table["patch_id"].to_pylist() == read_features(files[slides[0].slide_id]).patch_id.tolist()
    assert sum(table["attention"].to_pylist()) == pytest.approx(1, abs=1e-5)
    assert "learned w" in model.card.made_with


@pytest.mark.parametrize(("weights", "limits"), [("w", {"budget": 0.3}), ("other", {"budget": 0.25})])
def test_a_model_refuses_patches_that_were_chosen_otherwise(weights, limits, slides, encoder, model, tmp_path):
    encoded(encoder, scored(slides[0], tmp_path, np.arange(1000)), chooser(weights, **limits), tmp_path / "a.arrow")
    with pytest.raises(HistomakeError, match="other weights or settings"):
        predict_bag(model, slides[0], (), {slides[0].slide_id: tmp_path / "a.arrow"})


def test_a_slide_of_which_no_patch_is_chosen_has_no_rows(slides, encoder, model, tmp_path):
    encoded(encoder, scored(slides[0], tmp_path, [np.nan]), chooser("w", budget=0.25), tmp_path / "a.arrow")
    table = predict_bag(model, slides[0], (), {slides[0].slide_id: tmp_path / "a.arrow"})
    assert table.num_rows == 0
    assert "attention" in table.column_names


# --- configuration and plan ------------------------------------------------------------------------------------------


def configuration(**changes) -> dict:
    """A cheap task and one on the patches that it chooses; ``changes`` by dotted name."""
    target = {"source": "sheet", "column": "grade", "classes": ["low", "high"]}
    bags = {"kind": "classification", "level": "slide", "target": target}
    content = {
        "grids": {"low": {"mpp": 4.0, "size": 64}, "high": {"mpp": 1.0, "size": 64}},
        "encoders": {
            "cheap": {"grid": "low", "name": "resnet10t", "weights": False},
            "fine": {
                "grid": "high",
                "name": "resnet10t",
                "weights": False,
                "choose": {"task": "coarse", "budget": 0.04},
            },
        },
        "tasks": {
            "coarse": {**bags, "grid": "low", "features": "cheap"},
            "final": {**bags, "grid": "high", "features": "fine", "split": {"like": "coarse"}},
        },
    }
    for name, value in changes.items():
        *path, last = name.split("__")
        place = content
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return json.loads(json.dumps(content))


CHOOSE = "encoders__fine__choose"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{CHOOSE}__budget": 0}, "greater than 0"),
        ({f"{CHOOSE}__budget": 1.5}, "less than or equal to 1"),
        ({f"{CHOOSE}__budget": None}, "without a limit every patch would be encoded"),
        ({f"{CHOOSE}__least_score": 0.5}, "attention has no fixed scale"),
        ({f"{CHOOSE}__task": "lost"}, "'lost' is not under tasks"),
        ({f"{CHOOSE}__task": "final"}, "itself sees only chosen patches"),
        ({f"{CHOOSE}__class_name": "high"}, "does not classify patches"),
        ({"tasks__coarse__pooling": {"name": "mean"}}, "learns no attention"),
        ({"tasks__coarse__level": "patient"}, "must be a task of level slide"),
        ({"grids__low__mpp": 0.5}, "which is finer than grid high"),
        ({"encoders__fine__group": "both"}, "not with h5:, task: or group"),
        ({"tasks__final__level": "patch"}, "encodes only chosen patches"),
        ({"explain__maps": ["fine"]}, "encodes other patches in each fold"),
        (
            {"graphs": {"g": {"nodes": "patch", "encoder": "fine", "features": ["encoder"]}}},
            "graphs.g.encoder: fine encodes only chosen",
        ),
    ],
)
def test_choices_that_cannot_be_made_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(configuration(**changes))


def plan(**changes) -> ChoicePlan:
    rows = {}
    for i in range(12):
        name = f"s{i:02}"
        rows[name] = Slide(name, f"{name}.svs", f"patient-{i}", labels={"grade": "low" if i % 2 else "high"})
    return ChoicePlan(make_plan(parse_config(configuration(**changes)), rows))


def test_the_model_of_each_fold_chooses_patches_of_every_slide():
    found = plan(tasks__coarse__split={"folds": 3})
    assert found.folds("fine", "s00") == [0, 1, 2]
    assert [path.parent.name for path in found.predictions("fine", "s00")] == ["fold0", "fold1", "fold2"]
    assert found.plan.feature_column("final", 2) == "fine.fold2"
    assert found.misfits() == []
    assert (found.folds("cheap", "s00"), found.predictions("cheap", "s00")) == ([], [])


def test_tasks_of_different_patients_are_refused_with_the_slides():
    found = plan(tasks__final__split={"test": 0.5, "val": 0.3})
    (problem,) = found.misfits()
    assert "have another role there" in problem
    assert "split: {like: coarse}" in problem
