"""Encoders: frozen networks that turn a patch into a vector, from timm, torchvision, or a folder with a card.

A folder holds ``model.json``, a card with all that is needed to build the network and to prepare its input, and
``model.safetensors``. Pickles and TorchScript are refused: reading them can run code.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import timm
import torch
import torchvision
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import DESCRIPTION, ONNX, WEIGHTS
from histomake.base.records.encoder_card import EncoderCard
from histomake.config import Encoder, Grid
from histomake.model.build import IMAGENET_MEAN, IMAGENET_STD, TimmClassifier, check_timm
from histomake.model.onnx import OnnxNetwork
from histomake.model.reuse import PICKLED
from histomake.model.transfer import describing, load_weights, read_weights

log = logging.getLogger(__name__)

LAYERS: dict[str, Callable[..., nn.Module]] = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU, "GELU": nn.GELU}
"""Layers that a card's options may name."""

LAYER_OPTIONS = ("mlp_layer", "act_layer")

SAME_MPP = 0.05
"""Relative difference below which the resolution of a grid and of a card are the same: scanners differ by more."""

NO_NETWORK = (OSError, ValueError, RuntimeError)
"""What timm raises when a model hub cannot be reached, or does not have a model."""


@dataclass(frozen=True)
class FrozenEncoder:
    """An encoder in eval mode.

    network: maps normalised patches float (n, 3, px, px) to vectors (n, dimensions).
    weights: sha256 of the file with its weights, or of the weights themselves where there is no file.
    """

    network: nn.Module
    card: EncoderCard
    weights: str


def load_encoder(encoder: Encoder, grid: Grid, *, name: str) -> FrozenEncoder:
    """Build an encoder of the configuration with its weights.

    ``name`` is its key under ``encoders``, for messages. Encoders with source ``task`` are not built here, see
    `histomake.features.encoders`. Raises HistomakeError for weights that cannot be used, ConfigError for settings.
    """
    try:
        network, card, weights = _SOURCES[encoder.source](encoder, grid)
        if encoder.pool != "auto":
            card = msgspec.structs.replace(card, pool=encoder.pool)
        pooled = PooledNetwork(network, card).eval()
        found = vector_length(pooled, card)
    except HistomakeError as error:
        raise type(error)(f"encoders.{name}: {error}") from error
    if encoder.pool == "auto" and encoder.source == "folder" and found != card.dimensions:
        raise HistomakeError(
            f"encoders.{name}: the card says that a patch becomes {card.dimensions} numbers, but the network and pool "
            f"{card.pool} make {found}; correct dimensions or pool in {encoder.target}/{DESCRIPTION}"
        )
    card = msgspec.structs.replace(card, dimensions=found)
    _compare_mpp(card, grid, encoder, name)
    return FrozenEncoder(pooled, card, weights)


def _compare_mpp(card: EncoderCard, grid: Grid, encoder: Encoder, name: str) -> None:
    """Warn if patches reach the encoder at another resolution than it was trained on."""
    seen = grid.mpp * grid.size / card.px
    if card.mpp is not None and abs(seen / card.mpp - 1) > SAME_MPP:
        log.warning(
            "encoders.%s: %s was trained at %g µm/px, but sees patches at %.3g µm/px: grid %s has %d px at %g µm/px, "
            "resized to %d px",
            name,
            card.name,
            card.mpp,
            seen,
            encoder.grid,
            grid.size,
            grid.mpp,
            card.px,
        )


# --- sources --------------------------------------------------------------------------------------------------------


def _from_folder(encoder: Encoder, grid: Grid) -> tuple[nn.Module, EncoderCard, str]:
    folder = Path(encoder.target)
    if not (folder / DESCRIPTION).is_file():
        raise HistomakeError(f"{folder} has no {DESCRIPTION}; see the cards in config/encoders")
    card = EncoderCard.read(folder / DESCRIPTION)
    if encoder.size is not None:
        card = msgspec.structs.replace(card, px=encoder.size)
    if card.architecture == "onnx":
        if encoder.weights is not None:
            raise ConfigError("weights: the network of an ONNX file has its own; remove the key")
        onnx = OnnxNetwork(folder / ONNX, sha256=card.sha256)
        return onnx, card, onnx.digest
    path = Path(encoder.weights) if isinstance(encoder.weights, str) else folder / WEIGHTS
    with describing(folder / DESCRIPTION, card.REMEDY):
        network = build_network(card)
    digest = load_file(network, path, expected=card.sha256)
    return network, card, digest


