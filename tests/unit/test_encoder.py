"""Encoders: how they are built, pooled and described, and which weights are refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import timm
import torch
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.encoder_card import EncoderCard
from histomake.base.records.record import RecordError
from histomake.config import Encoder, Grid, parse_config
from histomake.model.encoder import PooledNetwork, build_network, load_encoder, load_file
from histomake.model.encoder_folder import LITE0, write_efficientnet_lite0, write_folder, write_from_file
from safetensors.torch import load_file as read_safetensors
from safetensors.torch import save_file

GRID = Grid(size=64, mpp=1.0)
SMALL_VIT = "vit_tiny_patch16_224"


def card(**values):
    told = {
        "name": "small",
        "architecture": "timm:resnet10t",
        "mpp": 1.0,
        "px": 64,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "pool": "network",
        "dimensions": 512,
        "licence": "MIT",
    }
    return EncoderCard(**told | values)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lite0")
    write_efficientnet_lite0(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path / "small", card())


def made(folder, described):
    torch.manual_seed(1)
    network = build_network(described)
    write_folder(folder, described, network.state_dict())
    return folder


def encoder(name, **values):
    return Encoder(grid="x", name=name, **values)


@pytest.mark.parametrize(("picture", "expected", "least"), [("chelsea", 285, 0.3), ("coffee", 967, 0.8)])
def test_the_packaged_weights_recognise_pictures_of_imagenet_classes(lite0, picture, expected, least):
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(read_safetensors(lite0 / WEIGHTS))
    pixels = torch.from_numpy(getattr(skimage.data, picture)()[None]).permute(0, 3, 1, 2).float() / 255
    edge = min(pixels.shape[2:])
    top, left = (pixels.shape[2] - edge) // 2, (pixels.shape[3] - edge) // 2
    square = pixels[:, :, top : top + edge, left : left + edge]
    square = torch.nn.functional.interpolate(square, (224, 224), mode="bicubic", antialias=True)
    with torch.inference_mode():
        scores = network.eval()((square - 0.5) / 0.5).softmax(1)[0]
    assert scores.argmax() == expected
    assert scores.max() > least


def test_the_folder_of_the_packaged_weights_has_the_same_bytes_every_time(lite0, tmp_path):
    again = write_efficientnet_lite0(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == (lite0 / WEIGHTS).read_bytes()
    assert again == EncoderCard.read(lite0 / DESCRIPTION)
    assert again.dimensions == LITE0.dimensions == 1280


def test_a_folder_encodes_with_its_card_and_the_sha256_of_its_weights(lite0):
    found = load_encoder(encoder(f"folder:{lite0}"), GRID, name="e")
    assert found.card.mean == (0.5, 0.5, 0.5)
    assert found.card.px == 224
    assert found.weights == found.card.sha256
    assert found.network(torch.zeros(2, 3, 224, 224)).shape == (2, 1280)
    assert not found.network.training


@pytest.mark.parametrize(("pool", "length"), [("network", 192), ("token", 192), ("mean", 192), ("token+mean", 384)])
def test_tokens_are_pooled_as_asked(pool, length):
    found = load_encoder(encoder(SMALL_VIT, weights=False, pool=pool, size=64), GRID, name="e")
    assert found.card.dimensions == length
    assert found.card.pool == pool
    x = torch.rand(2, 3, 64, 64)
    tokens = found.network.network.forward_features(x)
    expected = {
        "network": found.network.network(x),
        "token": tokens[:, 0],
        "mean": tokens[:, 1:].mean(1),
        "token+mean": torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1),
    }
    torch.testing.assert_close(found.network(x), expected[pool])


def test_registers_are_not_among_the_patch_tokens():
    described = card(architecture=f"timm:{SMALL_VIT}", options={"reg_tokens": 4, "mlp_layer": "SwiGLUPacked"})
    network = build_network(described)
    assert network.num_prefix_tokens == 5


def test_a_feature_map_is_averaged():
    found = load_encoder(encoder("resnet10t", weights=False, pool="mean"), GRID, name="e")
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(found.network(x), found.network.network.forward_features(x).mean((2, 3)))


def test_a_torchvision_network_gives_what_its_last_layer_takes():
    found = load_encoder(encoder("torchvision:shufflenet_v2_x0_5", weights=False), GRID, name="e")
    assert found.card.dimensions == 1024
    assert found.network(torch.zeros(2, 3, 64, 64)).shape == (2, 1024)


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone():
    torch.manual_seed(3)
    first = load_encoder(encoder("resnet10t", weights=False), GRID, name="e")
    after = torch.rand(1)
    second = load_encoder(encoder("resnet10t", weights=False), GRID, name="e")
    torch.manual_seed(3)
    assert torch.rand(1) == after
    assert first.weights == second.weights


@pytest.mark.parametrize("pool", ["token", "token+mean"])
def test_a_network_without_class_token_has_no_token_to_pool(pool):
    with pytest.raises(ConfigError, match=r"encoders.e: pool: .* needs a class token"):
        load_encoder(encoder("resnet10t", weights=False, pool=pool), GRID, name="e")


def test_weights_of_another_architecture_are_refused(folder):
    content = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(content | {"architecture": "timm:resnet14t", "sha256": None}))
    with pytest.raises(HistomakeError, match=r"encoders.e: .*weights of another architecture"):
        load_encoder(encoder(f"folder:{folder}"), GRID, name="e")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl"])
def test_a_file_that_may_be_a_pickle_is_refused_with_the_command_that_converts_it(suffix, folder, tmp_path):
    (tmp_path / f"weights{suffix}").touch()
    with pytest.raises(HistomakeError, match="histomake encoder"):
        load_encoder(encoder(f"folder:{folder}", weights=str(tmp_path / f"weights{suffix}")), GRID, name="e")


def test_other_weights_than_the_card_names_are_refused(folder):
    weights = read_safetensors(folder / WEIGHTS)
    save_file({name: value + 1 for name, value in weights.items()}, folder / WEIGHTS)
    with pytest.raises(HistomakeError, match="another file of weights"):
        load_encoder(encoder(f"folder:{folder}"), GRID, name="e")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mpp": ...}, "mpp is missing"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"std": [0.5, 0.5, 0.5, 0.5]}, "std"),
        ({"std": [0.5, 0.5, 0]}, "std"),
        ({"pool": "largest"}, "pool"),
    ],
)
def test_a_card_with_a_missing_or_wrong_field_is_refused_by_its_name(change, message, folder):
    content = json.loads((folder / DESCRIPTION).read_text()) | change
    (folder / DESCRIPTION).write_text(json.dumps({key: v for key, v in content.items() if v is not ...}))
    with pytest.raises(RecordError, match=message):
        load_encoder(encoder(f"folder:{folder}"), GRID, name="e")


def test_a_card_with_another_length_than_the_network_s_is_refused(folder):
    content = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(content | {"dimensions": 100}))
    with pytest.raises(HistomakeError, match=r"becomes 100 numbers, but .* make 512"):
        load_encoder(encoder(f"folder:{folder}"), GRID, name="e")


@pytest.mark.parametrize("options", [{"mlp_layer": "os.system"}, {"no_such_option": 1}])
def test_options_that_name_something_unknown_are_refused(options):
    with pytest.raises(HistomakeError, match=r"options"):
        build_network(card(architecture=f"timm:{SMALL_VIT}", options=options))


def test_a_folder_without_a_card_is_refused(tmp_path):
    with pytest.raises(HistomakeError, match="config/encoders"):
        load_encoder(encoder(f"folder:{tmp_path}"), GRID, name="e")


@pytest.mark.parametrize(("mpp", "warned"), [(1.0, False), (0.5, True)])
def test_patches_at_another_resolution_than_the_card_s_are_warned_of(mpp, warned, folder, caplog):
    with caplog.at_level(logging.WARNING):
        load_encoder(encoder(f"folder:{folder}"), Grid(size=64, mpp=mpp), name="e")
    assert ("trained at 1 µm/px, but sees patches at 0.5 µm/px" in caplog.text) == warned


@pytest.mark.parametrize("name", ["resnet18", "hf-hub:an-organisation/a-model"])
def test_an_unreachable_hub_is_an_error_that_names_the_file_to_download(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    weights = None if name.startswith("hf-hub:") else True
    with pytest.raises(HistomakeError, match=r"cannot be downloaded .*model.safetensors of .*folder:"):
        load_encoder(encoder(name, weights=weights), GRID, name="e")


def test_a_downloaded_pickle_becomes_a_folder_that_gives_the_same_features(tmp_path):
    torch.manual_seed(1)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=7).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "weights.bin")
    write_from_file(tmp_path / "folder", card(), tmp_path / "weights.bin")
    found = load_encoder(encoder(f"folder:{tmp_path / 'folder'}"), GRID, name="e")
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
        torch.testing.assert_close(found.network(x), expected)


class Harmful:
    """A pickle of it would run code."""

    def __reduce__(self):
        return print, ("code of the file ran",)


@pytest.mark.parametrize("content", [Harmful(), {"state_dict": Harmful()}, [1, 2], {"a": 1}])
def test_a_pickle_with_anything_but_tensors_is_not_read(content, tmp_path, capsys):
    torch.save(content, tmp_path / "weights.bin")
    with pytest.raises(HistomakeError, match="not a dictionary of tensors"):
        write_from_file(tmp_path / "folder", card(), tmp_path / "weights.bin")
    assert "code of the file ran" not in capsys.readouterr().out
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "resnet18"}, "say which weights"),
        ({"name": "torchvision:resnet18", "weights": True}, "pickles"),
        ({"name": "hub:resnet18", "weights": True}, "begins with none of"),
        ({"name": "hf-hub:a/b", "weights": "a.safetensors"}, "brings its own"),
        ({"name": "task:t", "stain": "macenko"}, "remove the key"),
        ({"name": "task:t"}, "'t' is not under tasks"),
        ({"name": "folder:a", "grid": "x40"}, "'x40' is not under grids"),
    ],
)
def test_contradictory_keys_of_an_encoder_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"encoders": {"e": {"grid": "x20"} | values}})


def test_encoders_of_a_group_have_one_grid():
    grids = {"a": {"mpp": 1.0}, "b": {"mpp": 2.0}}
    both = {n: {"grid": n, "name": "resnet18", "weights": False, "group": "g"} for n in grids}
    with pytest.raises(ConfigError, match="group g has encoders of several grids"):
        parse_config({"grids": grids, "encoders": both})


def test_an_encoder_without_group_is_a_group_of_its_own():
    named = {n: {"grid": "x20", "name": "resnet18", "weights": False} for n in ("b", "a")}
    assert parse_config({"encoders": named}).encoder_groups == {"a": ["a"], "b": ["b"]}


def test_weights_are_loaded_without_the_last_layer_they_were_trained_with(tmp_path):
    network = timm.create_model("resnet10t", pretrained=False, num_classes=7)
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    bare = build_network(card())
    load_file(bare, tmp_path / "a.safetensors", expected=None)
    assert np.array_equal(bare.state_dict()["conv1.0.weight"], network.state_dict()["conv1.0.weight"])


CARDS = sorted((Path(__file__).resolve().parents[2] / "config" / "encoders").glob("*/model.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_a_card_of_a_known_encoder_builds_a_network_that_gives_its_vector(path):
    known = EncoderCard.read(path)
    with torch.device("meta"):
        network = PooledNetwork(build_network(known), known).eval()
        assert network(torch.zeros(1, 3, known.px, known.px)).shape == (1, known.dimensions)


def test_every_card_of_a_known_encoder_is_in_the_table():
    readme = (CARDS[0].parents[1] / "README.md").read_text()
    assert [path.parent.name for path in CARDS if f"| `{path.parent.name}` |" not in readme] == []
