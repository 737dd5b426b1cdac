"""Tests of the configuration: unknown and contradictory keys are all named before any job runs."""

import runpy
from contextlib import nullcontext
from pathlib import Path

import jsonschema
import pytest
import yaml
from histomake.base.errors import ConfigError
from histomake.base.kinds import Kind
from histomake.config import Config, Task, parse_config
from histomake.config.docs import SCHEMA, schema, with_tables
from histomake.config.kinds import ACCEPTED

ROOT = Path(__file__).parents[2]


def test_all_invalid_keys_are_listed_together():
    with pytest.raises(ConfigError) as caught:
        parse_config({"tisue": {}, "convert": {"quality": 400}, "grids": {"x20": {"mpp": -1}}})
    message = str(caught.value)
    assert "3 problem(s)" in message
    assert "tisue" in message
    assert "convert.quality" in message
    assert "grids.x20.mpp" in message


def test_a_task_must_name_an_existing_grid_and_classes():
    with pytest.raises(ConfigError, match=r"'x40' is not under grids .*'tumour' is not a value of annotations.classes"):
        parse_config({"tasks": {"t": {"grid": "x40", "target": {"classes": ["tumour", "skin"]}}}})


def test_key_order_does_not_change_a_dump():
    one = parse_config({"annotations": {"classes": {"A": "a", "B": "b"}}, "seed": 1})
    other = parse_config({"seed": 1, "annotations": {"classes": {"B": "b", "A": "a"}}})
    assert repr(one.annotations.dump()) == repr(other.annotations.dump())


def test_training_does_not_depend_on_prediction_split_or_evaluation_settings():
    raw = {"tasks": {"t": {"grid": "x20", "target": {"source": "sheet", "column": "label", "classes": ["a", "b"]}}}}
    plain = parse_config(raw).tasks["t"]
    raw["tasks"]["t"] |= {"predict": {"batch": 7}, "split": {"test": 0.5}, "evaluate": {"prevalences": [0.1]}}
    assert parse_config(raw).tasks["t"].fitting() == plain.fitting()


def test_several_labels_are_a_kind_of_task():
    raw = {"grid": "x20", "kind": "multi_label", "target": {"source": "sheet", "column": "label", "classes": ["a"]}}
    assert parse_config({"tasks": {"t": raw}}).tasks["t"].kind is Kind.MULTI_LABEL


@pytest.mark.parametrize("several", [True, False])
def test_the_multi_label_key_of_version_0_1_is_refused_with_its_replacement(several):
    raw = {"grid": "x20", "target": {"source": "sheet", "column": "l", "classes": ["a", "b"], "multi_label": several}}
    with pytest.raises(ConfigError, match=r"tasks\.t\.target: .*by kind: multi_label"):
        parse_config({"tasks": {"t": raw}})


def shares(given, kind="classification", key="shares"):
    target = {"classes": ["a", "b", "c"]}
    task = {"grid": "x20", "kind": kind, "target": target, "train": {key: given}}
    return parse_config({"annotations": {"classes": {n: n for n in "abc"}}, "tasks": {"t": task}}).tasks["t"].train


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"a": 0.3}, "classification"),
        ({"a": 0.3, "b": 0.7, "c": 0}, "classification"),
        ({"a": 0.333, "b": 0.333, "c": 0.333}, "classification"),
        ({"a": 0.2, "b": 0.2, "c": 0.2}, "multi_label"),
        ({"a": 0.2, "none": 0.5}, "multi_label"),
        ({"a": 0}, "classification"),
    ],
)
def test_shares_may_be_complete_or_leave_a_rest_for_the_others(given, kind):
    assert shares(given, kind).shares == given


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"a": 0.9, "b": 0.9}, "classification", "the sum is 1.8, more than 1"),
        ({"a": 0, "b": 0, "c": 0}, "classification", "sum of the shares of all classes is 0, not 1"),
        ({"a": 0.5, "b": 0.2, "c": 0.2}, "classification", "sum of the shares of all classes is 0.9, not 1"),
        ({"a": 1.0}, "classification", "nothing is left for b, c; lower the other shares, or set b: 0, c: 0"),
        ({"a": 0.5, "b": 0.3, "c": 0.2}, "multi_label", "nothing is left for none"),
        ({"x": 0.5}, "classification", "the task has no class x"),
        ({"none": 0.5}, "classification", "the task has no class none"),
        ({"a": -0.1}, "classification", "greater than or equal to 0"),
    ],
)
def test_shares_that_do_not_say_how_often_classes_are_drawn_are_refused(given, kind, message):
    with pytest.raises(ConfigError, match=message):
        shares(given, kind)


