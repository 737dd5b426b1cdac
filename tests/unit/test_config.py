"""What the configuration promises: unknown or contradictory keys are all named before anything runs."""

import runpy
from pathlib import Path

import jsonschema
import pytest
import yaml
from histomake.base.errors import ConfigError
from histomake.config import Config, parse_config
from histomake.config.docs import SCHEMA, schema, with_tables

ROOT = Path(__file__).parents[2]


def test_every_wrong_key_is_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_config({"tisue": {}, "convert": {"quality": 400}, "grids": {"x20": {"mpp": -1}}})
    message = str(caught.value)
    assert "3 problem(s)" in message
    assert "tisue" in message
    assert "convert.quality" in message
    assert "grids.x20.mpp" in message


def test_a_task_must_name_an_existing_grid_and_classes():
    with pytest.raises(ConfigError, match=r"'x40' is not under grids .*'tumour' is no value of annotations.classes"):
        parse_config({"tasks": {"t": {"grid": "x40", "target": {"classes": ["tumour", "skin"]}}}})


def test_key_order_does_not_change_a_dump():
    one = parse_config({"annotations": {"classes": {"A": "a", "B": "b"}}, "seed": 1})
    other = parse_config({"seed": 1, "annotations": {"classes": {"B": "b", "A": "a"}}})
    assert repr(one.annotations.dump()) == repr(other.annotations.dump())


def test_training_does_not_depend_on_prediction_or_split_settings():
    raw = {"tasks": {"t": {"grid": "x20", "target": {"source": "sheet", "column": "label", "classes": ["a", "b"]}}}}
    plain = parse_config(raw).tasks["t"]
    raw["tasks"]["t"] |= {"predict": {"batch": 7}, "split": {"test": 0.5}}
    assert parse_config(raw).tasks["t"].fitting() == plain.fitting()


def test_every_key_has_a_description():
    pending, silent = [Config], []
    while pending:
        section = pending.pop()
        for name, field in section.model_fields.items():
            if not field.description:
                silent.append(f"{section.__name__}.{name}")
            pending += [a for a in (field.annotation,) if isinstance(a, type) and hasattr(a, "model_fields")]
    assert not silent


def test_the_committed_schema_and_key_tables_are_the_generated_ones():
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
def test_the_schema_accepts_every_configuration_here(path):
    jsonschema.validate(yaml.safe_load(path.read_text()), yaml.safe_load(schema()))


def test_the_conda_environments_are_made_from_the_lock():
    generated = runpy.run_path(str(ROOT / "envs" / "generate.py"))["environments"]()
    for name, content in generated.items():
        assert (ROOT / "envs" / name).read_text() == content, "run `make envs`"


def test_the_lock_names_no_index():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("-")]
