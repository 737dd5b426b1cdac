"""Digests of code: the modules that a script imports count, prose does not."""

import ast
import inspect
import os
from pathlib import Path

import pytest
from histomake.audit import code
from histomake.audit.code import imported_files
from histomake.target.outputs import outputs_of


def forget():
    """Empty the caches, as a new process would."""
    for function in (code.code_digest, code.imported_files, code._parsed, code._module_files, code._name):
        function.cache_clear()
    code._memory.files = {}


def digest_of(text, tmp_path):
    """Digest of one file with that text."""
    file = tmp_path / "module.py"
    file.write_text(text)
    forget()
    return code._parsed(file).digest


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small library: script → one → two; three is only for the type checker; config is left out."""
    package = tmp_path / "histomake"
    (package / "config").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "one.py": "def f():\n    from histomake import two\n",
        "two.py": "X = 1\n",
        "three.py": "",
        "config/__init__.py": "from histomake.config.part import C\n",
        "config/part.py": "",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    script = tmp_path / "rule.py"
    script.write_text(
        "from typing import TYPE_CHECKING\nfrom histomake.one import f\nfrom histomake.config import C\n"
        "if TYPE_CHECKING:\n    from histomake.three import T\n"
    )
    monkeypatch.setattr(code, "SCRIPTS", tmp_path)
    monkeypatch.setattr(code, "LIBRARY", package)
    forget()
    yield script, package
    forget()


@pytest.fixture
def parsed(monkeypatch):
    """Names of the files that are parsed."""
    names, parse = [], code._parse
    monkeypatch.setattr(code, "_parse", lambda file: names.append(file.name) or parse(file))
    return names


@pytest.fixture
def memory(library, tmp_path):
    """The digest of the library's script, and the memory that a process has left which computed it."""
    script, _ = library
    digest, path = code.code_digest(script), tmp_path / "results" / "code.json"
    code.use_memory(path, save=False)
    forget()
    code.code_digest(script)
    code._save(path, set())
    forget()
    return digest, path


def test_what_has_not_changed_is_not_parsed_by_the_next_process(library, memory, parsed):
    digest, path = memory
    code.use_memory(path, save=False)
    assert code.code_digest(library[0]) == digest
    assert parsed == []