def test_factors_of_patches_without_a_class_are_refused_where_none_are_drawn():
    assert shares({"none": 2.0}, "multi_label", "factors").factors == {"none": 2.0}
    with pytest.raises(ConfigError, match=r"train\.factors: the task has no class none"):
        shares({"none": 2.0}, key="factors")


def test_classes_to_contain_must_be_known():
    assert shares({"a": 0.2}, key="containing").containing == {"a": 0.2}
    with pytest.raises(ConfigError, match=r"train\.containing: 'x' is not a value of annotations\.classes"):
        shares({"x": 0.2}, key="containing")


CASCADE = {"class_name": "a", "stages": ["multi_label", "multi_label_fine"]}


def cascade_tasks():
    """A configuration with tasks of two kinds, each on a coarse and on a fine grid."""
    tasks = {
        f"{kind}{end}": {"grid": grid, "kind": kind, "target": {"classes": ["a", "b"], "source": source}}
        for kind, source in (("multi_label", "annotation"), ("segmentation", "mask"))
        for grid, end in (("coarse", ""), ("x20", "_fine"))
    }
    grids = {"coarse": {"mpp": 2.0}, "x20": {"mpp": 0.5}}
    return {"annotations": {"classes": {"a": "a", "b": "b"}}, "tasks": tasks, "grids": grids}


def test_only_tasks_that_classify_patches_can_be_stages_of_a_cascade():
    raw = cascade_tasks()
    for kind, fits in (("multi_label", True), ("segmentation", False)):
        cascades = {"c": {"class_name": "a", "stages": [kind, f"{kind}_fine"]}}
        with nullcontext() if fits else pytest.raises(ConfigError, match=f"'{kind}' is not a task that classifies"):
            parse_config(raw | {"cascades": cascades})


@pytest.mark.parametrize(
    ("cascade", "problem"),
    [
        ({"stages": ["multi_label_fine", "multi_label"]}, "grid coarse has 2 µm/px after 0.5 of grid x20; list the co"),
        ({"stages": ["multi_label", "multi_label"]}, "a task is listed twice"),
        ({"class_name": "c"}, "has the class 'c'"),
        ({"thresholds": {"lower": [0.9], "upper": [0.1]}}, r"thresholds cross: lower 0\.9 of stage multi_label"),
        ({"thresholds": {"lower": [], "upper": []}}, r"need 1 value\(s\), none for the finest stage"),
        ({"search": {"max_loss": 1.5}}, "less than or equal to 1"),
    ],
)
def test_a_cascade_that_makes_no_sense_is_refused(cascade, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_config(cascade_tasks() | {"cascades": {"c": {**CASCADE, **cascade}}})


def test_keys_of_earlier_cascades_are_refused_with_the_new_name():
    with pytest.raises(ConfigError, match="patch_cascades is now cascades"):
        parse_config({"patch_cascades": {}})
    with pytest.raises(ConfigError, match="max_f_loss is now max_loss"):
        parse_config({"radhical": {"nuclei": {"search": {"max_f_loss": 0.1}}}})


SEGMENTATION = {"grid": "x20", "kind": "segmentation", "target": {"classes": ["a", "c"], "source": "mask"}}


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ({"source": "radhical:other"}, r"cells\.c\.source: there is no radhical:other that segments \(nuclei\)"),
        ({"source": "task:labels"}, r"there is no task:labels that segments \(map\)"),
        ({"source": "task:map", "classes": ["b"]}, r"cells\.c\.classes: 'b' is not a class of task:map"),
        ({"source": "annotation", "classes": ["x"]}, r"'x' is not a class of annotation"),
        ({"source": "radhical:nuclei", "classes": ["a"]}, r"'a' is not a class of radhical:nuclei"),
        ({"source": "stardist"}, r"cells\.c\.source"),
        ({"source": "annotation", "neighbours_um": [50, 25]}, r"ascending"),
    ],
)
def test_cells_of_an_unknown_source_or_class_are_refused(cells, problem):
    raw = {
        "annotations": {"classes": {"a": "a", "b": "b", "c": "c"}},
        "tasks": {
            "map": SEGMENTATION,
            "labels": {"grid": "x20", "target": {"classes": ["a", "c"], "source": "annotation"}},
        },
        "radhical": {"nuclei": {}},
    }
    assert parse_config(raw | {"cells": {"c": {"source": "task:map", "classes": ["a"]}}}).cells["c"].maker == "map"
    with pytest.raises(ConfigError, match=problem):
        parse_config(raw | {"cells": {"c": cells}})


