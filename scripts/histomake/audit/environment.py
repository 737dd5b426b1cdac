"""Description of where a job ran: packages, commit, host, GPUs, Slurm job."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from histomake.base.records.environment import GitState, Machine
from histomake.version import __version__

RECORDED_PACKAGES = (
    "dask",
    "duckdb",
    "imagecodecs",
    "numpy",
    "openslide-python",
    "opencv-python-headless",
    "pyarrow",
    "scikit-learn",
    "shap",
    "shapely",
    "snakemake",
    "tifffile",
    "timm",
    "torch",
    "torchvision",
    "umap-learn",
    "zarr",
)


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape results; those not installed in this rule's environment are left out."""
    versions = {"python": platform.python_version(), "histomake": __version__}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path = Path(__file__).parent) -> GitState | None:
    """Commit of the code, and whether tracked files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=20)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return GitState(commit=commit.stdout.strip(), modified=bool(changes.stdout.strip()))


def slurm_job() -> str | None:
    """Slurm's id of the job this process runs in.

    Snakemake's job step removes SLURM_* from the environment, so the ancestors' environments are searched too.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        for variable in variables:
            if variable.startswith(b"SLURM_JOB_ID="):
                return variable.partition(b"=")[2].decode()
        pid = int(status.rpartition(")")[2].split()[1])
    return None


def gpu_names() -> list[str]:
    """Names of the GPUs this process may use; asks torch only if the job has loaded it already."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def machine() -> Machine:
    """Where a job ran."""
    return Machine(host=socket.gethostname(), cpus=os.cpu_count(), gpus=gpu_names(), slurm_job=slurm_job())
