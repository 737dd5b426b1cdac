"""Pixels as a network's input."""

import pytest
import torch
from histomake.base.records.model_card import Normalisation
from histomake.learn.data.images import standardise, to_unit

NORMALISATION = Normalisation(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_every_view_is_standardised_by_channel_in_any_layout_of_memory(views, memory_format):
    images = torch.rand(2, 3 * views, 5, 4).contiguous(memory_format=memory_format)
    found = standardise(images, NORMALISATION)
    for channel in range(3 * views):
        mean, std = NORMALISATION.mean[channel % 3], NORMALISATION.std[channel % 3]
        assert torch.equal(found[:, channel], (images[:, channel] - mean) / std)
    assert found.is_contiguous(memory_format=memory_format)


def test_bytes_become_numbers_from_0_to_1_channel_first():
    images = torch.arange(24, dtype=torch.uint8).view(1, 2, 4, 3) * 11
    found = to_unit(images, torch.device("cpu"))
    assert found.shape == (1, 3, 2, 4)
    assert torch.equal(found[0, 2, 1, 3], images[0, 1, 3, 2].float() / 255)
