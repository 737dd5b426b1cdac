"""Owns the resumable state of a training run: one safetensors file, replaced atomically, free of pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file

STATE_FILE = "state.safetensors"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state``: nested dicts and lists of tensors and JSON values. Floats survive bit for bit."""
    tensors: dict[str, Tensor] = {}
    skeleton = _detach_tensors(state, tensors, "")
    with atomic_file(folder / STATE_FILE) as aside:
        save_file(tensors, aside, metadata={"state": json.dumps(skeleton)})


def load_state(folder: Path) -> dict[str, Any] | None:
    """The state saved last in ``folder``, or None. Integer keys of dicts come back as integers."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            skeleton = json.loads(file.metadata()["state"])
            return _attach_tensors(skeleton, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise HistomakeError(f"{path} is not a training state ({error}); delete it to train from the start") from error


def remove_state(folder: Path) -> None:
    """Forget the state of a finished run, so that a forced re-run trains again."""
    (folder / STATE_FILE).unlink(missing_ok=True)


def _detach_tensors(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[key, _detach_tensors(item, tensors, f"{path}/{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_detach_tensors(item, tensors, f"{path}/{i}") for i, item in enumerate(value)]}
    return {"value": value}


def _contiguous() -> Any:
    from torch import contiguous_format

    return contiguous_format


def _attach_tensors(node: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    (kind, content), *_ = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _attach_tensors(item, tensors) for key, item in content}
    if kind == "list":
        return [_attach_tensors(item, tensors) for item in content]
    return content
