"""Kinds of task: every table has all of them, and no other code depends on the name of a kind.

So a new kind is one entry per table, and these tests name the tables that lack it.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import tokenize
from pathlib import Path

import pytest
from histomake.base.kinds import Kind
from histomake.config.kinds import ACCEPTED
from histomake.pictures.kinds import PICTURED, WITH_ATTENTION, WITH_CONFIDENCE, WITHOUT_CONFIDENCE
from histomake.target.kinds import LEARNED

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS, RULES = ROOT / "scripts", ROOT / "rules"
STAGES = sorted((SCRIPTS / "histomake").glob("*/**/kinds.py"))
TABLES = [file for file in STAGES if file.parent.name != "base"]
OTHERS = sorted(file for file in SCRIPTS.rglob("*.py") if file not in STAGES)

VALUES = {kind.value for kind in Kind}
LITERAL = re.compile(r"kind *(==|!=|in) *[\"'(\[]")


def name(file: Path) -> str:
    return file.relative_to(SCRIPTS).as_posix()


def tables_of(file: Path) -> dict[str, dict]:
    """The tables of a module: dictionaries with a kind as key, or annotated as such."""
    module = importlib.import_module(".".join(file.relative_to(SCRIPTS).with_suffix("").parts))
    annotated = {
        node.target.id
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and "dict[Kind," in ast.unparse(node)
    }
    found = {key: value for key, value in vars(module).items() if isinstance(value, dict)}
    return {key: value for key, value in found.items() if key in annotated or any(isinstance(k, Kind) for k in value)}


@pytest.mark.parametrize("file", TABLES, ids=name)
def test_every_table_has_all_kinds(file: Path):
    tables = tables_of(file)
    assert tables, "a module called kinds.py holds a table dict[Kind, ...]"
    for table, entries in tables.items():
        missing, unknown = set(Kind) - set(entries), set(entries) - set(Kind)
        assert not missing, f"{name(file)}: add {', '.join(missing)} to {table}"
        assert not unknown, f"{name(file)}: {table} has {unknown}, which are not kinds"


def is_member(node: ast.AST | None) -> bool:
    """Whether an expression is a member of Kind, or its value."""
    if not isinstance(node, ast.Attribute):
        return False
    return is_member(node.value) or (isinstance(node.value, ast.Name) and node.value.id == Kind.__name__)


def is_kind(node: ast.AST | None) -> bool:
    """Whether an expression is a member of Kind or the text of one."""
    return is_member(node) or (isinstance(node, ast.Constant) and node.value in VALUES)


def compares_kinds(node: ast.Compare) -> bool:
    # `"classification" in properties` is no comparison with a kind: it asks for a key of GeoJSON.
    asks_for_key = isinstance(node.ops[0], ast.In | ast.NotIn) and not is_member(node.left)
    operands = node.comparators if asks_for_key else [node.left, *node.comparators]
    parts = [part for operand in operands for part in getattr(operand, "elts", [operand])]
    return any(map(is_kind, parts))


def collects_kinds(node: ast.Dict | ast.Tuple | ast.List | ast.Set) -> bool:
    parts = node.keys if isinstance(node, ast.Dict) else node.elts
    return any(map(is_member, parts)) or sum(map(is_kind, parts)) > 1


def uses_of_kinds(text: str) -> list[int]:
    """Lines on which code depends on the name of a kind: compares it, matches it, or collects several."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Compare() if compares_kinds(node):
                found.add(node.lineno)
            case ast.MatchValue() if is_kind(node.value):
                found.add(node.lineno)
            case ast.Dict() | ast.Tuple() | ast.List() | ast.Set() if collects_kinds(node):
                found.add(node.lineno)
    return sorted(found)


@pytest.mark.parametrize(
    "code",
    [
        'task.kind == "regression"',
        '"regression" != model["kind"]',
        'k in ("classification", "multi_label")',
        "kind is Kind.REGRESSION",
        "kind in {Kind.REGRESSION}",
        "NUMBERS = (Kind.REGRESSION,)",
        'LOSSES = {Kind.REGRESSION: "huber"}',
        'LOSSES = {"regression": "huber", "classification": "ce"}[kind]',
        "kind.value == Kind.REGRESSION.value",
        'match kind:\n    case "regression":\n        pass',
        "match kind:\n    case Kind.REGRESSION | Kind.SEGMENTATION:\n        pass",
    ],
)
def test_code_that_depends_on_a_kind_is_found(code: str):
    assert uses_of_kinds(code)


@pytest.mark.parametrize("code", ['"classification" in properties', "TABLE[task.kind]", "first.kind == second.kind"])
def test_code_that_does_not_depend_on_a_kind_is_not_found(code: str):
    assert not uses_of_kinds(code)


def test_no_other_module_depends_on_a_kind():
    found = {name(file): lines for file in OTHERS if (lines := uses_of_kinds(file.read_text()))}
    assert not found, f"look it up in a table of kinds.py: {found}"


def test_no_variable_called_kind_is_compared_with_a_literal():
    found = {name(file) for file in OTHERS if LITERAL.search(file.read_text())}
    assert not found, "name variables for kinds of other things differently"


@pytest.mark.parametrize("file", sorted([*RULES.glob("*.smk"), ROOT / "Snakefile"]), ids=lambda file: file.name)
def test_no_rule_depends_on_a_kind(file: Path):
    tokens = list(tokenize.generate_tokens(io.StringIO(file.read_text()).readline))
    named = [t.start[0] for t in tokens if t.type == tokenize.STRING and t.string.strip("\"'") in VALUES]
    named += [t.start[0] for t in tokens if t.type == tokenize.NAME and t.string == Kind.__name__]
    assert not named, f"{file.name}, lines {named}: look it up in a table of kinds.py"


def test_every_set_of_views_has_a_rule():
    assert {pictured.views for pictured in PICTURED.values()} <= {WITH_ATTENTION, WITH_CONFIDENCE, WITHOUT_CONFIDENCE}


@pytest.mark.parametrize("kind", Kind)
def test_what_learns_pixels_leaves_label_images(kind: Kind):
    assert ACCEPTED[kind].label_image == LEARNED[kind].per_pixel


@pytest.mark.parametrize("kind", Kind)
def test_every_view_has_a_function_that_draws_it(kind: Kind):
    assert set(PICTURED[kind].painters()) == set(PICTURED[kind].views)
