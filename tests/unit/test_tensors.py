"""Files of tensors: whole or absent, and readable by whoever may read the other results."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from histomake.base.tensors import write_tensors
from safetensors.numpy import load_file

LIBRARY = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "model.safetensors", {"weight": torch.zeros(3)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o666 & ~umask


def test_tensors_and_arrays_of_any_layout_are_read_as_they_were(tmp_path):
    counts = np.arange(5, dtype=np.uint32)
    write_tensors(tmp_path / "a", {"turned": torch.arange(6.0).reshape(2, 3).T, "counts": counts, "half": counts[::2]})
    found = load_file(tmp_path / "a")
    assert (found["turned"] == [[0, 3], [1, 4], [2, 5]]).all()
    assert found["counts"].dtype == np.uint32
    assert (found["counts"] == counts).all()
    assert (found["half"] == [0, 2, 4]).all()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "model.safetensors"
    write_tensors(target, {"a": torch.ones(2)})
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors(target, {"a": shared, "b": shared})
    assert (load_file(target)["a"] == 1).all()
    assert list(tmp_path.iterdir()) == [target]


def test_no_other_module_writes_safetensors():
    """Files that safetensors writes by itself are readable by their owner alone."""
    names = {"save_file", "serialize_file"}
    users = [
        file.name
        for file in LIBRARY.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and names & {alias.name for alias in node.names}
    ]
    assert users == ["tensors.py"]
