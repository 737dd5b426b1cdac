"""The rules: their scripts, digests of code, logs, benchmarks and captions belong together, and no two files need each
other."""

from __future__ import annotations

import graphlib
import io
import keyword
import re
import tokenize
from pathlib import Path

import pytest
from histomake.pictures.kinds import PICTURED, WITH_GRAPH

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "rules").glob("*.smk"))
RULE = re.compile(r"^(?:use rule \w+ as (\w+) with|rule (\w+)):\n((?:    .*\n|\n)*)", re.MULTILINE)
DEFINED = re.compile(r"^(?:def (\w+)|(\w+(?:, \w+)*) = )", re.MULTILINE)
IMPORTED = re.compile(r"^(?:from [\w.]+ )?import (.+)$", re.MULTILINE)

SHARED_SCRIPTS = {"presegment": ["presegment.py", "presegment_model.py"]}
"""Scripts of the rule that runs one of several."""


def rules() -> dict[str, str]:
    """The text of every rule by name."""
    texts = [file.read_text() for file in FILES]
    return {match[1] or match[2]: match[3] for text in texts for match in RULE.finditer(text)}


RULES = rules()
WITH_SCRIPT = [name for name, text in RULES.items() if "    script:\n" in text]
WITH_LOG = [name for name, text in RULES.items() if "    log:\n" in text]


def test_the_rules_are_found():
    assert {"convert", "train", "lineage"} <= set(WITH_SCRIPT)


@pytest.mark.parametrize("name", WITH_SCRIPT)
def test_a_rule_digests_the_code_of_the_script_it_runs(name):
    (script,) = re.findall(r'script:\n +f?"\.\./scripts/([^"]+)"', RULES[name])
    (digested,) = re.findall(r"\bcode=code\(\"?([^\")]+)\"?\)", RULES[name])
    assert script.strip("{}") == digested


@pytest.mark.parametrize("name", WITH_SCRIPT)
def test_a_rule_and_its_script_have_the_same_name(name):
    if name in SHARED_SCRIPTS:
        assert all((ROOT / "scripts" / script).is_file() for script in SHARED_SCRIPTS[name])
    else:
        assert f'script:\n        "../scripts/{name}.py"' in RULES[name]
        assert (ROOT / "scripts" / f"{name}.py").is_file()


@pytest.mark.parametrize("name", WITH_LOG)
def test_the_log_and_the_benchmark_of_a_rule_have_its_name(name):
    (log,) = re.findall(r"LAYOUT\.log\(([^)]+)\)", RULES[name])
    (benchmark,) = re.findall(r"LAYOUT\.benchmark\(([^)]+)\)", RULES[name])
    assert log == benchmark
    assert log.split(",")[0] == f'"{name}"'


def test_every_rule_with_a_script_has_a_log():
    assert set(WITH_SCRIPT) <= set(WITH_LOG)


def test_a_rule_has_the_image_of_its_conda_environment():
    for name in WITH_SCRIPT:
        conda, container = (re.search(rf"    {word}:\n +(.+)\n", RULES[name])[1] for word in ("conda", "container"))
        environment = re.sub(r'"\.\./envs/(\w+)\.yaml"', r"CONFIG.containers.\1", conda)
        assert container == environment, name


def test_every_caption_of_the_report_exists_and_is_used():
    files = {str(file.relative_to(ROOT / "rules")) for file in (ROOT / "rules" / "report").glob("*.rst")}
    texts = "".join(file.read_text() for file in FILES)
    named = set(re.findall(r'caption="([^"{]+)"', texts))
    views = {*WITH_GRAPH, *(view for pictured in PICTURED.values() for view in pictured.views)}
    named |= {pattern.format(view=view) for pattern in re.findall(r'caption=f"([^"]+)"', texts) for view in views}
    assert named == files


def test_every_script_is_run_by_a_rule():
    scripts = {file.stem for file in (ROOT / "scripts").glob("*.py")}
    shared = {script.removesuffix(".py") for names in SHARED_SCRIPTS.values() for script in names}
    assert scripts == (set(WITH_SCRIPT) - set(SHARED_SCRIPTS)) | shared


def test_paths_of_results_are_taken_from_the_layout():
    literal = re.compile(
        r'(?<!patterns=\[)"[^"\n]*\.(?:json|parquet|tsv|log|png|jpg|html|zarr|safetensors|geojson|duckdb|npz|csv)"'
    )
    assert {file.name: found for file in FILES if (found := literal.findall(file.read_text()))} == {}


def test_only_one_file_uses_internals_of_snakemake():
    internal = re.compile(r"\bworkflow\.(?!current_basedir\b|is_main_process\b|configfiles\b|overwrite_configfiles\b)")
    found = [file.name for file in [*FILES, ROOT / "Snakefile"] if internal.search(file.read_text())]
    assert found == []
    assert [file.name for file in FILES if "snakemake_internals" in file.read_text()] == ["planning.smk"]


def test_rule_files_define_either_functions_or_rules():
    mixed = [f.name for f in FILES if re.search(r"^def ", f.read_text(), re.M) and RULE.search(f.read_text())]
    assert not mixed, "put them into planning/, or into common.smk if several files need them: snakemake --lint asks it"


def test_the_shared_file_stays_small():
    assert len((ROOT / "rules/common.smk").read_text().splitlines()) <= 110


def names_defined(text: str) -> set[str]:
    """Names that a file binds for all files: functions, variables and imports of its own top level, and rules."""
    found = {name for pair in DEFINED.findall(text) for part in pair for name in part.split(", ") if name}
    for imported in IMPORTED.findall(text):
        found |= {name.split(" as ")[-1].strip() for name in imported.strip("()").split(",")}
    return found | {one or other for one, other, _ in RULE.findall(text)}


def names_used(text: str) -> set[str]:
    """Names in a file, apart from those of attributes and of keyword arguments."""
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    found = set()
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        is_key = after.string == "=" and token.line.startswith(" ")
        if token.type == tokenize.NAME and before.string != "." and not is_key and not keyword.iskeyword(token.string):
            found.add(token.string)
    return found


def test_no_two_files_need_each_other_and_each_comes_after_those_it_needs():
    texts = {file.name: file.read_text() for file in FILES}
    defined = {name: names_defined(text) for name, text in texts.items()}
    needs = {}
    for name, text in texts.items():
        foreign = names_used(text) - defined[name] - {"slide", "task", "fold", "split", "cascade", "leakage"}
        needs[name] = {other for other in texts if other != name and foreign & defined[other]}
    order = re.findall(r'include: "rules/(\S+)"', (ROOT / "Snakefile").read_text())
    assert sorted(order) == sorted(texts)
    assert list(graphlib.TopologicalSorter(needs).static_order())
    late = {name: [n for n in needs[name] if order.index(n) > order.index(name)] for name in order}
    assert not {name: found for name, found in late.items() if found}
    assert needs["common.smk"] == set()
    assert needs["planning.smk"] == {"common.smk"}


def test_predictions_go_before_trainings():
    """Predictions of a finished fold would wait for the trainings of all other folds."""
    text = (ROOT / "rules/inference.smk").read_text()
    of_prediction = text[text.index("rule predict_slide:") : text.index("use rule predict_slide")]
    assert re.search(r"^    priority: [1-9]", of_prediction, re.MULTILINE)
    assert "priority" not in (ROOT / "rules/training.smk").read_text()
