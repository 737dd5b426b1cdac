"""Memory and time that jobs request: functions that Snakemake calls for every job, and again for every attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from histomake.base.units import Mpp


class _Size(msgspec.Struct):
    """The part of a manifest that says how large a slide is; without values for a slide in quarantine."""

    width: int = 0
    height: int = 0
    mpp: float = 1.0


def slide_pixels(manifest: Path | str, mpp: Mpp) -> float:
    """Pixels of a whole slide at ``mpp`` µm per pixel; 0 for a slide in quarantine.

    Raises FileNotFoundError if the slide is not converted yet; Snakemake then asks again when it is.
    """
    try:
        size = msgspec.json.decode(Path(manifest).read_bytes(), type=_Size)
    except msgspec.MsgspecError:
        return 0.0  # the job itself tells what is wrong with the manifest
    return size.width * size.height * (size.mpp / max(mpp, size.mpp)) ** 2


def memory(base_mb: float, *, per_gb: float = 0, pixel_bytes: float = 0, mpp: Mpp | None = None) -> Callable[..., int]:
    """Memory in MB, doubled with every attempt.

    Args:
        base_mb: What any job of the rule needs.
        per_gb: MB for every GB of input.
        pixel_bytes: Bytes for every pixel of the whole slide at ``mpp``, for rules that hold all of them.
        mpp: µm per pixel. The job has the slide's manifest among its inputs.
    """
    if mpp is not None:

        def held(wildcards: Any, input: Any, attempt: int) -> int:  # noqa: A002 (Snakemake's name)
            return int((base_mb + pixel_bytes * slide_pixels(input.manifest, mpp) / 1e6) * 2 ** (attempt - 1))

        return held
    if per_gb:

        def sized(wildcards: Any, input: Any, attempt: int) -> int:  # noqa: A002 (Snakemake's name)
            return int((base_mb + per_gb * input.size_mb / 1000) * 2 ** (attempt - 1))

        return sized
    return lambda wildcards, attempt: int(base_mb * 2 ** (attempt - 1))


def minutes(base: float) -> Callable[[Any, int], int]:
    """Run time in minutes, doubled with every attempt."""
    return lambda wildcards, attempt: int(base * 2 ** (attempt - 1))
