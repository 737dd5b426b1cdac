"""Which slides a plan with cascades leaves out: all unchanged ones, and none if a model or thresholds may change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from histomake.cohort.sheet import Slide
from histomake.config import parse_config
from histomake.planning import last_run
from histomake.planning.last_run import LastRun
from histomake.planning.plan import make_plan
from histomake.planning.unchanged import PlannedFiles
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROLES = {"A": "train", "B": "val", "C": "test", "D": "test", "E": "predict", "F": "predict"}
FITTED = {"A", "B"}
CONFIG = {
    "annotations": {"classes": {"tumour": "tumour", "stroma": "stroma"}},
    "grids": {"x5": {"mpp": 2.0}, "x10": {"mpp": 1.0}},
    "tasks": {
        name: {"grid": grid, "target": {"source": "annotation", "classes": ["tumour", "stroma"]}}
        for name, grid in (("coarse", "x5"), ("fine", "x10"))
    },
    "cascades": {"both": {"class_name": "tumour", "stages": ["coarse", "fine"]}},
    "radhical": {"nuclei": {"scales": [1.0, 0.25]}},
}
PATIENTS = {
    "grids": {"x10": {"mpp": 1.0}},
    "encoders": {"small": {"grid": "x10", "name": "resnet10t", "weights": False, "size": 64}},
    "tasks": {
        "grade": {
            **{"kind": "regression", "level": "patient", "grid": "x10", "features": "small"},
            "target": {"source": "sheet", "column": "grade"},
            "pooling": {"name": "additive"},
        }
    },
}
SHARED = (
    "models/coarse/fold0/model.safetensors",
    "cascades/both/fold0.thresholds.json",
    "radhical/nuclei/thresholds.json",
    "radhical/nuclei/level2/model.safetensors",
)
"""Files below the results from which the outputs of all slides are made."""


class Prints:
    """Fingerprints that are given."""

    def __init__(self, of: dict[str, str]) -> None:
        self._of = of

    def of(self, path: str) -> str:
        return self._of.get(path, path)


@pytest.fixture
def history(tmp_path, monkeypatch):
    """Makes the comparison with the last run of a cohort whose slides in ``edited`` have other bytes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(last_run, "workflow_digest", lambda plan, root: str(plan.config.dump()))
    for path in [*SHARED, *(f"pages/{slide}.html" for slide in ROLES)]:
        write(path)

    def make(edited: set[str] = frozenset(), roles: dict[str, str] = ROLES, software: Sequence[str] = (), **more: Any):
        slides = {s: Slide(s, f"{s}.svs", f"patient-{s}", annotation=f"{s}.png", split=r) for s, r in roles.items()}
        prints = Prints({f"{slide}.svs": "other" for slide in edited})
        plan = make_plan(parse_config(CONFIG | more), slides)
        return LastRun(plan, prints, tissue_model=[], root=Path(), deployment=software)

    return make


def page(slide: str) -> str:
    return f"results/pages/{slide}.html"


def write(path: str, text: str = "as it was left") -> None:
    target = Path("results") / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def remember(run: LastRun) -> None:
    run.remember(PlannedFiles({slide: [page(slide)] for slide in ROLES}, []), without=())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(sorted(ROLES))), st.sets(st.sampled_from(sorted(ROLES))))
def test_slides_are_left_out_unless_they_or_what_was_learned_changed(history, edited, lost):
    for slide in ROLES:
        write(f"pages/{slide}.html")
    remember(history())
    for slide in lost:
        Path(page(slide)).unlink()
    changed = edited | lost
    expected = set() if changed & FITTED else set(ROLES) - changed
    assert history(edited).unchanged() == expected


@pytest.mark.parametrize("path", SHARED)
def test_no_slide_is_left_out_after_a_change_of_a_model_or_of_thresholds(history, path):
    remember(history())
    write(path, "another model")
    assert history().unchanged() == frozenset()


def test_no_slide_is_left_out_if_jobs_get_their_software_in_another_way(history):
    remember(history())
    assert history(software=["CONDA"]).unchanged() == frozenset()
    assert (
        history(containers={"learning": "docker://registry.example/learning@sha256:" + "0" * 64}).unchanged() == set()
    )


def test_a_new_slide_to_predict_leaves_all_others_out(history):
    remember(history())
    assert history(roles={**ROLES, "G": "predict"}).unchanged() == set(ROLES)


def test_no_slide_is_left_out_if_a_new_one_is_to_learn_from(history):
    remember(history())
    assert history(roles={**ROLES, "G": "train"}).unchanged() == frozenset()


def test_a_changed_slide_is_planned_with_the_other_slides_of_its_patient_if_they_are_one_bag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(last_run, "workflow_digest", lambda plan, root: "")
    config = parse_config(PATIENTS)

    def compared(slides: str, edited: str = "") -> LastRun:
        rows = {
            s: Slide(s, f"{s}.svs", f"patient-{s[0]}", split="predict", labels={"grade": "1"}) for s in slides.split()
        }
        return LastRun(make_plan(config, rows), Prints({f"{edited}.svs": "other"}), tissue_model=[], root=Path())

    outputs = {slide: [page(slide)] for slide in ("A1", "A2", "B1", "B2", "C1")}
    for slide in outputs:
        write(f"pages/{slide}.html")
    compared("A1 A2 B1 B2 C1").remember(PlannedFiles(outputs, []), without=())
    assert compared("A1 A2 B1 B2 C1", edited="A1").unchanged() == {"B1", "B2", "C1"}
    assert compared("A1 A2 B1 B2 C1 C2").unchanged() == {"A1", "A2", "B1", "B2"}
    assert compared("A1 A2 B1 C1").unchanged() == {"A1", "A2", "C1"}
    Path(page("B2")).unlink()
    assert compared("A1 A2 B1 B2 C1").unchanged() == {"A1", "A2", "C1"}