def _from_timm(encoder: Encoder, grid: Grid) -> tuple[nn.Module, EncoderCard, str]:
    check_timm(encoder.target, key="name")
    known = timm.get_pretrained_cfg(encoder.target)
    fixed = known.input_size[1] if known and known.fixed_input_size else None
    card = EncoderCard(
        name=encoder.target,
        architecture=f"timm:{encoder.target}",
        mpp=None,
        px=encoder.size or fixed or grid.size,
        mean=three(known.mean) if known else IMAGENET_MEAN,
        std=three(known.std) if known else IMAGENET_STD,
        pool="network",
        dimensions=1,
        licence=(known.license if known else None) or "unknown",
        source="timm",
    )
    network, digest = _weighted(card, encoder, pretrained=encoder.weights is True)
    return network, card, digest


def _from_torchvision(encoder: Encoder, grid: Grid) -> tuple[nn.Module, EncoderCard, str]:
    card = EncoderCard(
        name=encoder.target,
        architecture=encoder.name,
        mpp=None,
        px=encoder.size or grid.size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        pool="network",
        dimensions=1,
        licence="BSD-3-Clause",
        source="torchvision",
    )
    network, digest = _weighted(card, encoder, pretrained=False)
    return network, card, digest


def _from_hub(encoder: Encoder, grid: Grid) -> tuple[nn.Module, EncoderCard, str]:
    network = _download(encoder.name, {"num_classes": 0})
    found = cast("dict[str, Any]", getattr(network, "pretrained_cfg", {}))
    card = EncoderCard(
        name=encoder.target,
        architecture=f"timm:{found.get('architecture', encoder.target)}",
        mpp=None,
        px=encoder.size or int(found.get("input_size", (3, grid.size))[1]),
        mean=three(found.get("mean", IMAGENET_MEAN)),
        std=three(found.get("std", IMAGENET_STD)),
        pool="network",
        dimensions=1,
        licence=found.get("license") or "unknown",
        source=encoder.name,
    )
    return network, card, state_digest(network)


def three(values: Sequence[float]) -> tuple[float, float, float]:
    """Values of R, G and B."""
    first, second, third = values
    return first, second, third


_SOURCES = {
    "folder": _from_folder,
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "hf-hub": _from_hub,
}


def _weighted(card: EncoderCard, encoder: Encoder, *, pretrained: bool) -> tuple[nn.Module, str]:
    """The network with the weights of a file, of timm, or the same random ones every time; and their digest."""
    if pretrained:
        network = _download(encoder.target, _timm_options(card))
        return network, state_digest(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(card)
    if isinstance(encoder.weights, str):
        return network, load_file(network, Path(encoder.weights), expected=None)
    return network, state_digest(network)


def _download(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, **options)
    except NO_NETWORK as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HistomakeError(
            f"the weights of {name} cannot be downloaded ({first}). Where there is a network, download "
            f"{WEIGHTS} of {name.removeprefix('hf-hub:')}; put it into a folder of this machine with a card "
            f"{DESCRIPTION} (see config/encoders), and set name: folder:<that folder>"
        ) from error


# --- networks -------------------------------------------------------------------------------------------------------


def build_network(card: EncoderCard) -> nn.Module:
    """Build the network of a card with random weights, without its last layer.

    Raises HistomakeError if the card names an unknown network, layer or option.
    """
    library, _, name = card.architecture.partition(":")
    if library == "timm":
        check_timm(name, key="architecture")
        try:
            return timm.create_model(name, pretrained=False, **_timm_options(card))
        except TypeError as error:
            raise HistomakeError(f"options of {card.name} do not fit {card.architecture}: {error}") from error
    if library == "torchvision":
        return _torchvision_network(name)
    raise HistomakeError(f"architecture: {card.architecture} begins with neither timm: nor torchvision:")


def _timm_options(card: EncoderCard) -> dict[str, Any]:
    name = card.architecture.partition(":")[2]
    known = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"img_size": card.px} if known and known.fixed_input_size else {}
    options |= card.options
    for option in LAYER_OPTIONS:
        if option in options:
            if options[option] not in LAYERS:
                raise HistomakeError(f"options.{option}: {options[option]} is none of {', '.join(LAYERS)}")
            options[option] = LAYERS[options[option]]
    return {"num_classes": 0, **options}


