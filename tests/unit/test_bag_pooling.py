"""Pooling of bags: what must hold for every pooling, and values that can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from histomake.bags.batch import Bags
from histomake.bags.network import PART, BagNetwork, build_pooling
from histomake.bags.pooling import PooledBags, Pooling
from histomake.base.errors import HistomakeError
from histomake.config import BagPooling

POOLINGS = ["mean", "max", "topk", "attention", "gated", "dsmil", "clam", "transmil", "additive"]
SAME_WITH_DUPLICATES = ["mean", "max", "attention", "gated", "dsmil", "clam", "additive"]
"""Poolings for which a bag given twice has the same logits. topk averages a fixed number of patches, and transmil adds
a class token to them."""

WIDTH, OUTPUTS = 16, 3


def pooling(name: str, **changes: object) -> Pooling:
    torch.manual_seed(3)
    settings = BagPooling(name=name, embed=None, hidden=[8, 8], classifier=[8], **changes)
    return build_pooling(settings, width=WIDTH, outputs=OUTPUTS).eval()


def bags(*sizes: int, seed: int = 1) -> Bags:
    """Random bags whose patches have different places."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    cells = torch.randperm(40 * 40, generator=generator)[:count]
    places = torch.stack([torch.zeros_like(cells), cells % 40, cells // 40], dim=1)
    return Bags(torch.randn(count, WIDTH, generator=generator), list(sizes), places)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).detach().abs().max())


def pooled(network: Pooling, given: Bags) -> PooledBags:
    with torch.inference_mode():
        return network(given)


@pytest.mark.parametrize("name", POOLINGS)
def test_the_order_of_patches_does_not_matter(name: str):
    network, given = pooling(name), bags(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(5))
    first = pooled(network, given)
    second = pooled(network, Bags(given.features[order], [300], given.places[order]))
    assert difference(first.logits, second.logits) <= 1e-6
    assert difference(first.attention[order], second.attention) <= 1e-6


@pytest.mark.parametrize("name", POOLINGS)
def test_padded_bags_packed_bags_and_single_bags_have_the_same_logits(name: str):
    network, given = pooling(name), bags(5, 1, 40)
    packed = pooled(network, given)
    padded = pooled(network, Bags.from_padded(*given.padded()))
    assert difference(packed.logits, padded.logits) <= 1e-6
    parts = zip(given.split(given.features), given.split(given.places), strict=True)
    single = torch.cat([pooled(network, Bags(part, [len(part)], places)).logits for part, places in parts])
    assert difference(packed.logits, single) <= 1e-6


@pytest.mark.parametrize("name", POOLINGS)
def test_attention_is_not_negative_and_sums_to_one_over_each_bag(name: str):
    given = bags(5, 1, 40)
    attention = pooled(pooling(name), given).attention
    assert (attention >= 0).all()
    for part in given.split(attention):
        assert abs(float(part.sum()) - 1) <= 1e-5


@pytest.mark.parametrize("name", SAME_WITH_DUPLICATES)
def test_a_bag_given_twice_has_the_same_logits(name: str):
    network, given = pooling(name), bags(50)
    twice = Bags(given.features.repeat(2, 1), [100], given.places.repeat(2, 1))
    assert difference(pooled(network, given).logits, pooled(network, twice).logits) <= 1e-5


def test_the_sum_of_the_paper_changes_with_duplicated_patches():
    network, given = pooling("additive", normalise=False), bags(50)
    twice = Bags(given.features.repeat(2, 1), [100], given.places.repeat(2, 1))
    assert difference(pooled(network, given).logits, pooled(network, twice).logits) > 1e-2


@pytest.mark.parametrize(("name", "normalise"), [("additive", True), ("additive", False), ("topk", True)])
def test_the_contributions_of_patches_sum_to_the_logits(name: str, normalise: bool):
    given = bags(5, 1, 400)
    found = pooled(pooling(name, normalise=normalise), given)
    assert found.contributions is not None
    sums = torch.stack([part.sum(0) for part in given.split(found.contributions)])
    assert difference(sums, found.logits) <= 1e-5


