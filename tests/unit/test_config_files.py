"""Configuration files as they are written: nothing is dropped or read otherwise than it looks, and lines are named."""

from __future__ import annotations

import pytest
from histomake.base.errors import ConfigError
from histomake.config import load_config, parse_config


@pytest.fixture
def refused(tmp_path):
    """The message with which a configuration is refused."""

    def read(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        return str(caught.value)

    return read


@pytest.fixture
def accepted(tmp_path):
    """The configuration of a text."""

    def read(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return load_config(path)

    return read


# --- keys that are given twice --------------------------------------------------------------------------------------


def test_keys_given_twice_are_named_with_both_lines(refused):
    message = refused(
        "annotations:\n  classes:\n    Tumor: tumour\n    Other: other\n    Tumor: other\n"
        "grids:\n  x20: {mpp: 0.5}\n  x20: {mpp: 1.0}\n"
    )
    assert "line 5: annotations.classes.Tumor is given twice, first in line 3" in message
    assert "line 8: grids.x20 is given twice, first in line 7" in message
    assert "2 problem(s)" in message


def test_a_task_given_twice_is_refused(refused):
    task = "  t: {grid: x20, target: {classes: [%s]}}\n"
    text = f"annotations: {{classes: {{A: a, B: b}}}}\ntasks:\n{task % 'a, b'}{task % 'b, a'}"
    assert "line 4: tasks.t is given twice, first in line 3" in refused(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed: 1\nsheet: a.tsv\nseed: 2\n", "line 3: seed is given twice, first in line 1"),
        ("annotations: {classes: {'A': a, \"A\": b}}\n", "line 1: annotations.classes.A is given twice"),
        ("explain: {regions: []}\nquality: {pen: true,\n  pen: false}\n", "line 3: quality.pen is given twice"),
        ('{"seed": 1,\n\t"seed": 2}', "line 2: seed is given twice, first in line 1"),
    ],
    ids=["top level", "quoted", "flow", "JSON with tabs"],
)
def test_repeated_keys_of_every_style_are_refused(refused, text, line):
    assert line in refused(text)


def test_equal_keys_of_different_sections_are_allowed(accepted):
    assert set(accepted("grids: {a: {mpp: 0.5}, b: {mpp: 1.0}}\n").grids) == {"a", "b"}


def test_anchors_and_merged_keys_may_be_overridden(accepted):
    config = accepted("grids:\n  a: &base {mpp: 0.5, size: 128}\n  b:\n    <<: *base\n    mpp: 1.0\n")
    assert (config.grids["b"].mpp, config.grids["b"].size) == (1.0, 128)


def test_an_alias_to_itself_does_not_hang(refused):
    assert "problem" in refused("annotations: &a {classes: *a}\n")


# --- words that YAML reads as something else ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("annotations:\n  classes: {no: other}\n", 'line 2: .*YAML reads no as false; put it in quotes: "no"'),
        ("annotations:\n  classes: {Tumor: on}\n", 'line 2: .*YAML reads on as true; put it in quotes: "on"'),
        ("annotations: {classes: {007: a}}\n", 'YAML reads 007 as the number 7; .*"007" in quotes'),
        ("annotations: {classes: {1: a}}\n", 'YAML reads 1 as the number 1; put it in quotes: "1"'),
        ("annotations: {ignore: [x,\n  off]}\n", r'line 2: annotations\.ignore\.1: .*put it in quotes: "off"'),
        ("annotations: {ignore: [1.10]}\n", 'YAML reads 1.10 as the number 1.1; put it in quotes: "1.10"'),
        ("sheet: 2024-01-02\n", 'YAML reads 2024-01-02 as a date; put it in quotes: "2024-01-02"'),
        ("annotations: {classes: {null: a}}\n", 'YAML reads null as null; put it in quotes: "null"'),
        ("tasks:\n  on: {grid: x20}\n", 'line 2: .*put it in quotes: "on"'),
    ],
)
def test_words_in_place_of_text_are_refused_with_line_and_remedy(refused, text, expected):
    with pytest.raises(AssertionError, match=f"(?s){expected}"):
        raise AssertionError(refused(text))


@pytest.mark.parametrize(
    "given", ["seed: yes", "max_quarantined: on", "quality: {blur_mpp: no}", "grids: {a: {size: on}}"]
)
def test_true_and_false_are_not_numbers(refused, given):
    """Pydantic takes true for 1: `max_quarantined: on` would have allowed to lose every slide."""
    assert "Input should be a number, not true or false. YAML reads" in refused(given)


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "true", "false"])
def test_true_and_false_are_values_of_switches_in_every_spelling(accepted, word):
    assert accepted(f"quality: {{pen: {word}}}\n").quality.pen is (word in ("yes", "on", "true"))


@pytest.mark.parametrize(
    ("text", "number"),
    [("seed: 010\n", 8), ("grids: {a: {size: 0400}}\n", 256), ("grids: {a: {mpp: 1:30}}\n", 90), ("seed: 007\n", 7)],
)
def test_numbers_that_are_not_read_as_they_look_are_refused(refused, text, number):
    assert f"as the number {number}; write {number}" in refused(text)


def test_numbers_in_usual_notations_are_read(accepted):
    config = accepted("seed: 1_000\nmax_quarantined: 0.5\nquality: {blur_mpp: 2e-1}\ntissue: {blur_um: 0}\n")
    assert (config.seed, config.max_quarantined, config.quality.blur_mpp, config.tissue.blur_um) == (1000, 0.5, 0.2, 0)


@pytest.mark.parametrize("text", ["tissue: {threshold: .nan}\n", "tissue: {min_area_um2: .inf}\n"])
def test_numbers_that_are_not_finite_are_refused(refused, text):
    assert "finite number" in refused(text)


# --- files ----------------------------------------------------------------------------------------------------------


def test_every_problem_has_the_line_of_its_value(refused):
    message = refused("grids:\n  x20:\n    mpp: 0.5\n    size: 3\nquality:\n  penn: true\n")
    assert "line 4: grids.x20.size: " in message
    assert "line 6: quality.penn: " in message


def test_problems_of_several_files_name_the_file(tmp_path):
    (tmp_path / "one.yaml").write_text("seed: -1\n")
    (tmp_path / "two.yaml").write_text("\nseed: -2\n")
    files = [tmp_path / name for name in ("one.yaml", "two.yaml")]
    with pytest.raises(ConfigError, match=r"two\.yaml, line 2: seed"):
        parse_config({"seed": -2}, files=files)
    with pytest.raises(ConfigError) as caught:
        parse_config({"seed": -3}, files=files)
    assert "line" not in str(caught.value), "a value of the command line has no line"


def test_files_with_sections_of_another_workflow_are_left_out(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("histomake: {seed: 1}\nruntime: 1:30\n")
    assert parse_config({"seed": 1}, files=[path]).seed == 1


@pytest.mark.parametrize("text", ["a: [1\n", "- a\n", "sheet: 2024-99-99\n", "\tx: 1\n"])
def test_what_is_not_a_configuration_is_refused(refused, text):
    assert "config.yaml" in refused(text)


def test_other_encodings_are_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes("sheet: müller.tsv\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)


def test_an_empty_file_is_the_default_configuration(accepted):
    assert accepted("# nothing yet\n") == parse_config({})
