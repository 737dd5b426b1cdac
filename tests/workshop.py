"""The workshop: a copy of the workflow with the small cohort, in which tests run Snakemake and cause faults."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CODE = ("Snakefile", "Makefile", "rules", "scripts", "envs", "config", "profiles")

RULE = re.compile(r"^(?:rule|use rule \w+ as) (\w+)(?: with)?:$(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
OUTPUTS = re.compile(r"^    output:\n((?:        .*\n)+)", re.MULTILINE)
OUTPUT = re.compile(r"^        (?=\w|\*\*)", re.MULTILINE)

JOB = re.compile(r"^(?:local)?(?:rule|checkpoint) (?P<rule>\w+):\n(?P<body>(?:    .*\n)*)", re.MULTILINE)
WILDCARDS = re.compile(r"^    wildcards: (.*)$", re.MULTILINE)


def rules() -> dict[str, int]:
    """All rules that make files, and how many outputs each declares; an output may stand for several files."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    declared = {name: OUTPUTS.search(body) for name, body in RULE.findall(text)}
    return {name: len(OUTPUT.findall(outputs[1])) for name, outputs in declared.items() if outputs}


@dataclass(frozen=True)
class Job:
    """A planned job: its rule, and its slide if it has one."""

    rule: str
    slide: str | None


def printed_jobs(text: str) -> list[Job]:
    """The jobs in what Snakemake prints of a dry run with ``-p``."""
    jobs = []
    for match in JOB.finditer(text):
        named = WILDCARDS.search(match["body"])
        values = dict(item.split("=", 1) for item in named[1].split(", ")) if named else {}
        jobs.append(Job(match["rule"], values.get("slide")))
    return jobs


class Workshop:
    """A folder with the code, the cohort and its results, in which files can be changed and Snakemake can be run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "small.yaml"
        self.results = folder / "results"
        self.sheet = folder / "demo" / "slides.tsv"
        self.printed = folder / "first_run.txt"

    def copy_code(self) -> None:
        """Copy the repository's code over the workshop; like in a fresh clone, all timestamps are new."""
        for name in CODE:
            source, target = ROOT / name, self.folder / name
            if source.is_dir():
                shutil.copytree(
                    source,
                    target,
                    dirs_exist_ok=True,
                    copy_function=shutil.copy,
                    ignore=shutil.ignore_patterns("__pycache__"),
                )
            else:
                shutil.copy(source, target)

    def write_config(self, *, demo_task: bool = True, **changes: object) -> None:
        """Write the demo's configuration, reduced, with top-level sections replaced or added by ``changes``.

        ``demo_task``: whether the demo's own task is one of the tasks.
        """
        content = yaml.safe_load((ROOT / "config" / "demo" / "config.yaml").read_text())
        content |= {"sheet": "demo/slides.tsv", "results": "results", "max_quarantined": 0.3}
        # One task with a small network that starts from random weights: encoders have tests of their own.
        del content["encoders"], content["tasks"]["probe"], content["tasks"]["rich_in_nuclei"]
        content["tasks"]["tissue_kind"]["model"] = {"name": "resnet10t"}
        content["tasks"]["tissue_kind"]["train"] |= {
            "steps": 12,
            "batch": 8,
            "validate_every": 6,
            "validate_patches": 32,
            # Two cores per job, because the nodes of the test cluster have no more.
            "workers": 1,
        }
        content["explain"] |= {"embed_patches": 60, "shap_patches": 2, "shap_background": 4}
        content["explain"]["regions"] = [[s, 500, 700, 1500, 900] for s in ("P01-A", "P02-A", "P03.B", "P04-A")]
        if not demo_task:
            content["tasks"] = {}
        for key, value in changes.items():
            content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
        self.config.write_text(yaml.safe_dump(content, sort_keys=False))

    def command(self, *arguments: str) -> list[str]:
        """Return Snakemake's command line with the workshop's configuration."""
        return [sys.executable, "-m", "snakemake", "--configfile", str(self.config), *arguments]

    def environment(self) -> dict[str, str]:
        """Return a user's environment, with the settings folder inside the workshop."""
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return {**kept, "XDG_CONFIG_HOME": str(self.folder / ".config")}

    def snakemake(self, *arguments: str, check: bool = True, timeout: float = 1700) -> subprocess.CompletedProcess[str]:
        """Run Snakemake like a user in the workshop's folder; locally unless a profile is given."""
        place = () if "--profile" in arguments else ("--cores", "2")
        done = self.run(self.command(*place, *arguments), timeout=timeout)
        if check and done.returncode:
            pytest.fail(f"snakemake {' '.join(arguments)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done

    def run(self, command: list[str], *, timeout: float = 1700) -> subprocess.CompletedProcess[str]:
        """Run a command in the workshop's folder as its user."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=timeout
        )

    def build_cohort(self) -> None:
        """Create the small cohort."""
        command = [sys.executable, "-m", "tests.demo", "demo", "--small"]
        subprocess.run(command, cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)

    def planned(self, *arguments: str) -> set[Job]:
        """Return the jobs that Snakemake would run now."""
        done = self.snakemake("--dry-run", "-p", *arguments)
        text = done.stdout + done.stderr
        jobs = set(printed_jobs(text))
        assert jobs or "Nothing to be done" in text, text[-3000:]
        return jobs - {Job("all", None)}

    def products(self, *slides: str) -> dict[str, str]:
        """Return a digest of all outputs per slide up to the tables, without times and paths."""
        found = {}
        for folder in ("slides", "annotations", "tissue", "quality", "patches/x10"):
            for path in sorted((self.results / folder).rglob("*")):
                name = str(path.relative_to(self.results / folder))
                if path.is_file() and name.startswith(slides) and not name.endswith(".meta.json"):
                    content = path.read_bytes()
                    if folder == "slides" and "/" not in name:
                        timed = json.loads(content)
                        content = json.dumps({key: timed[key] for key in timed if key != "seconds"}).encode()
                    found[f"{folder}/{name}"] = hashlib.sha256(content).hexdigest()
        assert found, f"nothing of {slides} in {self.results}"
        return found

    def rows(self) -> list[str]:
        """Return the sheet's lines, header first."""
        return self.sheet.read_text().splitlines()

    def write_rows(self, rows: list[str]) -> None:
        """Replace the sheet."""
        self.sheet.write_text("\n".join(rows) + "\n")

    def slide_file(self, slide_id: str) -> Path:
        """Return the slide's source file."""
        row = next(line.split("\t") for line in self.rows() if line.startswith(f"{slide_id}\t"))
        return self.folder / row[self.rows()[0].split("\t").index("path")]
