"""Tests of pixel networks: the paper's network, and equality of dense and patch-wise evaluation."""

from __future__ import annotations

import pytest
import torch
from histomake.base.errors import ConfigError
from histomake.cascade.net import EncoderDecoderNet, RadhicalNet, build_network, multiply_adds, probabilities
from histomake.config import CascadeNetwork
from torch import nn

TOLERANCE = 1e-5


def windows(net, height, width, *, number=1, seed=0):
    shape = (number, 3, height + net.field - 1, width + net.field - 1)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def caffe_net(net):
    """Return the published architecture, layer by layer, with the weights of ``net``."""
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(32, 32, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.Linear(64, 3),
    )
    weights = (net.conv1, net.conv2, net.conv3, net.hidden, net.answer)
    for layer, source in zip((layers[0], layers[3], layers[6], layers[10], layers[11]), weights, strict=True):
        layer.load_state_dict(source.state_dict())
    return layers.eval()


@pytest.mark.parametrize("border", ["context", "zeros"])
def test_the_paper_network_has_145123_parameters(border):
    assert sum(p.numel() for p in RadhicalNet(border).parameters()) == 145_123


def test_with_zero_borders_the_network_equals_the_published_one_on_32_pixel_patches():
    torch.manual_seed(1)
    net = RadhicalNet("zeros").eval()
    patches = windows(net, 1, 1, number=5)
    with torch.inference_mode():
        expected = caffe_net(net)(net.normalise(patches))
        assert patches.shape[2:] == (32, 32)
        torch.testing.assert_close(net(patches)[:, :, 0, 0], expected, atol=TOLERANCE, rtol=0)


def test_both_borders_agree_if_padding_equals_pixels():
    # Pixels of the mean colour are 0 after normalisation, both inside and outside a patch.
    torch.manual_seed(1)
    zeros = RadhicalNet("zeros").eval()
    context = RadhicalNet("context").eval()
    context.load_state_dict(zeros.state_dict())
    flat = torch.full((1, 3, 67, 67), 128, dtype=torch.uint8)
    nn.init.zeros_(zeros.conv2.bias), nn.init.zeros_(context.conv2.bias)
    with torch.inference_mode():
        torch.testing.assert_close(context(flat), zeros(flat[..., :32, :32]))


@pytest.mark.parametrize("border", ["context", "zeros"])
def test_dense_evaluation_equals_patch_wise_evaluation_at_every_pixel(border):
    torch.manual_seed(2)
    net = RadhicalNet(border).eval()
    nn.init.normal_(net.answer.weight)
    image = windows(net, 24, 20)
    with torch.inference_mode():
        dense = probabilities(net.dense(image))
        for y in range(24):
            patches = torch.cat([image[:, :, y : y + net.field, x : x + net.field] for x in range(20)])
            patchwise = probabilities(net(patches))[:, :, 0, 0].T
            torch.testing.assert_close(dense[0, :, y], patchwise, atol=TOLERANCE, rtol=0)
    assert dense.std() > 0.05


def test_a_lattice_of_outputs_equals_the_dense_outputs_at_its_points():
    torch.manual_seed(3)
    net = RadhicalNet().eval()
    crop = windows(net, 25, 25)
    assert net.crop_edge(4) == crop.shape[2]
    with torch.inference_mode():
        torch.testing.assert_close(net(crop), net.dense(crop)[:, :, ::8, ::8], atol=TOLERANCE, rtol=0)
    assert list(net.points(4)) == [33, 41, 49, 57]


def test_an_encoder_decoder_gives_the_same_outputs_in_blocks_of_any_size():
    torch.manual_seed(4)
    net = build_network(CascadeNetwork(name="unet", encoder="tu-resnet10t")).eval()
    assert isinstance(net, EncoderDecoderNet)
    image = windows(net, 48, 48)
    with torch.inference_mode():
        whole = probabilities(net.dense(image))
        for y, x, edge in ((0, 0, 8), (16, 24, 8), (24, 8, 16)):
            part = image[:, :, y : y + edge + net.field - 1, x : x + edge + net.field - 1]
            here = whole[:, :, y : y + edge, x : x + edge]
            torch.testing.assert_close(probabilities(net.dense(part)), here, atol=TOLERANCE, rtol=0)
        cell = image[:, :, 8 : 8 + net.field + 7, 16 : 16 + net.field + 7]
        torch.testing.assert_close(probabilities(net.patchwise(cell)), whole[:, :, 8:16, 16:24], atol=TOLERANCE, rtol=0)


def test_a_network_with_an_unlimited_field_of_view_is_refused():
    with pytest.raises(ConfigError, match="sees the whole window"):
        build_network(CascadeNetwork(name="unet", encoder="efficientnet-b0"))


def test_an_unknown_architecture_is_a_config_error():
    with pytest.raises(ConfigError, match="no-such-net"):
        build_network(CascadeNetwork(name="no-such-net"))


def test_dense_evaluation_costs_less_than_a_hundredth_of_patch_wise_evaluation():
    net = RadhicalNet()
    assert multiply_adds(net, (128, 128)) / 128**2 < multiply_adds(net) / 100
