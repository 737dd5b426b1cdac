"""Writing of safetensors files."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from histomake.base.files import atomic_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor | NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors or arrays of any layout to a safetensors file, atomically, with the permissions of any new file.

    safetensors alone leaves a file that only its owner may read.
    """
    contiguous = {name: torch.as_tensor(value).contiguous() for name, value in tensors.items()}
    with atomic_file(path) as aside:
        aside.touch()
        permissions = stat.S_IMODE(aside.stat().st_mode)
        save_file(contiguous, aside, metadata=dict(metadata) if metadata is not None else None)
        aside.chmod(permissions)
