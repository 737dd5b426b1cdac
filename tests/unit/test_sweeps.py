"""Sweeps: a task is made once per combination of values, with the patients of the task that it is made from."""

import pytest
from histomake.base.errors import ConfigError
from histomake.base.layout import Layout
from histomake.config import parse_config
from histomake.report.sweeps_section import sweeps_section

from tests import sample_records

KIND = {"grid": "x20", "target": {"source": "sheet", "column": "label", "classes": ["a", "b"]}}


def swept(values, task="kind", **others):
    return {"tasks": {"kind": KIND, **others}, "sweeps": {"rates": {"task": task, "values": values}}}


def test_every_combination_becomes_a_task():
    values = {"train.learning_rate": [0.001, 0.01], "train.batch": [8, 16]}
    config = parse_config(swept(values))
    assert list(config.tasks) == ["kind", "rates_1", "rates_2", "rates_3", "rates_4"]
    made = [
        (config.tasks[f"rates_{n}"].train.learning_rate, config.tasks[f"rates_{n}"].train.batch) for n in range(1, 5)
    ]
    assert made == [(0.001, 8), (0.001, 16), (0.01, 8), (0.01, 16)]


def test_tasks_of_a_sweep_have_the_patients_of_their_task():
    config = parse_config(swept({"train.batch": [8]}, kind=KIND | {"split": {"folds": 4}}))
    assert config.tasks["rates_1"].split.like == "kind"
    assert config.tasks["rates_1"].split.folds == 4


def test_the_patients_are_those_of_the_task_that_the_swept_one_names():
    config = parse_config(swept({"train.batch": [8]}, "other", other=KIND | {"split": {"like": "kind"}}))
    assert config.tasks["rates_1"].split.like == "kind"


def test_all_other_settings_are_those_of_the_task():
    config = parse_config(swept({"train.batch": [8]}, kind=KIND | {"train": {"steps": 77}}))
    first, base = config.tasks["rates_1"], config.tasks["kind"]
    assert first.train == base.train.model_copy(update={"batch": 8})
    assert first.target == base.target


def test_a_dumped_configuration_means_the_same():
    config = parse_config(swept({"train.batch": [8, 16]}, other=KIND | {"split": {"like": "kind"}}))
    assert parse_config(config.dump()) == config


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (swept({"train.rate": [1]}), r"sweeps\.rates\.values: train\.rate: 1: a task has no key train\.rate"),
        (swept({"train.batch.size": [1]}), r"a task has no key train\.batch\.size"),
        (swept({"train.batch": [0]}), r"sweeps\.rates\.values: train\.batch: 0: .*greater than or equal to 1"),
        (swept({"train.batch": []}), r"train\.batch: list the values"),
        (swept({"train.batch": [8, 8]}), r"train\.batch: a value is listed twice"),
        (swept({}), r"sweeps\.rates\.values"),
        (swept({"split.folds": [2, 3]}), r"the patients of a sweep stay the same"),
        (swept({"train.batch": list(range(1, 102))}), r"101 combinations are more than 100"),
        (swept({"train.batch": [8]}, "fast"), r"sweeps\.rates\.task: 'fast' is not under tasks \(kind\)"),
        (swept({"train.batch": [8]}, rates_1=KIND), r"tasks\.rates_1 would also be a task of sweeps\.rates"),
        (swept({"train.batch": [8]}, kind=KIND | {"trained": "model"}), r"kind uses models that exist"),
    ],
)
def test_a_sweep_that_cannot_be_made_is_refused(raw, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(raw)


def section(folder, metrics):
    config, layout = parse_config(swept({"train.batch": [8, 16]}, kind=KIND | {"split": {"folds": 2}})), Layout(folder)
    for task, found in metrics.items():
        for fold, loss in enumerate(found):
            path = layout.description(task, fold)
            path.parent.mkdir(parents=True)
            sample_records.model_card(metrics={"loss": loss, "auroc": None}).write(path)
    return sweeps_section(config, layout)


def test_the_report_names_the_task_of_the_lowest_validation_loss(tmp_path):
    shown = section(tmp_path, {"kind": [0.5, 0.7], "rates_1": [0.4, 0.6], "rates_2": [0.1, 0.95]})
    rows = shown.split("<tr>")[2:]
    assert ["lowest loss" in row for row in rows] == [False, True, False]
    assert [loss in row for loss, row in zip(("0.6<", "0.5<", "0.525<"), rows, strict=True)] == [True] * 3


def test_a_loss_that_is_undefined_in_one_fold_has_no_mean(tmp_path):
    shown = section(tmp_path, {"kind": [0.5, 0.7], "rates_1": [None, 0.1], "rates_2": [0.9, 0.9]})
    rows = shown.split("<tr>")[2:]
    assert ["lowest loss" in row for row in rows] == [True, False, False]
