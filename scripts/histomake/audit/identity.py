"""Owns identity: which bytes, which settings and which code made an output, and when it must be made again.

Snakemake compares params; the digests made here are those params. A slide is known by its bytes and not by its
timestamp, code by the modules a script really imports, settings by the dump of the rule's own section.
"""

from __future__ import annotations

import ast
import atexit
import hashlib
import json
import logging
import os
import platform
import socket
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from histomake.base.files import write_json

LIBRARY = Path(__file__).resolve().parents[1]
SCRIPTS = LIBRARY.parent
SAMPLE_BYTES = 64 * 1024
SAMPLED_BLOCKS = 4
UNTRACKED_MODULES = frozenset(
    {"histomake.config", "histomake.audit.sidecar", "histomake.audit.identity", "histomake.base.layout"}
)
"""Modules left out of code digests because they shape no result: config only normalises values, which are compared as
params; layout only names files, which Snakemake compares itself; job and provenance log and describe."""

BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Where a statement holds other statements. Imports stand nowhere else, and expressions are most of a syntax tree."""

log = logging.getLogger(__name__)


# --- slides ---------------------------------------------------------------------------------------------------------


def slide_files(path: Path | str) -> list[Path]:
    """The files that are one slide: the file itself; all files of a folder; for MRXS and VMS also the data folder."""
    path = Path(path)
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    companion = path.with_suffix("")
    if path.suffix and companion.is_dir():
        return [path, *sorted(p for p in companion.rglob("*") if p.is_file())]
    return [path]


def quick_fingerprint(path: Path | str) -> str:
    """Digest of a slide's size, head, tail and evenly sampled blocks: at most 384 KiB are read per file.

    It guards re-runs. An edit in mid-file that keeps the size can escape it, which a sheet's ``sha256`` catches;
    `convert` hashes every byte.
    """
    files = slide_files(path)
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with open(file, "rb") as stream:
            for offset in _sample_offsets(size):
                stream.seek(offset)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def _sample_offsets(size: int) -> list[int]:
    last = max(0, size - SAMPLE_BYTES)
    return sorted({last * i // (SAMPLED_BLOCKS + 1) for i in range(SAMPLED_BLOCKS + 2)})


class Fingerprints:
    """Fingerprints of slides, remembered by (path, size, mtime) so that a big cohort is not read at every start.

    Jobs read the same memory but only the main process (``remember=True``) writes it, once, when it ends.
    """

    def __init__(self, memory: Path | str, *, remember: bool) -> None:
        self.memory = Path(memory)
        self._known: dict[str, list[Any]] = {}
        self._dirty = False
        try:
            self._known = json.loads(self.memory.read_text())
        except FileNotFoundError:
            log.debug("no fingerprint memory yet at %s", self.memory)
        except (ValueError, OSError) as error:
            log.warning("fingerprint memory %s is unusable (%s); slides are read again", self.memory, error)
        if remember:
            atexit.register(self.save)

    def of(self, path: str) -> str:
        """Fingerprint of one slide, or ``missing`` when there is no such file."""
        try:
            stamp = [[s.st_size, s.st_mtime_ns] for s in (f.stat() for f in slide_files(path))]
        except FileNotFoundError:
            return "missing"
        if not stamp:
            return "missing"
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = [stamp, quick_fingerprint(path)]
            self._dirty = True
        return known[1]

    def save(self) -> None:
        """Write the memory back, if anything was learned; a read-only folder only costs time, so it is no error."""
        if not self._dirty:
            return
        try:
            write_json(self.memory, self._known)
            self._dirty = False
        except OSError as error:
            log.warning("fingerprints could not be remembered in %s: %s", self.memory, error)


# --- code -----------------------------------------------------------------------------------------------------------


@cache
def code_digest(script: Path) -> str:
    """Digest of a script and of every library module it imports, directly or through others, lazily or not."""
    digest = hashlib.sha256()
    for file in imported_files(script):
        digest.update(f"{file.relative_to(SCRIPTS).as_posix()}\0{_file_digest(file)}\n".encode())
    return digest.hexdigest()[:32]


@cache
def _file_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def imported_files(script: Path) -> tuple[Path, ...]:
    """The script and the library files in its import closure, sorted; type-checking-only imports do not count."""
    pending, seen = [script], {script}
    while pending:
        for module in _imported_modules(pending.pop()):
            for file in _module_files(module):
                if file not in seen:
                    seen.add(file)
                    pending.append(file)
    return tuple(sorted(seen))


@cache
def _module_files(module: str) -> tuple[Path, ...]:
    """Files that importing ``module`` executes: the packages above it and the module itself."""
    parts, files = module.split("."), []
    for depth in range(1, len(parts) + 1):
        if ".".join(parts[:depth]) in UNTRACKED_MODULES:
            break
        stem = SCRIPTS.joinpath(*parts[:depth])
        candidates = [stem / "__init__.py", stem.with_suffix(".py")]
        files += [c for c in candidates if c.is_file()]
    return tuple(files)


@cache
def _imported_modules(file: Path) -> frozenset[str]:
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(file.read_text(), filename=str(file))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for block in BLOCKS:
            pending += getattr(node, block, ())
    return frozenset(name for name in found if name.split(".")[0] == LIBRARY.name)


# --- the machine ----------------------------------------------------------------------------------------------------

RECORDED_PACKAGES = (
    "dask",
    "duckdb",
    "histomake",
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
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path = LIBRARY) -> dict[str, Any]:
    """Commit of the code, and whether tracked files differ from it; empty outside a git checkout."""
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
        return {}
    return {"commit": commit.stdout.strip(), "modified": bool(changes.stdout.strip())}


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


def machine() -> dict[str, Any]:
    """Where a job ran."""
    return {"host": socket.gethostname(), "cpus": os.cpu_count(), "gpus": gpu_names(), "slurm_job": slurm_job()}
