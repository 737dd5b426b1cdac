"""Adapters: every script of a rule can be imported against the library as it is."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_adapter_finds_the_library_names_it_imports(script):
    assert callable(runpy.run_path(str(script))["main"])
