"""The card of a network of someone else that finds tissue."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import msgspec

from histomake.base.records.record import Positive, PositiveMpp, Record, Size


class SegmenterCard(Record, frozen=True, kw_only=True):
    """A network that labels pixels, for ``tissue.model``. Its weights lie beside the card."""

    NAME: ClassVar[str] = "segmenter card"
    REMEDY: ClassVar[str] = "See `tissue.model` in config/README.md for a complete example"

    name: str
    """Name of the network, for people."""
    architecture: str
    """``onnx`` for a file model.onnx, or the name of a segmentation network as in ``model.name``, for a file \
model.safetensors."""
    encoder: str = "resnet18"
    """Encoder of the network, as in ``model.encoder``; not of ``onnx``."""
    mpp: PositiveMpp
    """Resolution that the network was trained on, in µm per pixel."""
    px: Size
    """Edge of its input in pixels."""
    colour: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels of its input."""
    mean: tuple[float, float, float]
    """Mean of R, G and B in [0, 1] that is subtracted from the input."""
    std: tuple[Positive, Positive, Positive]
    """Standard deviation of R, G and B in [0, 1] by which the input is divided."""
    class_names: list[str]
    """Names of the output channels, in order. A single channel is the score of that class against all others."""
    tissue: list[str]
    """Classes that are tissue."""
    output: Literal["logits", "probabilities"]
    """What the output channels are."""
    licence: str
    """Licence of the weights."""
    sha256: str | None = None
    """sha256 of the file with the weights, which is compared when it is read; null: not compared."""
    source: str = ""
    """Where the network comes from."""


class _Kind(msgspec.Struct):
    """What tells this card from that of a model of the workflow, which has a kind of task."""

    kind: str = ""
    class_names: list[str] = msgspec.field(default_factory=list)


def is_segmenter_card(path: Path) -> bool:
    """Whether a ``model.json`` is a segmenter card and no card of a model of this workflow."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Kind)
    except (msgspec.MsgspecError, OSError):  # whoever reads the model says what is wrong
        return False
    return not found.kind and bool(found.class_names)
