"""The model card of a task: what is known is stated, and what is not is said to be unknown."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from histomake.base.errors import ConfigError
from histomake.base.kinds import Kind
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.leakage import LeakageRecord
from histomake.base.records.metrics import LevelMetrics
from histomake.base.tripod import ITEMS
from histomake.cohort.sheet import read_sheet
from histomake.config import Task, parse_config
from histomake.config.kinds import ACCEPTED
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.planning.outputs import Outputs
from histomake.planning.plan import make_plan
from histomake.report.model_card import model_card
from histomake.report.tripod import NOT_KNOWN, DescribedTask, Planned, known_items
from msgspec.structs import replace

from tests import sample_records

SETTINGS = {"grid": "x10", "target": {"classes": ["skin", "nuclei"]}}
PLANNED = [Planned(0, "train", 6, 5, 2, 0), Planned(0, "val", 2, 2, 1, 0), Planned(0, "test", 4, 4, 2, 0)]


def cohort_slide(role: str, number: int) -> CohortSlide:
    return CohortSlide(role=role, slide_id=f"S{number}", patient_id=f"P{number}", labels={}, digests=[])


def described(**changes) -> DescribedTask:
    task = Task.model_validate(SETTINGS | changes.pop("settings", {}))
    auroc = {"all": {"auroc": sample_records.metric(0.91, 0.85, 0.97)}}
    level = LevelMetrics(count=1200, patients=4, metrics=auroc, per_class={"skin": 900, "nuclei": 300})
    values = {
        "name": "tissue",
        "task": task,
        "cards": {0: sample_records.model_card(threshold=0.4, weights_sha256="ab" * 32)},
        "cohorts": [[cohort_slide("train", 1), cohort_slide("train", 2), cohort_slide("val", 3)]],
        "metrics": sample_records.metrics({"patch": level}, patients=4),
        "leakage": LeakageRecord(slides=["S1", "S2", "S3"], models=[], leaks=[]),
        "planned": PLANNED,
    }
    return DescribedTask(**values | changes)


def answers(page: str) -> dict[str, str]:
    """The answer to each item, without tags."""
    table = page.split('id="tripod-ai"')[1]
    rows = re.findall(r"<tr>(<td.*?)</tr>", table, re.DOTALL)
    cells = [
        [re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", r, re.S)] for r in rows
    ]
    return {row[0]: row[4] for row in cells}


def test_the_items_are_the_27_of_tripod_ai_with_their_52_parts():
    parts = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
    expected: list[str] = []
    for number in range(1, 28):
        expected += [f"{number}{part}" for part in "abcdefg"[: parts[number]]] if number in parts else [str(number)]
    assert list(ITEMS) == expected
    assert len(ITEMS) == 52


def test_every_item_has_an_answer_and_what_nobody_knows_is_said_to_be_unknown():
    found = answers(model_card(described()))
    assert list(found) == list(ITEMS)
    assert all(found.values())
    for number in ("2", "3a", "3b", "5b", "6b", "8b", "17", "18a", "20b", "26"):
        assert found[number] == NOT_KNOWN, number


def test_what_the_results_say_is_stated():
    found = answers(model_card(described()))
    for number, text in {
        "5a": "fold 0, train: 6 slides of 5 patients",
        "6a": "Up to 2 sites",
        "7": "128 px at 1 µm/px",
        "8a": "annotations cover at least 50%",
        "12c": "1,000 weights, seed 7",
        "15": "fold 0: 0.4",
        "20a": "4 test slides of 4 patients were predicted. Tested patches: 900 skin, 300 nuclei",
        "21": "fold 0: 2 train slides of 2 patients, 1 val slides of 1 patients",
        "22": "Fold 0: sha256 abababababababab",
    }.items():
        assert text in found[number], (number, found[number])


def test_texts_of_the_configuration_are_shown_before_what_is_known_and_are_escaped():
    card = {
        "intended_use": "For <pathologists>.",
        "limits": "Not for cytology.",
        "items": {"17": "Approved.", "5a": "A biobank."},
    }
    page = model_card(described(settings={"card": card}))
    found = answers(page)
    assert found["3b"] == "For &lt;pathologists&gt;."
    assert (found["26"], found["17"]) == ("Not for cytology.", "Approved.")
    assert found["5a"].startswith("A biobank.")
    assert "6 slides of 5 patients" in found["5a"]
    assert "Set" not in page.split('id="intended-use"')[1].split("<h2")[0]


def test_without_texts_the_page_names_the_keys_to_set():
    page = model_card(described())
    assert "<code>tasks.tissue.card.intended_use</code>" in page
    assert "<code>tasks.tissue.card.limits</code>" in page


def test_limits_that_follow_from_the_results_are_stated():
    page = model_card(described())
    assert "Only 4 test patients" in page
    assert "external validation only if" in page
    assert "No two sites are known" not in page
    assert "No two sites are known" in model_card(described(planned=[Planned(0, "train", 6, 5, 0, 0)]))


@pytest.mark.parametrize(
    ("given", "text", "absent"),
    [
        (0, "25% tested", "sheet"),
        (3, "Roles that the sheet gives are kept", "column split"),
        (12, "column split", "25%"),
    ],
)
def test_the_split_says_who_assigned_the_roles(given, text, absent):
    planned = [one._replace(given=round(one.slides * given / 12)) for one in PLANNED]
    found = answers(model_card(described(planned=planned)))["12a"]
    assert text in found
    assert absent not in found


def test_a_model_without_test_slides_has_no_performance():
    page = model_card(described(metrics=None))
    assert "the performance is not known" in page
    found = answers(page)
    assert found["23a"] == NOT_KNOWN
    assert "no test slides" in found["4"]


def test_a_model_that_was_trained_earlier_is_described_as_such():
    page = model_card(described(settings={"trained": "models/x"}, cohorts=[]))
    found = answers(page)
    assert "Trained earlier" in found["12c"]
    assert "trained earlier" in found["4"]
    assert found["16"] == NOT_KNOWN


def test_no_patient_and_no_slide_is_named():
    level = described().metrics.levels["patch"]
    refused = replace(level, count=0, metrics={}, refused="1 test patient(s) have slides of several classes")
    record = sample_records.metrics({"patch": level, "patient": refused}, patients_of_several_classes=["SECRET"])
    lost = sample_records.lost("S9", stage="train")
    cards = {0: sample_records.model_card(left_out=[lost])}
    page = model_card(described(metrics=record, cards=cards))
    assert "Patients are not evaluated" in page
    assert "1 damaged slide(s) were left out" in page
    for name in ("SECRET", "S9", "S1", "P1"):
        assert not re.search(rf"\b{name}\b", page), name


@pytest.mark.parametrize("kind", Kind)
def test_a_task_of_every_kind_has_a_card(kind):
    example = {"grid": "x10", "kind": kind, **ACCEPTED[kind].example}
    task = Task.model_validate(example)
    names = task.target.classes or ["value"]
    cards = {0: sample_records.model_card(kind, class_names=names)}
    page = model_card(described(settings=example, cards=cards, metrics=None, cohorts=[]))
    assert str(kind) in page
    assert all(answers(page).values())


def test_subgroups_and_their_heterogeneity_are_part_of_the_card():
    rng = np.random.default_rng(0)
    predictions = []
    for i in range(40):
        label = ["skin", "nuclei"][i % 2]
        score = float(np.clip(rng.normal(0.3 + 0.4 * (i % 2), 0.2), 0, 1))
        columns = {"score_skin": [1 - score], "score_nuclei": [score], "tissue": [1.0]}
        table = pa.table(columns | {"label": pa.array([label]).dictionary_encode()})
        predictions.append(SlidePrediction(f"s{i}", f"p{i}", 0, table))
    target = Task.model_validate(SETTINGS).target
    told = {"aggregate": "mean", "seed": 0, "bootstraps": 50, "subgroups": {"site": ["north", "south"] * 20}}
    record = evaluate(predictions, kind=Kind.CLASSIFICATION, target=target, **told).record
    page = model_card(described(metrics=record, settings={"evaluate": {"subgroups": ["site"]}}))
    assert "Patches by site" in page
    found = answers(page)
    assert found["12d"] == "Metrics by site with Cochran's Q test and I².".replace("'", "&#x27;")
    assert found["23b"] == "See Subgroups."


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"items": {17: "x"}}, "should be a valid string"),
        ({"items": {"99": "x"}}, "TRIPOD.AI has no item 99"),
        ({"items": {"3b": "x"}}, "item 3b: use the key intended_use"),
        ({"items": {"26": "x"}}, "item 26: use the key limits"),
        ({"items": {"17": " "}}, "item 17 has no text"),
        ({"purpose": "x"}, "purpose"),
    ],
)
def test_texts_for_no_item_are_refused(card, message):
    raw = {"annotations": {"classes": {"skin": "skin", "nuclei": "nuclei"}}, "grids": {"x10": {"mpp": 1.0}}}
    with pytest.raises(ConfigError, match=message):
        parse_config(raw | {"tasks": {"t": SETTINGS | {"card": card}}})


def test_the_card_changes_neither_a_model_nor_the_settings_of_running_jobs():
    plain, told = (Task.model_validate(SETTINGS | more) for more in ({}, {"card": {"limits": "None known."}}))
    assert plain.fitting() == told.fitting()
    assert plain.described() != told.described()
    slower = Task.model_validate(SETTINGS | {"predict": {"batch": 7, "overlap": 0.5}, "train": {"workers": 3}})
    assert slower.described() == plain.described()
    assert Task.model_validate(told.described()).card == told.card


def test_a_new_slide_to_predict_changes_no_card(tmp_path):
    raw = {"annotations": {"classes": {"skin": "skin", "nuclei": "nuclei"}}, "grids": {"x10": {"mpp": 1.0}}}
    config = parse_config(raw | {"tasks": {"t": SETTINGS}})
    header = "slide_id path patient_id site split"
    rows = ["a a.svs p1 x train", "b b.svs p1 y train", "c c.svs p2  val", "d d.svs p3 x test"]
    plans = []
    for more in ([], ["e e.svs p4 z predict"]):
        path = tmp_path / "slides.tsv"
        path.write_text("\n".join([header, *rows, *more]).replace(" ", "\t"))
        plans.append(make_plan(config, read_sheet(path, config, check_files=False)))
    first, second = (plan.planned_cohort("t") for plan in plans)
    assert first == second == [[0, "train", 2, 1, 2, 2], [0, "val", 1, 1, 0, 1], [0, "test", 1, 1, 1, 1]]
    assert plans[0].layout.front_page in Outputs(plans[0]).all()


def test_known_items_are_items():
    assert set(known_items(described())) <= set(ITEMS)