@pytest.mark.parametrize("name", POOLINGS)
def test_every_weight_is_trained(name: str):
    network = pooling(name).train()
    given = bags(30, 20)
    target = torch.tensor([0, 2])
    found = network(given)
    loss = found.logits.square().sum()
    extra = network.patch_loss(found, given.sizes, target)
    if extra is not None:
        loss = loss + extra + network.patch_loss(found, given.sizes, torch.tensor([1, 1]))
    loss.backward()
    still = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    # A bias of attention cancels out in the softmax.
    assert not [key for key in still if key != "attend.score.bias"]


def test_mean_pooling_has_the_mean_that_is_computed_by_hand():
    network = build_pooling(BagPooling(name="mean", embed=None), width=2, outputs=1)
    with torch.no_grad():
        network.classify[0].weight.copy_(torch.tensor([[1.0, 10.0]]))
        network.classify[0].bias.fill_(0.5)
    given = Bags(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), [2], torch.zeros(2, 3, dtype=torch.int64))
    assert pooled(network, given).logits.item() == pytest.approx(2 + 30 + 0.5)


def test_topk_averages_the_highest_patches_and_shares_a_place_among_ties():
    network = build_pooling(BagPooling(name="topk", embed=None, top=2), width=1, outputs=1)
    with torch.no_grad():
        network.classify[0].weight.fill_(1)
        network.classify[0].bias.fill_(0)
    given = Bags(torch.tensor([[1.0], [4.0], [2.0], [2.0]]), [4], torch.zeros(4, 3, dtype=torch.int64))
    found = pooled(network, given)
    assert found.logits.item() == pytest.approx(3)
    assert found.attention.tolist() == pytest.approx([0, 0.5, 0.25, 0.25])


def test_transmil_depends_on_where_patches_lie():
    network, given = pooling("transmil"), bags(60)
    apart = Bags(given.features, [60], given.places * 20)
    assert difference(pooled(network, given).logits, pooled(network, apart).logits) > 1e-4


def test_neighbours_on_the_slide_are_convolved_as_in_a_dense_image():
    network = pooling("transmil").nearby
    at = torch.arange(36)
    places = torch.stack([torch.zeros_like(at), at % 6, at // 6], dim=1)
    tokens = torch.randn(36, WIDTH, generator=torch.Generator().manual_seed(2))
    image = tokens.T.reshape(1, WIDTH, 6, 6)
    dense = image + sum(conv(image) for conv in network.kernels)
    assert difference(network(tokens, places), dense.reshape(WIDTH, 36).T) <= 1e-5


def test_large_bags_of_transmil_have_nearly_the_exact_logits(monkeypatch: pytest.MonkeyPatch):
    network, given = pooling("transmil"), bags(1500)
    exact = pooled(network, given)
    monkeypatch.setattr("histomake.bags.transmil.EXACT", 100)
    near = pooled(network, given)
    assert 0 < difference(exact.logits, near.logits) < 0.05


class BagInMemory:
    """An index of one bag whose patches are in memory."""

    def __init__(self, features: torch.Tensor, places: torch.Tensor) -> None:
        self.features, self.places, self.members = features, places, [np.arange(len(features))]

    def part(self, bag: int, start: int, stop: int) -> Bags:
        return Bags(self.features[start:stop], [stop - start], self.places[start:stop])


def test_a_prediction_in_parts_equals_one_forward_pass():
    torch.manual_seed(1)
    network = BagNetwork(BagPooling(embed=8), inputs=WIDTH, outputs=2).eval()
    features = torch.randn(PART + 77, WIDTH)
    places = torch.zeros(len(features), 3, dtype=torch.int64)
    whole = network(Bags(features, [len(features)], places))
    bag = BagInMemory(features, places)
    parts, _ = network.predict_bag(bag, 0, torch.device("cpu"))
    assert difference(whole.logits, parts.logits) <= 1e-6


def test_a_bag_without_patches_is_refused():
    with pytest.raises(HistomakeError, match="no patch"):
        Bags(torch.zeros(1, WIDTH), [1, 0], torch.zeros(1, 3, dtype=torch.int64))
