"""Checks of the machine: Python, packages, OpenSlide, GPU, temporary files, the Slurm profile, the viewer."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from histomake.cli.checkout import CHECKOUT
from histomake.cli.findings import Finding, ok, problem, warning
from histomake.viewer.server import OPENSEADRAGON

PYTHON = (3, 12)
GIB = 1 << 30
TEMPORARY_BYTES = 5 * GIB
NAMED = 6
"""Number of packages that are named in one line. If there are more, they are only counted."""

PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", re.MULTILINE)
REINSTALL = "make env"


def python() -> Finding:
    """The version of Python."""
    if sys.version_info[:2] == PYTHON:
        return ok("Python", platform.python_version())
    wanted = ".".join(map(str, PYTHON))
    return problem("Python", f"{platform.python_version()}, not {wanted}", f"use the environment of `{REINSTALL}`")


def packages(lock: Path = CHECKOUT / "requirements.txt") -> Finding:
    """The installed packages against the lock."""
    if not lock.is_file():
        return warning("packages", f"no lock at {lock} to compare with", "run histomake from a checkout's environment")
    pins = dict(PIN.findall(lock.read_text()))
    installed = {name: _version(name) for name in pins}
    missing = [name for name, version in installed.items() if version is None]
    other = [
        f"{name} {found} (lock: {pins[name]})" for name, found in installed.items() if found not in (None, pins[name])
    ]
    if missing:
        return problem("packages", f"not installed: {_listed(missing)}", REINSTALL)
    if other:
        return warning("packages", f"other versions than tested: {_listed(other)}", REINSTALL)
    return ok("packages", f"{len(pins)} as in {lock.name}")


def library() -> Finding:
    """Where the library lies, and whether it is installed, so that its version is known to package tools."""
    version = _version("histomake")
    if version is None:
        return warning("library", "found through PYTHONPATH, not installed", REINSTALL)
    return ok("library", f"histomake {version} from {Path(__file__).parents[1]}")


def openslide() -> Finding:
    """OpenSlide and its Python binding."""
    try:
        from openslide import __library_version__, __version__
    except (ImportError, OSError) as error:
        return problem("OpenSlide", f"cannot be loaded: {error}", "install openslide-bin: " + REINSTALL)
    return ok("OpenSlide", f"{__library_version__}, binding {__version__}")


def gpu() -> Finding:
    """GPUs that torch can use."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return problem("torch", f"cannot be loaded: {error}", REINSTALL)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return ok("GPU", f"{', '.join(names)}; torch {torch.__version__}")
    if Path("/dev/nvidiactl").exists():
        return problem(
            "GPU", f"there is one, but torch {torch.__version__} cannot use it", "compare the driver's CUDA: nvidia-smi"
        )
    return warning("GPU", "none here: training and prediction run on the CPU", "on a cluster, run with --profile slurm")


def temporary_folder() -> Finding:
    """The folder for temporary files: writable, and with room for copies."""
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    detail = f"{folder}, {free / GIB:.0f} GiB free"
    wanted = os.environ.get("TMPDIR")
    if wanted and Path(wanted).resolve() != folder.resolve():
        return problem("TMPDIR", f"{wanted} is not a writable folder", "create it, or set TMPDIR to another")
    if free < TEMPORARY_BYTES:
        return warning(
            "TMPDIR", detail, "set TMPDIR to a folder on a larger disk; train.stage needs room for the stores"
        )
    return ok("TMPDIR", detail)


def slurm_profile() -> Finding:
    """The profile for ``snakemake --profile slurm``, if Slurm is installed."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    profile = home / "snakemake" / "slurm"
    if profile.is_dir():
        if profile.resolve() != CHECKOUT / "profiles" / "slurm":
            return warning("profile", f"{profile} is not that of this checkout", "make profiles")
        return ok("profile", f"--profile slurm uses {profile.resolve()}")
    if shutil.which("sbatch"):
        return problem("profile", f"Slurm is installed, but {profile} is missing", "make profiles")
    return ok("profile", "not needed: Slurm is not installed")


def viewer_assets(openseadragon: Path = OPENSEADRAGON) -> Finding:
    """OpenSeadragon, without which the viewer does not start."""
    if openseadragon.is_file():
        return ok("viewer", "OpenSeadragon is installed")
    return warning("viewer", f"{openseadragon} is missing: `histomake view` does not start", "make viewer (needs npm)")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
