"""Fixtures of all tests: the library on the path, and the committed slides."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of committed, openly licensed slides and annotations."""
    return ROOT / "tests" / "data"
