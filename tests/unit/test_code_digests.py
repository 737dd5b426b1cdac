"""Digests of code: the modules that a script imports count, prose does not."""

import inspect
from pathlib import Path

import pytest
from histomake.audit import code
from histomake.audit.code import imported_files
from histomake.target.outputs import outputs_of


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
    caches = (code.code_digest, code.imported_files, code._imported_modules, code._module_files)
    for function in (*caches, code._file_digest):
        function.cache_clear()
    yield script, package
    for function in caches:
        function.cache_clear()


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
    assert code._imported_modules(script) == {f"histomake.{name}" for name in places}


def test_the_import_closure_holds_lazy_and_indirect_imports_only(library):
    script, package = library
    assert set(imported_files(script)) == {script, package / "__init__.py", package / "one.py", package / "two.py"}


@pytest.mark.parametrize(("name", "counts"), [("two.py", True), ("three.py", False), ("config/part.py", False)])
def test_only_imported_modules_change_a_code_digest(library, name, counts):
    script, package = library
    before = code.code_digest(script)
    (package / name).write_text("X = 2\n")
    code.code_digest.cache_clear()
    code._file_digest.cache_clear()
    assert (code.code_digest(script) != before) == counts


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "front_page.py"])
def test_the_order_of_a_network_s_outputs_is_part_of_the_code_that_uses_it(script):
    module = inspect.getsourcefile(outputs_of)
    assert Path(module) in imported_files(code.SCRIPTS / script)
