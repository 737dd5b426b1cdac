"""Digests of code: a job runs again when its script, or a library module that the script imports, changes.

Snakemake itself compares the date of a script and does not look at what the script imports. The digests made here are
params of the rules.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from functools import cache
from pathlib import Path

from histomake.base.errors import HistomakeError

LIBRARY = Path(__file__).resolve().parents[1]
SCRIPTS = LIBRARY.parent
UNTRACKED_MODULES = frozenset(
    {"histomake.config", "histomake.audit.sidecar", "histomake.audit.environment", "histomake.base.layout"}
)
"""Modules that code digests leave out because they compute no result: config validates values, which are compared as
params; layout names files, which Snakemake compares itself; sidecar and environment describe the job that ran."""

BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Where a statement holds other statements. Imports stand nowhere else, and expressions are most of a syntax tree."""


def require_library(scripts: Path) -> None:
    """Refuse a library that does not lie beside the scripts that use it: their digests would not tell what ran.

    ``scripts`` is the folder of a rule's script, or one above it. Raises HistomakeError.
    """
    scripts = scripts.resolve()
    folders = (folder / LIBRARY.name for folder in (scripts, *scripts.parents))
    beside = next((folder for folder in folders if (folder / "__init__.py").is_file()), None)
    if beside is None or beside.resolve() != LIBRARY:
        raise HistomakeError(
            f"the library was imported from {LIBRARY}, but the scripts are in {scripts}: code digests would not tell "
            f"what ran. Uninstall it from this environment ({sys.prefix}) with `pip uninstall histomake`, "
            "or install this checkout with `make env`"
        )


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
