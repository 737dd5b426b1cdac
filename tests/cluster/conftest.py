"""Fixtures for cluster tests: a real Slurm, and a workshop that uses it through `--profile slurm`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.cluster.slurm import Cluster
from tests.workshop import Workshop

EVERYTHING = ("results/catalog.duckdb", "results/metrics/tissue_kind.json", "results/audit/lineage.parquet")
"""Disables figures, which would add jobs and minutes, but test nothing of a cluster."""

SLIDES = ("P01-A", "P02-A")
TWO_SLIDES = tuple(f"results/contact/x10/{slide}.png" for slide in SLIDES)
"""Four jobs, two of them groups, used to test faults."""

WHOLE_RUN_SECONDS = 1_100
"""Thirty-five jobs, each with a process and a place in the queue: five minutes on two free cores."""

QUICK = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10")
"""Shortens the delays before the first check of job states and for slow shared file systems."""


@dataclass
class Site:
    """A cluster and a workshop."""

    cluster: Cluster
    workshop: Workshop
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def arguments(self, *targets: str, options: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the arguments `--profile slurm` with shorter delays for tests."""
        return ("--profile", "slurm", *QUICK, *options, "--", *targets)

    def start(self, *targets: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start a run in the background."""
        run = subprocess.Popen(
            self.workshop.command(*self.arguments(*targets, options=options)),
            cwd=self.workshop.folder,
            env=self.workshop.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(run)
        return run

    def stop(self) -> None:
        """Stop all runs left over by a failed test."""
        for run in self.started:
            run.kill()
            run.wait()


def copy_of(workshop: Workshop, folder: Path) -> Workshop:
    """Copy the workshop and run `make profiles`."""
    shutil.copytree(workshop.folder, folder, symlinks=True)
    copy = Workshop(folder)
    subprocess.run(["make", "profiles"], cwd=folder, env=copy.environment(), check=True, capture_output=True)
    return copy


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop with one grid, in which nothing has run; training takes long enough to be interrupted."""
    workshop = Workshop(tmp_path_factory.mktemp("prepared"))
    workshop.copy_code()
    workshop.write_config()
    content = yaml.safe_load(workshop.config.read_text())
    del content["grids"]["x5"]
    content["tasks"]["tissue_kind"]["train"] |= {"steps": 48, "validate_every": 12}
    workshop.config.write_text(yaml.safe_dump(content, sort_keys=False))
    workshop.build_cohort()
    return workshop


@pytest.fixture(scope="session")
def undisturbed(prepared: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Tables of two slides, created on this machine without faults."""
    workshop = copy_of(prepared, tmp_path_factory.mktemp("undisturbed") / "workshop")
    workshop.snakemake("--", *TWO_SLIDES)
    return workshop


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster; with ``ACCOUNTING = False`` in the module, it has no accounting database."""
    accounting = getattr(request.module, "ACCOUNTING", True)
    with Cluster(tmp_path_factory.mktemp("cluster"), accounting=accounting) as running:
        yield running


@pytest.fixture
def site(cluster: Cluster, prepared: Workshop, tmp_path: Path) -> Iterator[Site]:
    """The cluster with a separate workshop for the test. Afterwards all jobs are ended and all nodes are up."""
    site = Site(cluster, copy_of(prepared, tmp_path / "workshop"))
    yield site
    site.stop()
    cluster.settle()


@pytest.fixture(scope="module")
def ran(cluster: Cluster, prepared: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The complete workflow, run on the cluster."""
    site = Site(cluster, copy_of(prepared, tmp_path_factory.mktemp("ran") / "workshop"))
    site.workshop.snakemake(*site.arguments(*EVERYTHING), timeout=WHOLE_RUN_SECONDS)
    return site
