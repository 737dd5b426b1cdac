"""Files that tools read: hooks for pre-commit, the CI workflow, the version in the citation and the changelog."""

from pathlib import Path

import yaml
from histomake.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_the_same_wherever_it_is_stated():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] == __version__


def test_the_hooks_run_tools_of_the_locked_environment():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    entries = [hook["entry"].split()[0] for repository in repositories for hook in repository["hooks"]]
    assert entries
    assert not [entry for entry in entries if not (ROOT / entry).is_file()]


def test_ci_runs_the_script_that_runs_anywhere():
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
