"""The resumable state of a training run: one safetensors file, replaced atomically, free of pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from histomake.base.errors import HistomakeError
from histomake.base.tensors import write_tensors

STATE_FILE = "state.safetensors"

type Value = Tensor | str | int | float | bool | Sequence[Value] | Mapping[str, Value] | Mapping[int, Value] | None
type State = Mapping[str, Value]
"""What a checkpoint can hold."""


def save_state(folder: Path, state: State) -> None:
    """Write ``state``: nested dicts and lists of tensors and JSON values. Floats survive bit for bit."""
    tensors: dict[str, Tensor] = {}
    skeleton = _detach_tensors(state, tensors, "")
    write_tensors(folder / STATE_FILE, tensors, {"state": json.dumps(skeleton)})


def load_state(folder: Path) -> dict[str, Value] | None:
    """The state saved last in ``folder``, or None. Integer keys of dicts come back as integers."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            skeleton = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return cast("dict[str, Value]", _attach_tensors(skeleton, tensors))
    except (SafetensorError, KeyError, TypeError) as error:
        raise HistomakeError(f"{path} is not a training state ({error}); delete it to train from the start") from error


def remove_state(folder: Path) -> None:
    """Remove the state of a finished run, so that a forced re-run trains again."""
    (folder / STATE_FILE).unlink(missing_ok=True)


def digest(content: object) -> str:
    """Hex sha256 of JSON content, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _detach_tensors(value: Value, tensors: dict[str, Tensor], path: str) -> dict[str, object]:
    """Describe ``value`` as JSON; its tensors are put into ``tensors`` and referred to by path."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"dict": [[key, _detach_tensors(item, tensors, f"{path}/{key}")] for key, item in value.items()]}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {"list": [_detach_tensors(item, tensors, f"{path}/{i}") for i, item in enumerate(value)]}
    return {"value": value}


def _attach_tensors(node: dict[str, object], tensors: Mapping[str, Tensor]) -> Value:
    """The inverse of `_detach_tensors`."""
    ((form, content),) = node.items()
    if form == "tensor":
        return tensors[cast("str", content)]
    if form == "dict":
        pairs = cast("list[tuple[str, dict[str, object]]]", content)
        return {key: _attach_tensors(item, tensors) for key, item in pairs}
    if form == "list":
        return [_attach_tensors(item, tensors) for item in cast("list[dict[str, object]]", content)]
    return cast("str | int | float | bool | None", content)
