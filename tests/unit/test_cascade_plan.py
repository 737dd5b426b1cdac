"""Which slides a cascade of patch classifiers predicts, and stages of different patients, which are refused."""

from __future__ import annotations

import pytest
from histomake.base.errors import ConfigError
from histomake.cohort.sheet import Slide
from histomake.config import parse_config
from histomake.planning.cascade_plan import CascadePlan
from histomake.planning.outputs import Outputs
from histomake.planning.plan import make_plan

ROLES = {"A": "train", "B": "val", "C": "test", "D": "predict", "E": "predict"}
GRIDS = {"x5": {"mpp": 2.0, "size": 128}, "x10": {"mpp": 1.0, "size": 128}}
STAGES = ["coarse", "fine"]


@pytest.fixture
def cascades(tmp_path, monkeypatch):
    """Makes the plan of a cascade of two tasks with splits."""
    monkeypatch.chdir(tmp_path)

    def make(coarse, fine, roles=ROLES, predict=None, thresholds=None, other=None):
        target = {"source": "annotation", "classes": ["tumour", "stroma"]}
        tasks = {
            "coarse": {"grid": "x5", "target": target, "split": coarse, "predict": predict or {}},
            "fine": {"grid": "x10", "target": target, "split": fine, "predict": predict or {}},
        }
        tasks |= {"other": {"grid": "x5", "target": target, **other}} if other else {}
        config = parse_config(
            {
                "annotations": {"classes": {"tumour": "tumour", "stroma": "stroma"}},
                "grids": GRIDS,
                "tasks": tasks,
                "cascades": {"both": {"class_name": "tumour", "stages": STAGES, "thresholds": thresholds}},
            }
        )
        slides = {name: Slide(name, f"{name}.svs", f"patient-{name}", split=role) for name, role in roles.items()}
        return CascadePlan(make_plan(config, slides))

    return make


def test_a_cascade_runs_on_slides_that_no_stage_was_made_with(cascades):
    assert cascades({}, {}).predicted("both") == [(0, "C"), (0, "D"), (0, "E")]


def test_stages_that_share_patients_fit_together(cascades):
    found = cascades({"folds": 3}, {"like": "coarse"}, roles={f"s{i:02}": None for i in range(12)})
    assert found.misfits() == []
    assert sorted(slide for _, slide in found.predicted("both")) == [f"s{i:02}" for i in range(12)]


def test_stages_of_different_patients_are_refused_with_the_slides_and_their_roles(cascades):
    found = cascades({}, {}, roles={f"s{i:02}": None for i in range(12)})
    roles = {task: {a.slide_id: a.role for a in found.plan.roles[task]} for task in ("coarse", "fine")}
    differing = [s for s in roles["fine"] if roles["coarse"][s] != roles["fine"][s]]
    (problem,) = found.misfits()
    assert f"cascade both: {len(differing)} slide(s) have different roles" in problem
    first = differing[0]
    assert f"{first} (coarse: {roles['coarse'][first]}, fine: {roles['fine'][first]})" in problem
    assert "tasks.fine.split: {like: coarse}" in problem


def test_stages_with_different_numbers_of_folds_are_refused(cascades):
    found = cascades({"folds": 3}, {}, roles={f"s{i:02}": None for i in range(12)})
    assert "coarse has 3, fine has 1" in found.misfits()[0]


def test_the_predictions_of_a_slide_are_known_by_cascade_and_fold(cascades):
    found = cascades({"folds": 3}, {"like": "coarse"}, roles={f"s{i:02}": None for i in range(12)})
    for fold, slide in found.predicted("both"):
        assert found.on_page(slide) == [["both", fold]]
    assert found.on_page("s99") == []
    assert found.slides == [f"s{i:02}" for i in range(12)]


def test_slides_that_a_task_leaves_to_the_cascade_are_predicted_by_it_and_have_a_page(cascades):
    found = cascades({}, {}, predict={"roles": ["test"]})
    outputs = Outputs(found.plan)
    assert [path.stem for path in outputs.predictions("fine")] == ["C"]
    assert [path.stem for path in outputs.predictions("fine", "predict")] == []
    assert [path.stem for path in found.to_predict()] == ["D", "E"]
    assert outputs.paged_slides == ["C", "D", "E"]
    assert outputs.shown_on_page("D")["stages"] == [found.plan.layout.patch_cascade("both").levels_view(0, "D")]


def test_report_and_lineage_depend_on_the_predictions_of_a_cascade_through_the_catalog_alone(cascades):
    found = cascades({}, {})
    files = found.plan.layout.patch_cascade("both")
    assert Outputs(found.plan).done_by_cascades() == [files.metrics]
    assert found.tabled("both") == [files.prediction(*place) for place in found.predicted("both")]
    assert files.prediction(0, "D") in found.tabled("both")


def test_the_validation_slides_of_a_fold_are_predicted_by_all_stages_for_the_search(cascades):
    found = cascades({}, {})
    layout = found.plan.layout
    assert found.validation_predictions("both", "0") == [layout.prediction(t, 0, "B") for t in ("coarse", "fine")]


def test_outputs_of_unchanged_slides_are_not_requested(cascades):
    names = {path.name for path in cascades({}, {}).outputs({"D"})}
    assert names == {*(f"{slide}.{end}" for slide in "CE" for end in ("parquet", "json", "png")), "metrics.json"}


def test_a_cascade_without_validation_slides_needs_given_thresholds(cascades):
    roles = {"C": "predict", "D": "predict"}
    assert "no validation slide in fold 0" in cascades({}, {}, roles=roles).misfits()[0]
    given = {"lower": [0.1], "upper": [0.9]}
    assert cascades({}, {}, roles=roles, thresholds=given).misfits() == []


def test_only_a_stage_can_leave_slides_to_predict_to_a_cascade(cascades):
    with pytest.raises(ConfigError, match=r"tasks\.other\.predict\.roles: add predict; only a stage of a cascade"):
        cascades({}, {}, other={"predict": {"roles": ["test"]}})
