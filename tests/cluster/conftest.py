"""Owns the site: a real Slurm and a workshop whose `--profile slurm` leads to it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster.slurm import Cluster
from tests.workshop import Workshop

TARGETS = ("results/catalog.duckdb", "results/metrics/tissue_kind.json", "results/audit/lineage.parquet")
"""Everything but the pictures: they add jobs and minutes, and nothing to what is tested of a cluster."""

QUICK = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10")
"""What a test may not wait for: the first look at a job's state, and a slow shared file system."""


@dataclass
class Site:
    """A cluster and a workshop."""

    cluster: Cluster
    workshop: Workshop

    def arguments(self, *targets: str) -> tuple[str, ...]:
        """The literal `--profile slurm`, hurried for tests."""
        return ("--profile", "slurm", *QUICK, "--", *(targets or TARGETS))


def build_workshop(folder: Path) -> Workshop:
    """A workshop with one grid and `make profiles` done."""
    workshop = Workshop(folder)
    workshop.copy_code()
    workshop.write_config()
    content = yaml.safe_load(workshop.config.read_text())
    del content["grids"]["x5"]
    workshop.config.write_text(yaml.safe_dump(content, sort_keys=False))
    workshop.build_cohort()
    subprocess.run(["make", "profiles"], cwd=folder, env=workshop.environment(), check=True, capture_output=True)
    return workshop


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop nothing has run in yet; sites get copies."""
    return build_workshop(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def workshop(prepared: Workshop, tmp_path: Path) -> Workshop:
    """A fresh copy of the prepared workshop."""
    folder = tmp_path / "workshop"
    shutil.copytree(prepared.folder, folder, symlinks=True)
    copy = Workshop(folder)
    copy.config.write_text(prepared.config.read_text())
    subprocess.run(["make", "profiles"], cwd=folder, env=copy.environment(), check=True, capture_output=True)
    return copy


@pytest.fixture(params=[True], ids=["accounting"])
def site(request: pytest.FixtureRequest, tmp_path: Path, workshop: Workshop) -> Iterator[Site]:
    """A running cluster; parametrise with False for one without the accounting database."""
    with Cluster(tmp_path / "cluster", accounting=request.param) as cluster:
        yield Site(cluster, workshop)
