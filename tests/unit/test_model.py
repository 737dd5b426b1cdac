"""Tests of networks: construction by name, size of Fast-SCNN, and transfer of weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import WEIGHTS
from histomake.base.records.model_card import Normalisation
from histomake.config import Model
from histomake.learn.engine.optim import build_optimiser, build_schedule
from histomake.model import build
from histomake.model.build import build_model, embed, normalisation
from histomake.model.transfer import (
    freeze_stages,
    load_weights_file,
    parameter_groups,
    parameter_stages,
    train_mode,
    transfer_encoder,
    weights_file,
)
from safetensors.torch import save_file
from torch import nn

CLASSIFIERS = {
    "alexnet": 64,
    "shufflenet_v2": 32,
    "vgg11": 32,
    "resnet18": 32,
    "inception_v3": 96,
    "efficientnet_b0": 32,
    "densenet121": 32,
    "convnext_atto": 32,
    "vit_tiny_patch16_224": 32,
}
SEGMENTERS = ["unet", "deeplabv3plus", "fpn", "upernet", "segformer", "fcn", "fast_scnn"]


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("name", "size"), CLASSIFIERS.items())
def test_classifiers_return_one_output_vector_per_patch(name: str, size: int) -> None:
    network = build_model(Model(name=name), kind="classification", outputs=3, size=size).eval()
    with torch.inference_mode():
        images = torch.zeros(2, 3, size, size)
        assert network(images).shape == (2, 3)
        assert embed(network, images).shape[0] == 2
    assert len(set(parameter_stages(network).values())) > 2


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmentation_networks_return_one_output_vector_per_pixel(name: str) -> None:
    network = build_model(Model(name=name), kind="segmentation", outputs=3, size=64).eval()
    with torch.inference_mode():
        images = torch.zeros(2, 3, 64, 64)
        assert network(images).shape == (2, 3, 64, 64)
        assert embed(network, images).ndim == 2


def test_any_timm_model_with_features_can_be_the_encoder() -> None:
    network = build_model(Model(name="unet", encoder="convnext_atto"), kind="segmentation", outputs=2, size=64)
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 64, 64)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_context_views_are_additional_channels(kind: str) -> None:
    name = "resnet10t" if kind == "classification" else "unet"
    network = build_model(Model(name=name, context=[4.0]), kind=kind, outputs=2, size=64).eval()
    assert network(torch.zeros(1, 6, 64, 64)).shape[1] == 2


def test_fast_scnn_has_1_11_million_weights_as_in_the_paper() -> None:
    network = build_model(Model(name="fast_scnn"), kind="segmentation", outputs=19, size=64)
    # The paper counts only convolutions, because batch norm is merged into them at inference.
    weights = sum(count(module) for module in network.modules() if isinstance(module, nn.Conv2d))
    assert round(weights / 1e6, 2) == 1.11


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("classification", Model(name="resnet1")),
        ("segmentation", Model(name="wnet")),
        ("segmentation", Model(name="unet", encoder="resnet1")),
    ],
)
def test_unknown_names_are_refused_with_alternatives(kind: str, model: Model) -> None:
    with pytest.raises(ConfigError, match=r"similar names|use one of"):
        build_model(model, kind=kind, outputs=2, size=64)


def test_normalisation_is_that_of_the_pretrained_weights() -> None:
    vit = build_model(Model(name="vit_tiny_patch16_224"), kind="classification", outputs=2, size=32)
    assert normalisation(vit) == Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3)


def built(name: str = "resnet18", kind: str = "classification", outputs: int = 2) -> nn.Module:
    return build_model(Model(name=name), kind=kind, outputs=outputs, size=64)


def saved(network: nn.Module, folder: Path) -> Path:
    """Write the weights of a network to model.safetensors."""
    save_file(network.state_dict(), folder / WEIGHTS)
    return folder / WEIGHTS


def test_the_encoder_is_transferred_and_the_head_is_not(tmp_path: Path) -> None:
    source, target = built(outputs=5), built(outputs=2)
    head = target.fc.weight.clone()
    saved(source, tmp_path)
    transfer_encoder(target, weights_file(tmp_path))
    assert torch.equal(target.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert torch.equal(target.fc.weight, head)


def test_the_encoder_of_a_classifier_can_be_used_for_segmentation(tmp_path: Path) -> None:
    source, target = built(), built("unet", "segmentation")
    taken = transfer_encoder(target, saved(source, tmp_path))
    assert taken > 100
    assert torch.equal(target.encoder.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


def test_the_encoder_of_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistomakeError, match="another architecture"):
        transfer_encoder(built("resnet18"), saved(built("densenet121"), tmp_path))


def test_loading_all_weights_with_another_head_is_refused(tmp_path: Path) -> None:
    path = saved(built(outputs=5), tmp_path)
    with pytest.raises(HistomakeError, match=r"another architecture: 2 tensor\(s\) .* \(fc.bias, fc.weight\)"):
        load_weights_file(built(outputs=2), path)


def test_weights_of_another_digest_than_the_card_states_are_refused(tmp_path: Path) -> None:
    network = built()
    path = saved(network, tmp_path)
    stated = sha256_file(path)
    load_weights_file(network, path, sha256=stated)
    network.fc.bias.data += 1
    saved(network, tmp_path)
    with pytest.raises(HistomakeError, match=f"its model card states {stated}"):
        load_weights_file(network, path, sha256=stated)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    network = built()
    network.layer2[0].conv1.weight.data[0, 0, 0, 0] = value
    path = saved(network, tmp_path)
    with pytest.raises(HistomakeError, match=r"not finite \(layer2.0.conv1.weight\)"):
        load_weights_file(built(), path)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save(built().state_dict(), tmp_path / WEIGHTS)
    with pytest.raises(HistomakeError, match="pickled weights are refused"):
        load_weights_file(built(), tmp_path / WEIGHTS)


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistomakeError, match="train that model first"):
        weights_file(tmp_path / "gone")


def test_frozen_stages_keep_weights_and_batch_statistics() -> None:
    network = built()
    freeze_stages(network, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train_mode(network)
    groups = parameter_groups(network, learning_rate=0.1, weight_decay=0, layer_decay=1)
    optimiser = torch.optim.SGD(groups, lr=0.1)
    network(torch.rand(4, 3, 64, 64)).sum().backward()
    optimiser.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("conv1", "bn1", "layer1")) for name in changed)
    assert "fc.weight" in changed


def test_freezing_the_head_is_refused() -> None:
    with pytest.raises(HistomakeError, match="frozen_stages"):
        freeze_stages(built(), 50)


@pytest.mark.parametrize(("name", "kind"), [("resnet18", "classification"), ("unet", "segmentation")])
def test_the_learning_rate_decreases_by_stage_towards_the_input(name: str, kind: str) -> None:
    network = built(name, kind)
    groups = parameter_groups(network, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    stages = parameter_stages(network)
    last = max(stages.values())
    assert last >= 4
    for parameter_name, parameter in network.named_parameters():
        assert rate[id(parameter)] == pytest.approx(0.5 ** (last - stages[parameter_name]))


def test_norms_and_biases_have_no_weight_decay() -> None:
    groups = parameter_groups(built(), learning_rate=1.0, weight_decay=0.1, layer_decay=1.0)
    assert all((group["weight_decay"] == 0) == (p.ndim <= 1) for group in groups for p in group["params"])


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "warm_restarts", "constant"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_schedules_peak_at_the_learning_rate_of_each_group(schedule: str, optimizer: str) -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.05)]
    optimiser = build_optimiser(optimizer, groups, learning_rate=0.1)
    course = build_schedule(schedule, optimiser, steps=100)
    rates = []
    for _ in range(100):
        rates.append(course.get_last_lr())
        optimiser.step()
        course.step()
    assert max(rate[0] for rate in rates) == pytest.approx(0.1, rel=0.01)
    assert max(rate[1] for rate in rates) == pytest.approx(0.05, rel=0.01)
    falls = schedule != "constant"
    assert (min(rate[0] for rate in rates) < 0.01) == falls


def test_every_network_of_our_own_is_documented_and_tested() -> None:
    named = set(re.findall(r'model\.name == "(\w+)"', Path(build.__file__).read_text()))
    assert len(named) >= 3
    assert named <= {*CLASSIFIERS, *SEGMENTERS}
    documented = str(Model.model_fields["name"].description)
    assert not [name for name in named if name not in documented]
