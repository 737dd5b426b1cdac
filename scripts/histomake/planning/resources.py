"""Memory and time that jobs request: functions that Snakemake calls for every job, and again for every attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from histomake.base.units import Mpp, PatchPixels

BATCH_BYTES = 800
"""Bytes that a network without gradients takes for a pixel of its input, on a CPU.

Measured with float32: U-Net 500, ResNet-50 300, ConvNeXt-T and EfficientNet-Lite0 290, ViT-S/16 130.
"""

MOST_BATCH_MB = 24_000
"""Most memory that is requested for a batch: larger ones are meant for the memory of a GPU."""


class _Size(msgspec.Struct):
    """The part of a manifest that says how large a slide is; without values for a slide in quarantine."""

    width: int = 0
    height: int = 0
    mpp: float = 1.0


def slide_pixels(manifest: Path | str, mpp: Mpp, *, enlarged: bool = False) -> float:
    """Pixels of a whole slide at ``mpp`` µm per pixel; 0 for a slide in quarantine.

    ``enlarged``: a slide that is coarser than ``mpp`` is read enlarged, so that it has more pixels than its file.

    Raises FileNotFoundError if the slide is not converted yet; Snakemake then asks again when it is.
    """
    try:
        size = msgspec.json.decode(Path(manifest).read_bytes(), type=_Size)
    except msgspec.MsgspecError:
        return 0.0  # the job itself tells what is wrong with the manifest
    return size.width * size.height * (size.mpp / (mpp if enlarged else max(mpp, size.mpp))) ** 2


def batch_pixels(batch: int, size: PatchPixels) -> int:
    """Pixels of a batch of square patches with edges of ``size`` pixels."""
    return batch * size * size


def batch_mb(pixels: float) -> float:
    """Memory in MB of a network without gradients for a batch of ``pixels`` pixels, unless it is meant for a GPU."""
    return min(BATCH_BYTES * pixels / 1e6, MOST_BATCH_MB)


def memory(
    base_mb: float,
    *,
    per_gb: float = 0,
    pixel_bytes: float = 0,
    mpp: Mpp | Callable[[Any], Mpp] | None = None,
    enlarged: bool = False,
    batch: Callable[[Any], int] | None = None,
    more: Callable[[Any, Any], float] | None = None,
) -> Callable[..., int]:
    """Memory in MB, doubled with every attempt.

    Args:
        base_mb: What any job of the rule needs.
        per_gb: MB for every GB of input.
        pixel_bytes: Bytes for every pixel of the whole slide at ``mpp``, for rules that hold all of them.
        mpp: µm per pixel, or a function of the wildcards. The job has the manifest of its slide among its inputs, or
            those of several slides, which it holds one after the other.
        enlarged: As in `slide_pixels`.
        batch: Pixels of a batch that passes a network at once, by the wildcards.
        more: Further MB, by wildcards and input (`histomake.planning.network_memory`).
    """

    def fixed(wildcards: Any) -> float:
        return base_mb + (batch_mb(batch(wildcards)) if batch is not None else 0)

    if mpp is None and not per_gb and more is None:
        return lambda wildcards, attempt: int(fixed(wildcards) * 2 ** (attempt - 1))

    def needed(wildcards: Any, input: Any, attempt: int) -> int:  # noqa: A002 (Snakemake's name)
        total = fixed(wildcards) + (per_gb * input.size_mb / 1000 if per_gb else 0)
        total += more(wildcards, input) if more is not None else 0
        if mpp is not None:
            resolution = mpp(wildcards) if callable(mpp) else mpp
            given = input.manifests if hasattr(input, "manifests") else [input.manifest]
            held = max((slide_pixels(path, resolution, enlarged=enlarged) for path in given), default=0)
            total += pixel_bytes * held / 1e6
        return int(total * 2 ** (attempt - 1))

    return needed


def minutes(base: float) -> Callable[[Any, int], int]:
    """Run time in minutes, doubled with every attempt."""
    return lambda wildcards, attempt: int(base * 2 ** (attempt - 1))
