"""The rules: their scripts, digests of code, logs, benchmarks and captions belong together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RULE = re.compile(r"^(?:use rule \w+ as (\w+) with|rule (\w+)):\n((?:    .*\n|\n)*)", re.MULTILINE)


def rules() -> dict[str, str]:
    """The text of every rule by name."""
    texts = [file.read_text() for file in sorted((ROOT / "rules").glob("*.smk"))]
    return {match[1] or match[2]: match[3] for text in texts for match in RULE.finditer(text)}


RULES = rules()
WITH_SCRIPT = [name for name, text in RULES.items() if "    script:\n" in text]


def test_the_rules_are_found():
    assert {"convert", "train", "lineage"} <= set(WITH_SCRIPT)


@pytest.mark.parametrize("name", WITH_SCRIPT)
def test_a_rule_digests_the_code_of_the_script_it_runs(name):
    (script,) = re.findall(r'script:\n +f?"\.\./scripts/([^"]+)"', RULES[name])
    (digested,) = re.findall(r"\bcode=code\(\"?([^\")]+)\"?\)", RULES[name])
    assert script.strip("{}") == digested
    assert "{" in script or (ROOT / "scripts" / script).is_file()


@pytest.mark.parametrize("name", WITH_SCRIPT)
def test_the_log_and_the_benchmark_of_a_rule_are_named_alike(name):
    (log,) = re.findall(r'"<logs>/([^"]+)\.log"', RULES[name])
    (benchmark,) = re.findall(r'"<benchmarks>/([^"]+)\.tsv"', RULES[name])
    assert log == benchmark


def test_every_caption_of_the_report_exists_and_is_used():
    files = {str(file.relative_to(ROOT / "rules")) for file in (ROOT / "rules" / "report").glob("*.rst")}
    texts = "".join(file.read_text() for file in (ROOT / "rules").glob("*.smk"))
    named = set(re.findall(r'caption="([^"{]+)"', texts))
    patterns = [re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(p)) for p in re.findall(r'caption=f"([^"]+)"', texts)]
    assert named <= files
    assert not [f for f in files - named if not any(re.fullmatch(pattern, f) for pattern in patterns)]


def test_every_script_is_run_by_a_rule():
    texts = "".join(file.read_text() for file in (ROOT / "rules").glob("*.smk"))
    scripts = [file.name for file in (ROOT / "scripts").glob("*.py")]
    assert scripts
    assert not [name for name in scripts if f'"{name}"' not in texts and f"/{name}" not in texts]