def _torchvision_network(name: str) -> nn.Module:
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ConfigError(f"torchvision has no network {name!r} for images")
    network: nn.Module = torchvision.models.get_model(name, weights=None)
    last = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not last:
        raise ConfigError(f"{name} of torchvision has no last layer that can be left out; use a network of timm")
    parent, _, leaf = last[0].rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network


class PooledNetwork(nn.Module):
    """A network and how its features become one vector."""

    def __init__(self, network: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.network, self.pool = network, card.pool
        if self.pool == "network":
            return
        if not hasattr(network, "forward_features"):
            raise ConfigError(f"pool: {self.pool} needs a network of timm; {card.name} can only be pooled by itself")
        if "token" in self.pool and getattr(network, "cls_token", None) is None:
            raise ConfigError(f"pool: {self.pool} needs a class token, but {card.name} has none; use mean or network")

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 3, px, px) to (n, dimensions)."""
        if self.pool == "network":
            return self.network(x).flatten(1)
        features = cast("TimmClassifier", self.network).forward_features(x)
        if features.ndim == 4:
            return features.mean((1, 2) if getattr(self.network, "output_fmt", "NCHW") == "NHWC" else (2, 3))
        before = int(getattr(self.network, "num_prefix_tokens", 0))
        parts = {"token": [features[:, 0]], "mean": [features[:, before:].mean(1)]}
        return torch.cat([part for name in self.pool.split("+") for part in parts[name]], dim=1)


@torch.inference_mode()
def vector_length(network: nn.Module, card: EncoderCard) -> int:
    """Length of the vector that a network makes of a patch. Raises HistomakeError if it cannot take the card's px."""
    try:
        found = network(torch.zeros(1, 3, card.px, card.px))
    except (RuntimeError, AssertionError, TypeError) as error:
        raise HistomakeError(f"{card.name} cannot encode patches of {card.px} px: {error}; correct size") from error
    return int(found.shape[1])


# --- weights --------------------------------------------------------------------------------------------------------


def load_file(network: nn.Module, path: Path, *, expected: str | None) -> str:
    """Load a safetensors file into the network, and return the file's sha256.

    Tensors of a last layer that the network does not have are left out. Raises HistomakeError for any other kind of
    file, for weights of another architecture, or if the sha256 is not ``expected``.
    """
    if path.suffix in (*PICKLED, ".onnx"):
        raise HistomakeError(
            f"{path} may be a pickle or a program; weights are read from safetensors files only. Convert it once with "
            "`histomake encoder`"
        )
    if not path.is_file():
        raise HistomakeError(f"there is no file {path}; put the weights there or correct the path")
    digest = sha256_file(path)
    if expected not in (None, digest):
        raise HistomakeError(f"the sha256 of {path} is {digest}, but the card says {expected}: another file of weights")
    load_weights(network, without_head(network, read_weights(path)), origin=path)
    return digest


def without_head(network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those of a last layer that ``network`` was built without."""
    own = network.state_dict()
    # timm names its last layer in the configuration of each network; torchvision's was replaced by nothing.
    heads = getattr(network, "default_cfg", {}).get("classifier") or ("fc", "classifier", "heads", "head")
    names = (heads,) if isinstance(heads, str) else tuple(heads)
    return {
        name: value
        for name, value in weights.items()
        if name in own or not name.startswith(tuple(f"{h}." for h in names))
    }


def state_digest(network: nn.Module) -> str:
    """sha256 of the weights themselves: of every tensor's name, shape, type and bytes, in order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}\0{tuple(value.shape)}\0{value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
