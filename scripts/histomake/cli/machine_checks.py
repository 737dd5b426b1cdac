"""Checks of the machine: Python, packages, Snakemake, codecs, GPU, temporary files, the Slurm profile, the viewer."""

from __future__ import annotations

import os
import pkgutil
import platform
import re
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import get_args

import numpy as np
from packaging.requirements import Requirement

from histomake.cli.checkout import CHECKOUT
from histomake.cli.findings import Finding, ok, problem, warning
from histomake.slide.codec import Codec, TileCoding, TileDecodeError
from histomake.viewer.server import OPENSEADRAGON

PYTHON = (3, 12)
GIB = 1 << 30
TEMPORARY_BYTES = 5 * GIB
NAMED = 6
"""Number of packages that are named in one line. If there are more, they are only counted."""

PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", re.MULTILINE)
REINSTALL = "make env"
EXECUTOR = "snakemake_executor_plugin_"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
CODEC_LEVELS = 4
"""Grey levels by which a lossy codec may change a tile of one colour."""


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


def codecs() -> Finding:
    """Whether a tile survives every codec of stores; the lossy ones change its grey levels slightly."""
    tile = np.full((64, 64, 3), 200, np.uint8)
    failed = []
    for codec in get_args(Codec):
        coding = TileCoding(codec, quality=90)
        try:
            decoded = coding.decode(coding.encode(tile), tile.shape)
        except (ImportError, OSError, RuntimeError, ValueError, TileDecodeError) as error:
            failed.append(f"{codec} ({error})")
            continue
        if np.abs(decoded.astype(int) - tile).max() > CODEC_LEVELS:
            failed.append(f"{codec} (other pixels than were encoded)")
    if failed:
        return problem(
            "codecs", f"do not work: {', '.join(failed)}", "install imagecodecs and simplejpeg: " + REINSTALL
        )
    return ok("codecs", ", ".join(get_args(Codec)))


def snakemake() -> Finding:
    """The version of Snakemake, of which internals are used, and the executors that are installed."""
    version = _version("snakemake")
    needed = next((line for line in metadata.requires("histomake") or () if re.match(r"snakemake\b(?!-)", line)), None)
    if version is None or (needed is not None and not Requirement(needed).specifier.contains(version)):
        return problem("Snakemake", f"{version or 'not installed'}; needed is {needed}", REINSTALL)
    executors = sorted(
        module.name.removeprefix(EXECUTOR) for module in pkgutil.iter_modules() if module.name.startswith(EXECUTOR)
    )
    if shutil.which("sbatch") and "slurm" not in executors:
        return problem("Snakemake", f"{version}, without the executor for Slurm, which is installed", REINSTALL)
    return ok("Snakemake", f"{version}, executors: local, {', '.join(executors)}")


def gpu() -> Finding:
    """GPUs that torch can use, each with a small computation."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return problem("torch", f"cannot be loaded: {error}", REINSTALL)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        try:
            for index in range(len(names)):
                torch.zeros(1, device=f"cuda:{index}").add_(1).item()
        except RuntimeError as error:
            first, *_ = str(error).splitlines()
            detail = f"{names[index]} does not compute with torch {torch.__version__}: {first}"
            return problem("GPU", detail, f"it needs one of {', '.join(torch.cuda.get_arch_list())}")
        return ok("GPU", f"{', '.join(names)}; torch {torch.__version__}, CUDA {torch.version.cuda}")
    if NVIDIA_DRIVER.exists():
        return unused_gpu(torch.__version__, torch.version.cuda, NVIDIA_DRIVER.read_text())
    return warning("GPU", "none here: training and prediction run on the CPU", "on a cluster, run with --profile slurm")


def unused_gpu(torch_version: str, cuda: str | None, driver: str) -> Finding:
    """Why torch cannot use a GPU whose driver is loaded: a build without CUDA, or one that is newer than the driver."""
    if cuda is None:
        return problem("GPU", f"there is one, but torch {torch_version} is built without CUDA", REINSTALL)
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", driver)
    detail = (
        f"there is one, with driver {found[0] if found else 'of unknown version'}, but torch {torch_version} for CUDA "
        f"{cuda} cannot use it"
    )
    return problem("GPU", detail, f"install a driver for CUDA {cuda}, and see that `nvidia-smi` lists the GPU")


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
