"""Transfer learning: loading of local weights, frozen stages, and learning rates per stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.encoder_card import EncoderCard
from histomake.base.records.model_card import Normalisation

if TYPE_CHECKING:
    from histomake.model.build import TimmClassifier

LONGEST = 300
"""Characters of a library's message that are kept."""

ENCODER_PREFIXES = ("", "encoder.", "encoder.model.")
"""Prefixes of the same encoder's parameters in timm and in segmentation-models-pytorch."""


def weights_file(path: Path | str) -> Path:
    """Return the safetensors file at ``path``, which may also be the folder of a model trained by histomake."""
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise HistomakeError(f"model.pretrained: no file {file}; train that model first or correct the path")
    return file


def encoder_normalisation(weights: Path) -> Normalisation | None:
    """Normalisation with which the weights of an encoder were trained, by the card beside them; None without one."""
    path = weights.with_name(DESCRIPTION)
    card = EncoderCard.of(path) if path.is_file() else None
    return None if card is None else Normalisation(mean=card.mean, std=card.std)


@contextmanager
def describing(path: Path, remedy: str) -> Iterator[None]:
    """Build the network that a card describes. Raises HistomakeError with the card's path if it describes none."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:LONGEST]
        raise HistomakeError(f"{path} describes no network that can be built: {said}. {remedy}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises HistomakeError for any other kind of file, and for values that are not finite: a network with them may give
    the same answer for every patch.
    """
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise HistomakeError(f"{path} is not a safetensors file ({error}); pickled weights are refused") from error
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise HistomakeError(
            f"{path}: {len(broken)} tensor(s) hold values that are not finite ({', '.join(broken[:3])}); train the "
            "model again, or copy the file again from where it came"
        )
    return weights


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], *, origin: Path) -> None:
    """Load exactly these weights into the network. Raises HistomakeError if they are from another architecture."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise HistomakeError(f"{origin} contains weights of another architecture: {error}") from error


def load_weights_file(network: nn.Module, path: Path, *, sha256: str | None = None) -> None:
    """Load exactly the weights in a safetensors file into the network.

    ``sha256``: digest that the file must have, as its model card states it; None where no card states one. Names and
    shapes are compared before a tensor is read, so that a wrong file needs no memory.

    Raises HistomakeError if the file has another digest, or weights of another architecture, or as `read_weights`.
    """
    unfit = _unfit(path, {name: tuple(value.shape) for name, value in network.state_dict().items()})
    if unfit:
        raise HistomakeError(
            f"{path} contains weights of another architecture: {len(unfit)} tensor(s) are missing, unknown or of "
            f"another shape ({', '.join(unfit[:3])})"
        )
    require_digest(path, sha256)
    load_weights(network, read_weights(path), origin=path)


def require_digest(path: Path, sha256: str | None) -> None:
    """Raise HistomakeError if a file of weights has another digest than its model card states, if it states one."""
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        raise HistomakeError(
            f"{path} has sha256 {found}, and its model card states {sha256}: one of the two was changed or exchanged. "
            "Restore both, or train the model again"
        )


def _unfit(path: Path, wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of tensors that are only in the file or only wanted, or have another shape in the file."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise HistomakeError(f"{path} is not a safetensors file ({error}); pickled weights are refused") from error
    return sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name))


def transfer_encoder(network: nn.Module, path: Path) -> int:
    """Copy the weights of all layers before the last layer or decoder; return the number of tensors copied.

    Raises HistomakeError unless all tensors are present with the right shapes, because a partially loaded network
    would train without an error, but worse.
    """
    weights = read_weights(path)
    own = {name: value for name, value in network.state_dict().items() if not is_head(network, name)}
    found = {name: source for name in own if (source := _find(name, weights)) is not None}
    missing = [n for n in own if n not in found and not n.endswith("num_batches_tracked")]
    unfit = [n for n, source in found.items() if weights[source].shape != own[n].shape]
    if missing or unfit:
        raise HistomakeError(
            f"{path} has another architecture: {len(missing)} tensors of the encoder are missing "
            f"({', '.join(missing[:3])}…), {len(unfit)} have another shape ({', '.join(unfit[:3])}…)"
        )
    network.load_state_dict({name: weights[source] for name, source in found.items()}, strict=False)
    return len(found)


def _find(name: str, weights: dict[str, Tensor]) -> str | None:
    return next((prefix + _bare(name) for prefix in ENCODER_PREFIXES if prefix + _bare(name) in weights), None)


def _bare(name: str) -> str:
    """Return a parameter's name within its encoder."""
    return name.removeprefix("encoder.").removeprefix("model.")


def is_head(network: nn.Module, name: str) -> bool:
    """Return whether a parameter is in the last layer (classifiers) or outside the encoder (segmentation)."""
    if hasattr(network, "encoder"):
        return not name.startswith("encoder.")
    classifier = getattr(network, "default_cfg", {}).get("classifier", "classifier")
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return any(name.startswith(f"{head}.") for head in heads)


def parameter_stages(network: nn.Module) -> dict[str, int]:
    """Return the stage of every parameter, 0 nearest to the input; the head or decoder is the last stage."""
    names = [name for name, _ in network.named_parameters()]
    if hasattr(network, "group_matcher"):
        # Imported here because the import takes seconds and predictions need none of it.
        from timm.models import group_parameters

        matcher = cast("TimmClassifier", network).group_matcher(coarse=True)
        groups = group_parameters(network, matcher, reverse=True)
        stages = {name: int(groups[name]) for name in names if not is_head(network, name)}
    else:
        stages = _stages_by_module(network, names)
    order = {stage: i for i, stage in enumerate(sorted(set(stages.values())))}
    return {name: order[stages[name]] if name in stages else len(order) for name in names}


def _stages_by_module(network: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """Return the stages of a network without ``group_matcher``: the modules of its encoder in order."""
    modules: dict[str, int] = {}
    encoder = [name for name in names if not is_head(network, name)]
    return {name: modules.setdefault(_bare(name).split(".")[0], len(modules)) for name in encoder}


def freeze_stages(network: nn.Module, count: int) -> None:
    """Freeze the weights of the first ``count`` stages."""
    stages = parameter_stages(network)
    last = max(stages.values())
    if count > last:
        raise HistomakeError(f"model.frozen_stages: {count} would freeze all stages; the network has {last + 1}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(stages[name] >= count)


def train_mode(network: nn.Module) -> None:
    """Switch to training mode, but keep layers with only frozen weights in eval mode, with their batch statistics."""
    network.train()
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def parameter_groups(
    network: nn.Module, *, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Return optimiser groups with ``layer_decay`` per stage; norms and biases have no weight decay.

    The learning rate of each stage is ``layer_decay`` times that of the next stage.
    """
    stages = parameter_stages(network)
    last = max(stages.values())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        stage, plain = stages[name] if layer_decay < 1 else last, parameter.ndim <= 1
        group = groups.setdefault(
            (stage, plain),
            {
                "params": [],
                "lr": learning_rate * layer_decay ** (last - stage),
                "weight_decay": 0.0 if plain else weight_decay,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
