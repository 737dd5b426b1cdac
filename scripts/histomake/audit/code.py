"""Digests of code: a job runs again when its script, or a library module that the script imports, changes.

Snakemake itself compares the date of a script and does not look at what the script imports. The digests made here are
params of the rules. They are of syntax trees without docstrings, so prose and formatting re-run nothing.
"""

from __future__ import annotations

import ast
import atexit
import hashlib
import logging
import os
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file

log = logging.getLogger(__name__)

LIBRARY = Path(__file__).resolve().parents[1]
SCRIPTS = LIBRARY.parent
UNTRACKED_MODULES = frozenset(
    {
        "histomake.config",
        "histomake.audit.sidecar",
        "histomake.audit.caches",
        "histomake.audit.environment",
        "histomake.audit.gpus",
        "histomake.base.layout",
    }
)
"""Modules that code digests leave out because they compute no result: config validates values, which are compared as
params; layout names files, which Snakemake compares itself; sidecar and environment describe the job that ran; gpus
decides which of equal GPUs it uses; caches decides what is read again."""

BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Fields of a statement that hold other statements. Imports and docstrings occur only there, and expressions are most
of a syntax tree."""

FIELDS = {
    kind: tuple(field for field in kind._fields if field not in ("ctx", "kind", "type_comment", "type_ignores"))
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
"""Fields of each kind of node that digests count. The others follow from the rest or are comments."""


def require_library(scripts: Path) -> None:
    """Refuse a library that is not next to the scripts that use it: digests would not describe the code that ran.

    ``scripts`` is the folder of a rule's script, or one above it. Raises HistomakeError.
    """
    scripts = scripts.resolve()
    folders = (folder / LIBRARY.name for folder in (scripts, *scripts.parents))
    beside = next((folder for folder in folders if (folder / "__init__.py").is_file()), None)
    if beside is None or beside.resolve() != LIBRARY:
        raise HistomakeError(
            f"the library was imported from {LIBRARY}, but the scripts are in {scripts}: code digests would not "
            f"describe what ran. Uninstall it from this environment ({sys.prefix}) with `pip uninstall histomake`, "
            "or install this checkout with `make env`"
        )


@cache
def code_digest(script: Path) -> str:
    """Digest of a script and of every library module it imports, directly or through others, lazily or not."""
    digest = hashlib.sha256()
    for file in imported_files(script):
        digest.update(f"{_name(file)}\0{_parsed(file).digest}\n".encode())
    return digest.hexdigest()[:32]


@cache
def _name(file: Path) -> str:
    return file.relative_to(SCRIPTS).as_posix()


def rules_digest(file: Path) -> str:
    """Digest of a Snakefile or one of its parts, without comments and blank lines."""
    digest = hashlib.sha256()
    with tokenize.open(file) as stream:
        for token in tokenize.generate_tokens(stream.readline):
            if token.type not in (tokenize.COMMENT, tokenize.NL):
                digest.update(f"{token.type}\0{token.string.strip()}\0".encode())
    return digest.hexdigest()


@cache
def imported_files(script: Path) -> tuple[Path, ...]:
    """The script and the library files in its import closure, sorted; type-checking-only imports do not count."""
    pending, seen = [script], {script}
    while pending:
        for module in _parsed(pending.pop()).modules:
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
        stem = os.path.join(SCRIPTS, *parts[:depth])
        files += [Path(place) for place in (f"{stem}/__init__.py", f"{stem}.py") if os.path.isfile(place)]
    return tuple(files)


class _Parsed(msgspec.Struct, frozen=True, array_like=True):
    """A file's digest, and the library's modules that it imports; both from one syntax tree, since parsing is slow."""

    digest: str
    modules: frozenset[str]


class _Memory(msgspec.Struct):
    """Files that were parsed before: their sizes, times (ns) and results by path. ``version``: of the digests."""

    version: str
    files: dict[str, tuple[tuple[int, int, int], _Parsed]]


_memory = _Memory("", {})


def use_memory(path: Path, *, save: bool) -> None:
    """Parse only files that have changed since they were last parsed, according to the file ``path``.

    The time of the last change of the inode is compared, too, which no program can set. With ``save``, what is parsed
    in this process is added to the file when the process ends. It is a cache: it may be deleted.
    """
    version = f"{sys.version_info[:2]} {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}"
    _memory.version, _memory.files = version, {}
    with suppress(OSError, msgspec.MsgspecError):
        known = msgspec.json.decode(path.read_bytes(), type=_Memory)
        _memory.files = known.files if known.version == version else {}
    if save:
        atexit.register(_save, path, set(_memory.files.values()))


def _save(path: Path, before: set[object]) -> None:
    if before == set(_memory.files.values()):
        return
    try:
        with atomic_file(path) as aside:
            aside.write_bytes(msgspec.json.encode(_memory, order="sorted"))
    except OSError as error:
        log.warning("digests of code could not be written to %s: %s", path, error)


@cache
def _parsed(file: Path) -> _Parsed:
    found = file.stat()
    stamp = found.st_size, found.st_mtime_ns, found.st_ctime_ns
    known = _memory.files.get(str(file))
    if known is None or known[0] != stamp:
        known = _memory.files[str(file)] = stamp, _parse(file)
    return known[1]


def _parse(file: Path) -> _Parsed:
    tree = ast.parse(file.read_bytes(), filename=str(file))
    names: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for block in BLOCKS:
            statements = getattr(node, block, None)
            if statements:
                statements[:] = _executed(statements)
                pending += statements
    words: list[str] = []
    _write(tree, words.append)
    digest = hashlib.sha256("\0".join(words).encode()).hexdigest()
    return _Parsed(digest, frozenset(name for name in names if name.split(".")[0] == LIBRARY.name))


def _executed(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements that can change a result: neither docstrings, nor what only type checkers see, nor the version."""
    for statement in statements:
        if isinstance(statement, ast.Expr):
            if not (isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)):
                yield statement
        elif isinstance(statement, ast.If) and _is_named(statement.test, "TYPE_CHECKING"):
            yield from _executed(statement.orelse)
        elif not (isinstance(statement, ast.Assign) and _is_named(statement.targets[0], "__version__")):
            yield statement


def _is_named(expression: ast.AST, name: str) -> bool:
    return name in (getattr(expression, "id", None), getattr(expression, "attr", None))


def _write(node: ast.AST, write: Callable[[str], object]) -> None:
    """Write a syntax tree as words, without positions. `ast.dump` takes three times as long."""
    write(type(node).__name__)
    for field in FIELDS[type(node)]:
        value = getattr(node, field)
        if isinstance(value, list):
            write("[")
            for item in value:
                _write(item, write) if isinstance(item, ast.AST) else write(repr(item))
            write("]")
        elif isinstance(value, ast.AST):
            _write(value, write)
        else:
            write(repr(value))
