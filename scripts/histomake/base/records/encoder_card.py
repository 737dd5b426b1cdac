"""The card of an encoder: what is needed to use its weights on patches, and under which licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from histomake.base.records.record import Positive, PositiveMpp, Record, Size

Pool = Literal["network", "token", "mean", "token+mean"]
"""How the tokens or the feature map of a network become one vector."""


class EncoderCard(Record, frozen=True, kw_only=True):
    """An encoder: a network that turns a patch into a vector. Its weights usually lie beside the card."""

    NAME: ClassVar[str] = "encoder card"
    REMEDY: ClassVar[str] = "See the cards in config/encoders for complete examples"

    name: str
    """Name of the encoder, for people."""
    architecture: str
    """``timm:`` or ``torchvision:`` with the name of the network there; ``onnx``: the file model.onnx beside the \
card, which is run on the CPU and whose ``pool`` must be ``network``."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Arguments of the network's constructor beside its name. ``mlp_layer`` and ``act_layer`` are names of layers."""
    mpp: PositiveMpp | None
    """Resolution of the patches that the encoder was trained on, in µm per pixel; null if there is none, as with \
ImageNet."""
    px: Size
    """Edge of the input in pixels. Patches of another size are resized to it."""
    mean: tuple[float, float, float]
    """Mean of R, G and B in [0, 1] that is subtracted from the input."""
    std: tuple[Positive, Positive, Positive]
    """Standard deviation of R, G and B in [0, 1] by which the input is divided."""
    pool: Pool
    """``network``: as the network itself does; ``token``: its class token; ``mean``: mean of its patch tokens or of \
its feature map; ``token+mean``: both, one after the other."""
    dimensions: Size
    """Length of the vector of a patch."""
    licence: str
    """Licence of the weights."""
    sha256: str | None = None
    """sha256 of the file with the weights, which is compared when they are read; null: not compared."""
    source: str = ""
    """Where the weights come from, such as a model hub and a name there, or a paper."""

    @classmethod
    def of(cls, path: Path) -> EncoderCard | None:
        """The card in a ``model.json``; None if it is a model card, which has a kind of task. Raises RecordError."""
        try:
            described = msgspec.json.decode(path.read_bytes(), type=_Kind)
        except msgspec.MsgspecError:
            return cls.read(path)
        return cls.read(path) if described.kind is msgspec.UNSET else None


class _Kind(msgspec.Struct):
    """The field that distinguishes a model card from an encoder card."""

    kind: Any = msgspec.UNSET
