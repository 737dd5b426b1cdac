"""ARCHITECTURE.md and CONTRIBUTING.md: the files, tests, rules and layers that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_architecture import LAYERS
from test_rules import RULES

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "scripts" / "histomake"
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

MOST_FILES = 7
PATH = re.compile(r"`((?:[\w.\-]+/)+[\w.\-]+\.(?:py|smk|md|yaml|rst|js|html|toml|tsv))`")
ROW = re.compile(r"^\| `([^`]+)` \| [^|]+ \| (itself|`[^`]+`) \|$", re.MULTILINE)

RECIPES = dict(re.findall(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", CONTRIBUTING.split("## Recipes")[1], re.M | re.S))


def test_there_are_six_recipes():
    assert set(RECIPES) == {
        "A slide format",
        "A loss",
        "A kind of task",
        "A rule with a place in the report",
        "An annotation format",
        "An encoder",
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_names_at_most_seven_files_that_exist(recipe):
    files = [file for file, _ in ROW.findall(RECIPES[recipe])]
    assert 1 <= len(files) <= MOST_FILES
    assert len(set(files)) == len(files) == RECIPES[recipe].count("\n| `")
    assert not [file for file in files if not (ROOT / file).is_file()]


def test_the_recipe_of_a_kind_names_every_table_of_kinds():
    tables = {str(file.relative_to(ROOT)) for file in LIBRARY.rglob("kinds.py")}
    assert tables == {file for file, _ in ROW.findall(RECIPES["A kind of task"])}


@pytest.mark.parametrize("recipe", RECIPES)
def test_for_every_file_but_the_change_itself_a_recipe_names_a_test_that_exists(recipe):
    itself, *tests = [test.strip("`") for _, test in ROW.findall(RECIPES[recipe])]
    assert itself == "itself"
    for test in tests:
        file, function = test.split("::")
        assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), re.MULTILINE), test


DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += [*(ROOT / "docs").glob("*.md"), ROOT / "config" / "README.md", ROOT / "profiles" / "README.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(document):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()) if "://" not in link]
    assert not [link for link in links if not (document.parent / link).exists()]


def test_every_fault_of_the_profiles_names_a_test_that_exists():
    faults = (ROOT / "profiles" / "README.md").read_text().split("## Faults")[1]
    files = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    functions = {name for text in files.values() for name in re.findall(r"^def (\w+)\(", text, re.MULTILINE)}
    for file in re.findall(r"`(\w+/test_\w+\.py)", faults):
        assert ROOT / "tests" / file in files
    fragments = re.findall(r"…\[?(\w+)(?:…|\])?`", faults)
    assert len(fragments) > 10
    assert not [fragment for fragment in fragments if not any(fragment in name for name in functions)]


def test_every_promise_of_the_audit_trail_names_a_test_that_exists():
    text = (ROOT / "docs" / "audit.md").read_text()
    named = re.findall(r"`(\w+/test_\w+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 25
    assert text.count("test_falsification.py::") >= 14
    for file, function in named:
        assert f"def {function}(" in (ROOT / "tests" / file).read_text() or not function, f"{file}::{function}"


@pytest.mark.parametrize("text", [ARCHITECTURE, CONTRIBUTING], ids=["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_file_of_the_code_that_is_named_exists(text):
    paths = set(PATH.findall(text)) - {"report/index.html"}
    assert len(paths) > 10
    assert not [path for path in paths if not any((folder / path).exists() for folder in (ROOT, LIBRARY))]


def test_every_rule_package_and_test_in_the_way_of_a_slide_exists():
    table = ARCHITECTURE.split("## The way of a slide")[1].split("\n## ")[0]
    rows = [line.split("|")[2:7] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for names, file, packages, _, tests in rows:
        text = (ROOT / file.strip().strip("`")).read_text()
        for rule in re.findall(r"`(\w+)`", names):
            assert rule in RULES
            assert re.search(rf"^(use )?rule .*\b{rule}\b", text, re.MULTILINE), f"{rule} is not in {file}"
        assert not [package for package in re.findall(r"`(\w+)`", packages) if not (LIBRARY / package).is_dir()]
        modules = [ROOT / "tests" / "unit" / f"test_{name}.py" for name in re.findall(r"`(\w+)`", tests)]
        assert modules
        assert not [module for module in modules if not module.is_file()]


def test_the_layers_are_those_that_the_imports_are_tested_with():
    block = re.search(r"<!-- layers.*?```\n(.*?)```", ARCHITECTURE, re.DOTALL)[1]
    written = tuple(tuple(re.split(r"\s{2,}", line)[0].split(", ")) for line in block.splitlines())
    assert written == LAYERS
