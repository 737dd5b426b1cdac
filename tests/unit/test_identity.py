"""What identity promises: bytes and imported code count, timestamps and names do not."""

import inspect
import os
import time
from pathlib import Path

import pytest
from histomake.audit import identity
from histomake.audit.identity import Fingerprints, imported_files, quick_fingerprint
from histomake.target.outputs import outputs_of
from hypothesis import given, settings
from hypothesis import strategies as st

MEGABYTE = 1 << 20


def test_touching_or_copying_a_slide_keeps_its_fingerprint(tmp_path):
    slide = tmp_path / "a.svs"
    slide.write_bytes(os.urandom(3 * MEGABYTE))
    before = quick_fingerprint(slide)
    os.utime(slide, (1, 1))
    assert quick_fingerprint(slide) == before


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3 * MEGABYTE - 1))
def test_an_edit_in_a_sampled_block_changes_the_fingerprint(tmp_path_factory, position):
    slide = tmp_path_factory.mktemp("f") / "a.svs"
    content = bytearray(3 * MEGABYTE)
    slide.write_bytes(content)
    before = quick_fingerprint(slide)
    content[position] ^= 1
    slide.write_bytes(content)
    offsets = identity._sample_offsets(len(content))
    sampled = any(o <= position < o + identity.SAMPLE_BYTES for o in offsets)
    assert (quick_fingerprint(slide) != before) == sampled


def test_head_tail_and_size_always_count(tmp_path):
    slide = tmp_path / "a.svs"
    contents = [b"x" * MEGABYTE, b"y" + b"x" * (MEGABYTE - 1), b"x" * (MEGABYTE - 1) + b"y", b"x" * (MEGABYTE + 1)]
    seen = set()
    for content in contents:
        slide.write_bytes(content)
        seen.add(quick_fingerprint(slide))
    assert len(seen) == len(contents)


def test_the_data_folder_of_an_mrxs_slide_counts(tmp_path):
    slide = tmp_path / "a.mrxs"
    slide.write_bytes(b"head")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0001.dat").write_bytes(b"1")
    before = quick_fingerprint(slide)
    (tmp_path / "a" / "Data0001.dat").write_bytes(b"2")
    assert quick_fingerprint(slide) != before


def test_a_remembered_slide_is_not_read_again_until_its_stamp_changes(tmp_path, monkeypatch):
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"1" * 1000)
    memory = Fingerprints(tmp_path / "memory.json", remember=False)
    first = memory.of(str(slide))
    memory.save()
    with monkeypatch.context() as patch:
        patch.setattr(identity, "quick_fingerprint", lambda path: pytest.fail("read again"))
        assert Fingerprints(tmp_path / "memory.json", remember=False).of(str(slide)) == first
    time.sleep(0.01)
    slide.write_bytes(b"2" * 1000)
    os.utime(slide, (5, 5))
    assert Fingerprints(tmp_path / "memory.json", remember=False).of(str(slide)) != first


def test_a_damaged_memory_only_costs_time(tmp_path):
    (tmp_path / "memory.json").write_text("{half")
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"1")
    assert Fingerprints(tmp_path / "memory.json", remember=False).of(str(slide)) == quick_fingerprint(slide)


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
    monkeypatch.setattr(identity, "SCRIPTS", tmp_path)
    monkeypatch.setattr(identity, "LIBRARY", package)
    caches = (identity.code_digest, identity.imported_files, identity._imported_modules, identity._module_files)
    for function in (*caches, identity._file_digest):
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
    assert identity._imported_modules(script) == {f"histomake.{name}" for name in places}


def test_the_import_closure_holds_lazy_and_indirect_imports_only(library):
    script, package = library
    assert set(imported_files(script)) == {script, package / "__init__.py", package / "one.py", package / "two.py"}


@pytest.mark.parametrize(("name", "counts"), [("two.py", True), ("three.py", False), ("config/part.py", False)])
def test_only_imported_modules_change_a_code_digest(library, name, counts):
    script, package = library
    before = identity.code_digest(script)
    (package / name).write_text("X = 2\n")
    identity.code_digest.cache_clear()
    identity._file_digest.cache_clear()
    assert (identity.code_digest(script) != before) == counts


def test_the_slurm_job_is_found_though_its_variables_were_removed(tmp_path, monkeypatch):
    import subprocess
    import sys

    inner = "import histomake.audit.identity as p; print(p.slurm_job())"
    middle = (
        "import os, subprocess, sys; e = {k: v for k, v in os.environ.items() if not k.startswith('SLURM')}; "
        f"subprocess.run([sys.executable, '-c', {inner!r}], env=e, check=True)"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PYTHONPATH", str(identity.SCRIPTS))
    found = subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "4711"


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "front_page.py"])
def test_the_order_of_a_network_s_outputs_is_part_of_the_code_that_uses_it(script):
    module = inspect.getsourcefile(outputs_of)
    assert Path(module) in imported_files(identity.SCRIPTS / script)
