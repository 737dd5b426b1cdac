"""Owns the workshop: a copy of the workflow beside the small cohort, run once to its end for all workflow tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CODE = ("Snakefile", "rules", "scripts", "envs", "config", "profiles")

JOB = re.compile(r"^(?:local)?(?:rule|checkpoint) (?P<rule>\w+):\n(?P<body>(?:    .*\n)*)", re.MULTILINE)
WILDCARDS = re.compile(r"^    wildcards: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """A planned job: its rule, and the slide it is for, if it is for one."""

    rule: str
    slide: str | None


class Workshop:
    """A folder with the code, the cohort and its results, in which things can be changed and Snakemake asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "small.yaml"
        self.results = folder / "results"
        self.sheet = folder / "demo" / "slides.tsv"

    def copy_code(self) -> None:
        """Lay the repository's code over what is there, as a fresh clone would: every timestamp is new."""
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

    def write_config(self, **changes: object) -> None:
        """The demo's configuration, made small, with top-level sections replaced or extended by ``changes``."""
        content = yaml.safe_load((ROOT / "config" / "demo" / "config.yaml").read_text())
        content |= {"sheet": "demo/slides.tsv", "results": "results", "max_quarantined": 0.3}
        content["tasks"]["tissue_kind"]["train"] |= {
            "steps": 12,
            "batch": 8,
            "validate_every": 6,
            "validate_patches": 32,
        }
        content["explain"] |= {"embed_patches": 60, "shap_patches": 2, "shap_background": 4}
        for key, value in changes.items():
            content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
        self.config.write_text(yaml.safe_dump(content, sort_keys=False))

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Snakemake as a user would, from the workshop's folder."""
        command = [sys.executable, "-m", "snakemake", "--configfile", str(self.config), "--cores", "2", *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=540)
        if check and done.returncode:
            pytest.fail(f"snakemake {' '.join(arguments)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done

    def planned(self) -> set[Job]:
        """The jobs Snakemake would run now."""
        done = self.snakemake("--dry-run")
        text = done.stdout + done.stderr
        jobs = set()
        for match in JOB.finditer(text):
            named = WILDCARDS.search(match["body"])
            values = dict(item.split("=", 1) for item in named[1].split(", ")) if named else {}
            jobs.add(Job(match["rule"], values.get("slide")))
        assert jobs or "Nothing to be done" in text, text[-3000:]
        return jobs - {Job("all", None)}

    def rows(self) -> list[str]:
        """The sheet's lines, header first."""
        return self.sheet.read_text().splitlines()

    def write_rows(self, rows: list[str]) -> None:
        """Replace the sheet."""
        self.sheet.write_text("\n".join(rows) + "\n")

    def slide_file(self, slide_id: str) -> Path:
        """The slide's source file."""
        row = next(line.split("\t") for line in self.rows() if line.startswith(f"{slide_id}\t"))
        return self.folder / row[self.rows()[0].split("\t").index("path")]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The workshop after one whole run."""
    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    workshop.copy_code()
    workshop.write_config()
    subprocess.run(
        [sys.executable, "-m", "tests.demo", "demo", "--small"],
        cwd=workshop.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    workshop.first_run = workshop.snakemake()
    return workshop


@pytest.fixture
def workshop(finished: Workshop) -> Workshop:
    """The finished workshop; whatever a test changes in code, configuration and cohort is put back."""
    kept = finished.folder.with_name(f"{finished.folder.name}-kept")
    shutil.copytree(finished.folder / "demo", kept, copy_function=shutil.copy2)
    yield finished
    shutil.rmtree(finished.folder / "demo")
    shutil.copytree(kept, finished.folder / "demo", copy_function=shutil.copy2)
    shutil.rmtree(kept)
    finished.copy_code()
    finished.write_config()
