"""Fixtures of all tests: the library on the path, and the committed slides."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

# Hypothesis fails an example that takes longer than 0.2 s. Tests assert no times: a slow machine is not an error.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of committed, openly licensed slides and annotations."""
    return ROOT / "tests" / "data"