@pytest.mark.parametrize("kind", Kind)
def test_the_example_of_a_kind_is_a_task(kind):
    task = Task.model_validate({"grid": "x20", "kind": kind, **ACCEPTED[kind].example})
    assert task.train.select in ACCEPTED[kind].figures


def test_every_key_has_a_description():
    pending, undescribed = [Config], []
    while pending:
        section = pending.pop()
        for name, field in section.model_fields.items():
            if not field.description:
                undescribed.append(f"{section.__name__}.{name}")
            pending += [a for a in (field.annotation,) if isinstance(a, type) and hasattr(a, "model_fields")]
    assert not undescribed


def test_the_committed_schema_and_key_tables_are_up_to_date():
    folder = ROOT / "config"
    assert (folder / SCHEMA).read_text() == schema(), "run `make docs`"
    readme = (folder / "README.md").read_text()
    assert with_tables(readme) == readme, "run `make docs`"


CONFIGURATIONS = [
    path
    for folder in ("config", ".test/config", "scripts/histomake/cli/project")
    for path in sorted((ROOT / folder).rglob("*.yaml"))
    if path.parent.name != "schemas"
]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_schema_accepts_all_committed_configurations(path):
    jsonschema.validate(yaml.safe_load(path.read_text()), yaml.safe_load(schema()))


def test_the_conda_environments_are_generated_from_the_lock():
    generated = runpy.run_path(str(ROOT / "envs" / "generate.py"))["environments"]()
    for name, content in generated.items():
        assert (ROOT / "envs" / name).read_text() == content, "run `make envs`"


def test_the_lock_contains_no_package_index():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("-")]


def split_like(**splits):
    task = {"grid": "x20", "target": {"classes": ["a"]}, "kind": "multi_label"}
    tasks = {name: {**task, **more} for name, more in splits.items()}
    return parse_config({"annotations": {"classes": {"a": "a"}}, "tasks": tasks}).tasks


def test_a_task_with_the_roles_of_another_one_has_its_folds():
    found = split_like(second={"split": {"like": "first"}}, first={"split": {"folds": 5, "stratify": ["site"]}})
    assert (found["second"].split.folds, found["second"].split.stratify) == (5, ["site"])
    assert (found["second"].split.like, found["first"].split.like) == ("first", None)


@pytest.mark.parametrize(
    ("splits", "problem"),
    [
        ({"second": {"split": {"like": "third"}}}, r"tasks\.second\.split\.like: third is not another task \(first\)"),
        ({"second": {"split": {"like": "second"}}}, "second is not another task"),
        (
            {"second": {"split": {"like": "first"}}, "third": {"split": {"like": "second"}}},
            "second has the roles of first; name first",
        ),
        ({"second": {"split": {"like": "first", "folds": 3}}}, "folds of split would be those of first; remove them"),
        ({"second": {"split": {"like": "first"}, "trained": "model"}}, "trained earlier divides no patients"),
    ],
)
def test_a_split_like_that_cannot_be_shared_is_refused(splits, problem):
    with pytest.raises(ConfigError, match=problem):
        split_like(first={}, **splits)
