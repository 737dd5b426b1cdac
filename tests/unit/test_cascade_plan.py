"""Which slides a cascade of patch classifiers predicts, and stages of different patients, which are refused."""

from __future__ import annotations

import pytest
from histomake.cohort.sheet import Slide
from histomake.config import parse_config
from histomake.planning.cascade_plan import CascadePlan
from histomake.planning.plan import make_plan

ROLES = {"A": "train", "B": "val", "C": "test", "D": "predict", "E": "predict"}
GRIDS = {"x5": {"mpp": 2.0, "size": 128}, "x10": {"mpp": 1.0, "size": 128}}
STAGES = ["coarse", "fine"]


@pytest.fixture
def cascades(tmp_path, monkeypatch):
    """Makes the plan of a cascade of two tasks with splits."""
    monkeypatch.chdir(tmp_path)

    def make(coarse, fine, roles=ROLES):
        target = {"source": "annotation", "classes": ["tumour", "stroma"]}
        tasks = {
            "coarse": {"grid": "x5", "target": target, "split": coarse},
            "fine": {"grid": "x10", "target": target, "split": fine},
        }
        config = parse_config(
            {
                "annotations": {"classes": {"tumour": "tumour", "stroma": "stroma"}},
                "grids": GRIDS,
                "tasks": tasks,
                "cascades": {"both": {"class_name": "tumour", "stages": STAGES}},
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
