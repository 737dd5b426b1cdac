"""The finished workshop: the whole workflow, run once to its end for all workflow tests."""

from __future__ import annotations

import shutil

import pytest

from tests.workshop import Workshop


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The workshop after one whole run."""
    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    workshop.copy_code()
    workshop.write_config()
    workshop.build_cohort()
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
