"""Names that become names of files, tables and columns are checked before any job, and refused together."""

from __future__ import annotations

import pytest
from histomake.base.errors import ConfigError
from histomake.base.names import LONGEST, name_problems
from histomake.cohort.sheet import read_sheet
from histomake.config import Config, parse_config


def refusal(raw) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    return str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"), [("skin", "Skin"), ("ma\u00dfe", "MASSE"), ("u\u0308", "\u00fc"), ("x\uff14", "x4")]
)
def test_names_that_differ_only_in_case_or_unicode_form_are_one(one, other):
    (problem,) = name_problems("classes", [one, "other", other])
    assert ascii(one) in problem
    assert ascii(other) in problem


@pytest.mark.parametrize("name", ["con", "NUL", "Aux.x", "com1", "lpt9.tiff"])
def test_names_of_devices_in_windows_are_refused(name):
    assert "a device in Windows" in "".join(name_problems("slide_ids", [name]))


@pytest.mark.parametrize("name", ["console", "com", "com10", "null", "a.con"])
def test_names_that_only_resemble_devices_are_names(name):
    assert list(name_problems("slide_ids", [name])) == []


@pytest.mark.parametrize(("name", "allowed"), [("a" * LONGEST, True), ("a" * (LONGEST + 1), False), ("ä" * 70, False)])
def test_names_have_a_length_that_file_names_hold(name, allowed):
    assert (list(name_problems("slide_ids", [name])) == []) == allowed


def test_braces_and_reserved_names_and_endings_are_refused():
    found = list(name_problems("n", ["a{b}", "X", "x_kept", "fine"], reserved=("x",), endings=("_kept",)))
    assert [("brace" in f, "another meaning" in f, "ends in _kept" in f) for f in found] == [
        (False, True, False),
        (True, False, False),
        (False, False, True),
    ]


def test_all_names_of_a_configuration_are_refused_together():
    target = {"classes": ["skin", "Skin"]}
    raw = {
        "annotations": {"classes": {"a": "skin", "b": "Skin"}},
        "grids": {"x10": {}, "X10": {}, "x5_kept": {}},
        "encoders": {name: {"grid": "x10", "name": "resnet10t", "weights": False} for name in ("x", "con")},
        "tasks": {"t": {"grid": "x10", "target": target}, "T": {"grid": "x10", "target": target}},
    }
    message = refusal(raw)
    for part in (
        "classes differ only in case or Unicode form: 'Skin', 'skin'",
        "grids differ only in case or Unicode form: 'X10', 'x10'",
        "grids: 'x5_kept' ends in _kept",
        "encoders: 'x' has another meaning",
        "encoders: 'con' is the name of a device",
        "tasks differ only in case or Unicode form: 'T', 't'",
    ):
        assert part in message


def test_a_class_of_one_task_that_another_writes_in_capitals_is_refused():
    tasks = {name: {"grid": "x20", "target": {"classes": [c, "other"]}} for name, c in (("a", "skin"), ("b", "SKIN"))}
    assert "classes differ only in case" in refusal(
        {"annotations": {"classes": {"1": "skin", "2": "SKIN", "3": "other"}}, "tasks": tasks}
    )


def sheet_refusal(tmp_path, *rows: str) -> str:
    path = tmp_path / "slides.tsv"
    path.write_text("\n".join(["slide_id\tpath\tpatient_id\tmpp", *rows]) + "\n")
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, Config(), check_files=False)
    return str(caught.value)


def test_all_names_of_a_sheet_are_refused_together(tmp_path):
    rows = [
        "a\t/a\tP1\t",
        "A\t/b\tP2\t",
        "b.json.meta\t/c\tP3\t",
        "nul\t/d\tp1\t",
        "end.\t/e\tP4\t",
        f"{'l' * 200}\t/f\tP5\t",
    ]
    message = sheet_refusal(tmp_path, *rows)
    for part in (
        "slide_ids differ only in case or Unicode form: 'A', 'a'",
        "'b.json.meta' ends in .meta",
        "slide_ids: 'nul' is the name of a device",
        "'end.' ends in .",
        "has 200 bytes",
        "patient_ids differ only in case, spaces or Unicode form: 'P1', 'p1'",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("mpp", "hint"), [("20", "at 20x it is about 0.5"), ("40", "at 40x it is about 0.25"), ("63", "0.16")]
)
def test_a_magnification_in_the_column_of_resolutions_is_refused_with_what_was_meant(tmp_path, mpp, hint):
    message = sheet_refusal(tmp_path, f"a\t/a\tP1\t{mpp}")
    assert f"mpp {mpp} is no resolution of a slide" in message
    assert hint in message


@pytest.mark.parametrize("mpp", ["0.05", "0.25", "8", "19.9"])
def test_resolutions_of_slides_and_overviews_are_accepted(tmp_path, mpp):
    path = tmp_path / "slides.tsv"
    path.write_text(f"slide_id\tpath\tpatient_id\tmpp\na\t/a\tP1\t{mpp}\n")
    assert read_sheet(path, Config(), check_files=False)["a"].mpp == float(mpp)
