"""The packages of the library: which package may import from which, and that no two modules need each other.

Every import counts, also one inside a function or under ``TYPE_CHECKING``: a reader follows those as well.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

LAYERS = (
    ("base", "version"),
    ("learn.engine",),
    ("audit.code", "audit.environment", "audit.gpus"),
    ("audit.sidecar",),
    ("config",),
    ("slide", "cohort", "target"),
    ("annotation",),
    ("tissue", "cells"),
    ("patch",),
    ("model",),
    ("learn",),
    ("features",),
    ("bags",),
    ("graphs",),
    ("cascade", "generate"),
    ("pictures",),
    ("evaluate", "explain"),
    ("catalog", "audit"),
    ("report", "planning", "viewer"),
    ("cli",),
)
"""Lowest first. A package imports from lower layers and from itself, never from a neighbour in its own layer."""

RANK = {package: rank for rank, layer in enumerate(LAYERS) for package in layer}

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(importing module, imported module) that break the order or close a circle, each with its reason."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the library by its name below ``histomake``; a package is named without ``__init__``."""
    found = {}
    for file in sorted((SCRIPTS / "histomake").rglob("*.py")):
        parts = file.relative_to(SCRIPTS / "histomake").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of the library that a module imports anywhere in its text."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import; name the module in full"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                named.add(inner if inner.removeprefix("histomake.") in modules() else str(node.module))
    known = {name.removeprefix("histomake").removeprefix(".") for name in named if name.split(".")[0] == "histomake"}
    return frozenset(known - {"", module})


def package_of(module: str) -> str:
    """The name in LAYERS that covers a module: the longest one that is a prefix of it."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (package := ".".join(parts[:length])) in RANK:
            return package
    return ""


def test_every_module_lies_in_a_package_with_a_layer():
    outside = [name for name in modules() if name not in ("", "__main__") and not package_of(name)]
    assert not outside, f"add the package to LAYERS: {outside}"


def test_every_package_of_the_layers_exists():
    assert not [package for package in RANK if package not in modules()]


@pytest.mark.parametrize("module", [name for name in modules() if name not in ("", "__main__")])
def test_a_module_imports_only_from_lower_layers_and_its_own_package(module):
    package = package_of(module)
    upward = [
        other
        for other in sorted(imports(module))
        if package_of(other) != package
        and RANK[package_of(other)] >= RANK[package]
        and (module, other) not in EXCEPTIONS
    ]
    assert not upward, f"{module} ({package}) must not import {upward}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: {other for other in imports(name) if (name, other) not in EXCEPTIONS} for name in modules()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_every_exception_is_still_needed():
    needless = [pair for pair in EXCEPTIONS if pair[0] not in modules() or pair[1] not in imports(pair[0])]
    assert not needless, f"remove from EXCEPTIONS: {needless}"


def test_what_rules_import_loads_no_heavy_package():
    """Every job of a cluster parses the rules, so what they import must load in a fraction of a second."""
    lines = [
        line for file in sorted((SCRIPTS.parent / "rules").glob("*.smk")) for line in file.read_text().splitlines()
    ]
    needed = sorted({line for line in lines if line.startswith(("from histomake", "import histomake"))})
    heavy = {"cv2", "duckdb", "matplotlib", "scipy", "shapely", "torch", "zarr"}
    code = "\n".join(
        [f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})", *needed, f"print(sorted({heavy} & set(sys.modules)))"]
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert needed
    assert loaded == "[]"


FITS = {"pandas", "scipy.stats", "sklearn", "timm", "torchvision"}


@pytest.mark.parametrize(
    ("script", "heavy"), [("predict_features.py", FITS), ("predict_bag.py", FITS), ("front_page.py", {"timm", "torch"})]
)
def test_jobs_without_networks_load_no_package_of_networks(script, heavy):
    """Such a job takes a tenth of a second to a second, and these packages take several seconds."""
    needed = [line for line in (SCRIPTS / script).read_text().splitlines() if line.startswith("from histomake")]
    code = "\n".join(
        [f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})", *needed, f"print(sorted({heavy} & set(sys.modules)))"]
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert needed
    assert loaded == "[]"


def test_no_two_classes_have_the_same_name():
    """Private ones aside: a reader who searches for a name finds one class."""
    places: dict[str, list[str]] = {}
    for name, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    assert not {name: found for name, found in places.items() if len(found) > 1}
