"""Networks of others: ONNX files as encoders and tissue models, safetensors with a segmenter card."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
import torch
from array_reader import ArrayReader
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.files import sha256_file
from histomake.base.kinds import Kind
from histomake.base.records.encoder_card import EncoderCard
from histomake.base.records.record import RecordError
from histomake.base.records.segmenter_card import SegmenterCard
from histomake.config import Encoder, Grid, Model, Tissue
from histomake.learn.inference.tissue_model import tissue_model
from histomake.model.build import build_model
from histomake.model.encoder import load_encoder
from histomake.model.onnx import OnnxNetwork
from histomake.tissue.mask import presegment
from onnx_files import Darkness, Means, Redness, export
from safetensors.torch import save_file
from scenes import MPP, two_pieces

CARD = SegmenterCard(
    name="darkness",
    architecture="onnx",
    mpp=8.0,
    px=64,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    class_names=["background", "tissue"],
    tissue=["tissue"],
    output="logits",
    licence="MIT",
)
IMAGE = np.random.default_rng(0).integers(0, 256, (200, 333, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """The folder of a tissue model in ONNX."""
    export(Darkness(), tmp_path / "model.onnx")
    write(tmp_path)
    return tmp_path


def write(folder, **changes):
    msgspec.structs.replace(CARD, **changes).write(folder / "model.json")


def tissue(folder):
    return tissue_model(folder, mpp=8.0, threads=1)(IMAGE)


def refused(folder, kind=HistomakeError) -> str:
    with pytest.raises(kind) as error:
        tissue(folder)
    return str(error.value)


# --- tissue ---------------------------------------------------------------------------------------------------------


def test_every_pixel_equals_the_output_of_the_network(folder):
    np.testing.assert_array_equal(tissue(folder), IMAGE[..., 1] < 127.5)


def test_a_single_channel_is_the_score_of_its_class_against_all_else(tmp_path):
    export(Redness(), tmp_path / "model.onnx")
    write(tmp_path, class_names=["tissue"])
    np.testing.assert_array_equal(tissue(tmp_path), IMAGE[..., 0] > 127.5)


def test_a_network_that_takes_bgr_sees_blue_first(tmp_path):
    export(Redness(), tmp_path / "model.onnx")
    write(tmp_path, class_names=["tissue"], colour="bgr")
    np.testing.assert_array_equal(tissue(tmp_path), IMAGE[..., 2] > 127.5)


def test_mean_and_deviation_of_the_card_are_applied(tmp_path):
    export(Redness(), tmp_path / "model.onnx")
    write(tmp_path, class_names=["tissue"], mean=(-0.25, 0.0, 0.0))
    np.testing.assert_array_equal(tissue(tmp_path), IMAGE[..., 0] > 0.25 * 255)


def test_several_classes_can_be_tissue(folder):
    write(folder, class_names=["fat", "rest"], tissue=["fat"])
    np.testing.assert_array_equal(tissue(folder), IMAGE[..., 1] > 127.5)


def test_a_network_for_batches_of_one_is_given_one_window_at_a_time(folder):
    expected = tissue(folder)
    export(Darkness(), folder / "model.onnx", batch=1)
    np.testing.assert_array_equal(tissue(folder), expected)


def test_the_mask_of_a_slide_is_cleaned_like_that_of_the_threshold(folder):
    segment = tissue_model(folder, mpp=8.0, threads=1)
    found = presegment(ArrayReader(two_pieces(), MPP), Tissue(), slide_id="s1", segment=segment)
    assert (found.record.method, found.record.threshold) == ("model", None)
    assert 0.2 < found.record.area_mm2 < 1.4


def test_weights_of_a_named_network_are_used_with_a_card_too(tmp_path):
    model = Model(name="unet", encoder="resnet18")
    torch.manual_seed(0)
    network = build_model(model, kind=Kind.SEGMENTATION, outputs=2, size=64).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    write(tmp_path, architecture="unet", encoder="resnet18", sha256=sha256_file(tmp_path / "model.safetensors"))
    window = IMAGE[:64, :64]
    found = tissue_model(tmp_path, mpp=8.0, threads=1)(window)
    with torch.inference_mode():
        scores = network(torch.from_numpy(window).permute(2, 0, 1)[None].float() / 255)[0]
    np.testing.assert_array_equal(found, (scores[1] > scores[0]).numpy())


def test_a_card_of_another_resolution_than_tissue_mpp_is_refused(folder):
    write(folder, mpp=2.0)
    assert "was trained at 2.0 µm/px; set tissue.mpp to it" in refused(folder, ConfigError)


def test_a_card_without_mpp_is_refused(folder):
    content = msgspec.json.decode((folder / "model.json").read_bytes())
    del content["mpp"]
    (folder / "model.json").write_bytes(msgspec.json.encode(content))
    assert "mpp" in refused(folder, RecordError)


@pytest.mark.parametrize("tissue_classes", [[], ["muscle"], ["background", "tissue"]])
def test_a_card_must_name_some_of_its_classes_as_tissue(folder, tissue_classes):
    write(folder, tissue=tissue_classes)
    assert "name some of them, not all" in refused(folder, ConfigError)


def test_another_number_of_channels_than_classes_is_refused(folder):
    write(folder, class_names=["background", "tissue", "pen"])
    assert "has 3 classes (background, tissue, pen)" in refused(folder)


def test_another_file_than_the_card_states_is_refused(folder):
    write(folder, sha256="0" * 64)
    assert "another network" in refused(folder)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_damaged_file_is_refused_by_its_name(folder):
    (folder / "model.onnx").write_bytes(b"no network")
    assert "model.onnx is no ONNX network" in refused(folder)


def test_a_missing_file_is_named(folder):
    (folder / "model.onnx").unlink()
    assert "there is no file" in refused(folder)


def test_a_network_of_several_inputs_is_refused(tmp_path):
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in "abc"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["a", "b"], ["c"])], "g", values[:2], values[2:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "model.onnx")
    with pytest.raises(HistomakeError, match=r"one input of float32 \(n, 3, h, w\) is needed"):
        OnnxNetwork(tmp_path / "model.onnx", sha256=None)


def test_weights_in_another_file_are_not_read(tmp_path):
    """A network could name any file of the machine as its weights."""
    (tmp_path / "secret").write_bytes(np.zeros(192, np.float32).tobytes())
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 3, 8, 8], bytes(768), raw=True)
    onnx.external_data_helper.set_external_data(tensor, location="secret", offset=0, length=768)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in "ac"]
    node = onnx.helper.make_node("Add", ["a", "w"], ["c"])
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], initializer=[tensor])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(HistomakeError, match=r"is no ONNX network that onnxruntime can run"):
        OnnxNetwork(tmp_path / "model.onnx", sha256=None)


# --- encoders -------------------------------------------------------------------------------------------------------


ENCODER = EncoderCard(
    name="means",
    architecture="onnx",
    mpp=0.5,
    px=64,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    pool="network",
    dimensions=6,
    licence="MIT",
)


@pytest.fixture
def encoder_folder(tmp_path):
    export(Means(), tmp_path / "model.onnx")
    ENCODER.write(tmp_path / "model.json")
    return tmp_path


def load(folder, **keys):
    return load_encoder(Encoder(grid="x20", name=f"folder:{folder}", **keys), Grid(size=64, mpp=0.5), name="e")


def test_an_onnx_network_is_an_encoder(encoder_folder):
    found = load(encoder_folder)
    images = torch.rand(5, 3, 64, 64)
    assert torch.allclose(found.network(images), Means()(images), atol=1e-6)
    assert (found.card.dimensions, found.weights) == (6, sha256_file(encoder_folder / "model.onnx"))


def test_an_onnx_encoder_of_other_dimensions_than_its_card_is_refused(encoder_folder):
    msgspec.structs.replace(ENCODER, dimensions=7).write(encoder_folder / "model.json")
    with pytest.raises(HistomakeError, match="becomes 7 numbers"):
        load(encoder_folder)


def test_an_onnx_encoder_pools_by_itself(encoder_folder):
    with pytest.raises(ConfigError, match="can only be pooled by itself"):
        load(encoder_folder, pool="mean")


def test_an_onnx_encoder_takes_no_other_weights(encoder_folder):
    with pytest.raises(ConfigError, match="has its own; remove the key"):
        load(encoder_folder, weights="other.safetensors")
