"""Digests of code: a job runs again when its script, or a library module that the script imports, changes.

Snakemake itself compares the date of a script and does not look at what the script imports. The digests made here are
params of the rules. They are of syntax trees without docstrings, so prose and formatting re-run nothing.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
"""Where a statement holds other statements. Imports and docstrings stand nowhere else, and expressions are most of a
syntax tree."""

FIELDS = {
    kind: tuple(field for field in kind._fields if field not in ("ctx", "kind", "type_comment", "type_ignores"))
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
"""Fields of each kind of node that digests count. The others follow from the rest or are comments."""


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
        digest.update(f"{file.relative_to(SCRIPTS).as_posix()}\0{_parsed(file).digest}\n".encode())
    return digest.hexdigest()[:32]


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
        stem = SCRIPTS.joinpath(*parts[:depth])
        candidates = [stem / "__init__.py", stem.with_suffix(".py")]
        files += [c for c in candidates if c.is_file()]
    return tuple(files)


@dataclass(frozen=True)
class _Parsed:
    """A file's digest, and the library's modules that it imports; both from one syntax tree, since parsing is slow."""

    digest: str
    modules: frozenset[str]


@cache
def _parsed(file: Path) -> _Parsed:
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
