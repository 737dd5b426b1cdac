"""Tests of reused models: which models match a task, and what the slide sheet must then contain."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from histomake.base.errors import ConfigError
from histomake.base.kinds import Kind
from histomake.base.records.model_card import ModelGrid
from histomake.cohort.folds import assign_task, assign_unfitted
from histomake.cohort.sheet import Slide, read_sheet
from histomake.config import Grid, Task, parse_config
from histomake.model.reuse import adapted_card, folds, mismatches, model_folder

from tests import sample_records

CARD = sample_records.model_card(class_names=["a", "b"], grid=ModelGrid(name="theirs", size=256, mpp=0.5))


def write_model(folder: Path, **changes: object) -> Path:
    msgspec.structs.replace(CARD, **changes).write(folder / "model.json")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def make_task(**sections: object) -> Task:
    return Task.model_validate({"grid": "x20", "target": {"classes": ["a", "b"]}, **sections})


def test_a_matching_model_is_used_even_if_its_grid_has_another_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert mismatches(folder, make_task(), Grid()) == []
    assert mismatches(folder, make_task(), Grid(), named=True) == [
        f'{folder} was trained with grid: "theirs", but the configuration has "x20"'
    ]
    assert adapted_card(CARD, make_task()).grid == ModelGrid(name="x20", size=256, mpp=0.5)


def test_all_mismatches_are_named(tmp_path: Path) -> None:
    grid = ModelGrid(name="x20", size=128, mpp=1.0)
    changes = {"kind": Kind.REGRESSION, "class_names": ["b", "a"], "grid": grid}
    found = "\n".join(mismatches(write_model(tmp_path / "model", **changes), make_task(), Grid()))
    assert 'kind: "regression", but the configuration has "classification"' in found
    assert "target.classes: b, a, but the configuration has a, b" in found
    assert "grids.x20.size: 128, but the configuration has 256" in found
    assert "grids.x20.mpp: 1.0, but the configuration has 0.5" in found


def test_a_model_of_pixels_does_not_fit_a_task_on_features(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert mismatches(folder, make_task(features="uni"), Grid()) == [
        f'{folder} was trained with features: null, but the configuration has "uni"'
    ]


def test_a_model_of_0_1_with_several_labels_is_used_by_a_task_of_that_kind(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    content = json.loads((folder / "model.json").read_text()) | {"target": {"multi_label": True}}
    del content["format"]
    (folder / "model.json").write_text(json.dumps(content))
    assert mismatches(folder, make_task(kind="multi_label"), Grid()) == []
    assert mismatches(folder, make_task(), Grid()) == [
        f'{folder} was trained with kind: "multi_label", but the configuration has "classification"'
    ]


def test_a_pickle_in_place_of_a_model_is_mentioned(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"\x80\x02.")
    (found,) = mismatches(tmp_path, make_task(), Grid())
    assert "lacks model.safetensors and model.json" in found
    assert "model.pt may be a pickle" in found


@pytest.mark.parametrize("content", ["{", '{"kind": "classification"}', "[]"])
def test_a_file_that_does_not_describe_a_model_is_refused(tmp_path: Path, content: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.json").write_text(content)
    (found,) = mismatches(folder, make_task(), Grid())
    assert f"{folder / 'model.json'} is not a valid model card" in found
    assert "Train the model again" in found


def test_a_single_model_is_one_fold_and_a_folder_of_folds_has_the_folds_of_the_task(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one")
    assert list(folds(make_task(trained=str(one), split={"folds": 3}))) == [0]
    assert model_folder(one, 0) == one
    write_model(tmp_path / "many/fold0")
    assert list(folds(make_task(trained=str(tmp_path / "many"), split={"folds": 2}))) == [0, 1]
    assert model_folder(tmp_path / "many", 1) == tmp_path / "many/fold1"


def test_with_a_reused_model_slides_are_predicted_unless_the_sheet_says_test() -> None:
    slides = [Slide("b", "x", "p", split="test"), Slide("a", "x", "p"), Slide("c", "x", "q", split="train")]
    found = assign_unfitted(slides, folds=2)
    assert [(a.fold, a.slide_id, a.role) for a in found if a.fold == 1] == [
        (1, "a", "predict"),
        (1, "b", "test"),
        (1, "c", "predict"),
    ]


def sheet_config(tmp_path: Path, rows: str, **task: object):
    sheet = tmp_path / "slides.tsv"
    sheet.write_text(rows)
    target = {"source": "sheet", "column": "grade", "classes": ["low", "high"]}
    raw = {"grid": "x20", "target": target, "split": {"stratify": ["ward"]}, **task}
    return sheet, parse_config({"tasks": {"t": raw}})


def test_slides_to_predict_need_no_labels(tmp_path: Path) -> None:
    rows = "slide_id\tpath\tpatient_id\tsplit\nn\tn.svs\tp\tpredict\n"
    slides = read_sheet(*sheet_config(tmp_path, rows), check_files=False)
    assert slides["n"].labels == {}
    slides = read_sheet(*sheet_config(tmp_path, rows.replace("predict", "test"), trained="m"), check_files=False)
    assert slides["n"].split == "test"


def test_regions_to_explain_may_only_name_slides_of_the_sheet(tmp_path: Path) -> None:
    rows = "slide_id\tpath\tpatient_id\tsplit\nn\tn.svs\tp\tpredict\n"
    sheet, config = sheet_config(tmp_path, rows)
    elsewhere = config.explain.model_copy(update={"regions": [("old", 0, 0, 9, 9)]})
    config = config.model_copy(update={"explain": elsewhere})
    assert list(read_sheet(sheet, config, check_files=False)) == ["n"]
    sheet.write_text("slide_id\tpath\tpatient_id\tsplit\tgrade\tward\nn\tn.svs\tp\ttest\tlow\tw\n")
    with pytest.raises(ConfigError, match=r"explain.regions names slide 'old'"):
        read_sheet(sheet, config, check_files=False)


def test_slides_to_train_on_need_labels(tmp_path: Path) -> None:
    rows = "slide_id\tpath\tpatient_id\tsplit\nn\tn.svs\tp\tpredict\no\to.svs\tq\t\n"
    with pytest.raises(ConfigError, match=r"column 'grade' is missing(.|\n)*column 'ward' is missing"):
        read_sheet(*sheet_config(tmp_path, rows), check_files=False)


def test_a_sheet_with_only_slides_to_predict_has_no_slides_to_train_on() -> None:
    found = assign_task([Slide("a", "x", "p", split="predict")], make_task(), seed=0, name="t")
    assert [a.role for a in found] == ["predict"]