def test_a_changed_file_is_parsed_though_its_size_and_date_are_as_before(library, memory, parsed):
    digest, path = memory
    file = library[1] / "two.py"
    before = file.stat()
    file.write_text(file.read_text().replace("1", "2"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    code.use_memory(path, save=False)
    assert code.code_digest(library[0]) != digest
    assert parsed == ["two.py"]


@pytest.mark.parametrize("content", [b"", b'{"version": "of other digests", "files": {}}'])
def test_without_a_usable_memory_every_file_is_parsed(library, memory, parsed, content):
    digest, path = memory
    path.write_bytes(content)
    code.use_memory(path, save=False)
    assert code.code_digest(library[0]) == digest
    assert {"rule.py", "one.py", "two.py"} <= set(parsed)


def test_imports_are_found_in_every_kind_of_block(tmp_path):
    places = {
        "a": "try:\n    {}\nexcept E:\n    pass",
        "b": "try:\n    pass\nexcept E:\n    {}",
        "c": "try:\n    pass\nfinally:\n    {}",
        "d": "match x:\n    case 1:\n        {}",
        "e": "class C:\n    async def f(self):\n        async with x:\n            {}",
        "f": "for x in y:\n    pass\nelse:\n    {}",
        "g": "while x:\n    if y:\n        pass\n    elif z:\n        {}",
    }
    script = tmp_path / "script.py"
    script.write_text("\n".join(text.format(f"import histomake.{name}") for name, text in places.items()))
    assert code._parsed(script).modules == {f"histomake.{name}" for name in places}


def test_the_import_closure_holds_lazy_and_indirect_imports_only(library):
    script, package = library
    assert set(imported_files(script)) == {script, package / "__init__.py", package / "one.py", package / "two.py"}


@pytest.mark.parametrize(("name", "counts"), [("two.py", True), ("three.py", False), ("config/part.py", False)])
def test_only_imported_modules_change_a_code_digest(library, name, counts):
    script, package = library
    before = code.code_digest(script)
    (package / name).write_text("X = 2\n")
    forget()
    assert (code.code_digest(script) != before) == counts


CODE = '''
"""A module."""

from typing import TYPE_CHECKING

LIMIT = 0.5
"""Most of something."""


class C:
    """A class."""

    size: int = 3
    """Edge in pixels."""

    @property
    def area(self) -> int:
        """Area in pixels."""
        return self.size * self.size


def f(x, *, y=1):
    """A function."""
    # A comment.
    if x > LIMIT:
        return x + y
    return f"{x:.2f} of {y}"
'''

SAME = {
    "docstring of a module": ('"""A module."""', '"""Another\n\ntext."""'),
    "docstring of a class": ('"""A class."""', ""),
    "docstring of an attribute": ('"""Edge in pixels."""', '"""Edge in µm."""'),
    "docstring of a constant": ('"""Most of something."""', ""),
    "docstring of a function": ('"""A function."""', "'A function that adds.'"),
    "comment": ("# A comment.", "# Another one.\n\n    # And one more."),
    "comment behind code": ("return x + y", "return x + y  # noqa: F821"),
    "quotes and brackets": ('return f"{x:.2f} of {y}"', "return (f'{x:.2f} of {y}')"),
    "line breaks": ("def f(x, *, y=1):", "def f(\n    x,\n    *,\n    y=1,\n):"),
    "imports for type checkers": ("LIMIT = 0.5", "if TYPE_CHECKING:\n    from a import B\nLIMIT = 0.5"),
    "version": ("LIMIT = 0.5", '__version__ = "9.9"\nLIMIT = 0.5'),
}

OTHER = {
    "number": ("0.5", "0.25"),
    "type of a number": ("size: int = 3", "size: int = 3.0"),
    "name": ("self.size * self.size", "self.size * self.edge"),
    "operator": ("x + y", "x - y"),
    "comparison": ("x > LIMIT", "x >= LIMIT"),
    "default": ("y=1", "y=2"),
    "keyword": ("*, y", "y"),
    "decorator": ("@property", "@cached_property"),
    "annotation": ("size: int", "size: float"),
    "text": (" of ", " from "),
    "format of a number": (".2f", ".3f"),
    "statement": ("    if x > LIMIT:\n        return x + y\n", ""),
    "nesting": ("    return f", "        return f"),
    "import": ("import TYPE_CHECKING", "import TYPE_CHECKING, Any"),
    "else of a check for type checkers": ("LIMIT = 0.5", "if TYPE_CHECKING:\n    A = 1\nelse:\n    A = 2\nLIMIT = 0.5"),
    "string that is a value": ('"""Most of something."""', 'print("""Most of something.""")'),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_prose_and_formatting_do_not_change_a_digest(tmp_path, change):
    assert change[0] in CODE
    assert digest_of(CODE.replace(*change), tmp_path) == digest_of(CODE, tmp_path)


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_code_changes_a_digest(tmp_path, change):
    assert change[0] in CODE
    assert digest_of(CODE.replace(*change), tmp_path) != digest_of(CODE, tmp_path)


def test_comments_and_formatting_of_the_library_are_not_part_of_its_digests(tmp_path):
    for file in sorted(code.SCRIPTS.rglob("*.py")):
        text = file.read_text()
        assert digest_of(ast.unparse(ast.parse(text)), tmp_path) == digest_of(text, tmp_path), file


def test_no_code_of_a_job_reads_its_own_docstrings():
    files = {file for script in code.SCRIPTS.glob("*.py") for file in imported_files(script)}
    assert [file for file in files if "__doc__" in file.read_text()] == []


def test_comments_of_rules_are_not_part_of_their_digest(tmp_path):
    def digest(text):
        (tmp_path / "a.smk").write_text(text)
        return code.rules_digest(tmp_path / "a.smk")

    rule = 'rule a:\n    output:\n        "a.txt",  # why\n    # more\n    script:\n        "a.py"\n'
    assert digest(rule) == digest(rule.replace("# why", "# because").replace("    # more\n", "\n"))
    assert digest(rule) != digest(rule.replace("a.txt", "b.txt"))
    assert digest(rule) != digest(rule.replace('    script:\n        "a.py"\n', ""))


@pytest.mark.parametrize("script", ["train.py", "predict_slide.py"])
def test_training_and_prediction_do_not_depend_on_how_tissue_is_found(script):
    tissue = code.SCRIPTS / "histomake" / "tissue"
    assert not [file for file in imported_files(code.SCRIPTS / script) if file.is_relative_to(tissue)]


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "front_page.py"])
def test_the_order_of_a_network_s_outputs_is_part_of_the_code_that_uses_it(script):
    module = inspect.getsourcefile(outputs_of)
    assert Path(module) in imported_files(code.SCRIPTS / script)
