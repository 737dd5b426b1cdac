"""Predictions of bags with some of their patches: sizes, removal of patches, and their report."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from histomake.bags.batch import Bags
from histomake.bags.network import build_pooling
from histomake.bags.pooling import PooledBags, Pooling
from histomake.bags.probes import DRAWS, SIZES, probe
from histomake.base.records.bag_probe import SHARES, BagProbe, Removal, probe_of, with_probe
from histomake.config import BagPooling, Target
from histomake.evaluate.bags import by_bag_size, removal, removal_by_share
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.report.removal_section import removal_curves, removal_table
from histomake.report.task_section import bag_sizes_table


class Weighted(Pooling):
    """The logit is the mean of the first numbers of the patches; their attention is the second."""

    def forward(self, bags):
        """See Pooling."""
        logits = torch.stack([each[:, :1].mean(0) for each in bags.split(bags.features)])
        attention = torch.cat([each[:, 1] / each[:, 1].sum() for each in bags.split(bags.features)])
        return PooledBags(logits, attention, None, bags.features)


def probed(values, attention, **options):
    given = torch.tensor(np.stack([values, attention], 1), dtype=torch.float32)
    places = torch.zeros(len(given), 3, dtype=torch.int64)
    pooling = Weighted()
    pooled = pooling(Bags(given, [len(given)], places))
    return probe(pooling, pooled, places, activate=options.get("activate", lambda x: x), seed=options.get("seed", 1))


def needle(count=100, positive=10):
    values = np.zeros(count)
    values[:positive] = 10.0
    return values


def test_attention_to_the_patches_that_decide_is_better_than_random_ones():
    values = needle()
    found = probed(values, 1 + values)
    assert found.attention.deletion > found.random.deletion
    opposite = probed(values, 11 - values)
    assert opposite.attention.deletion < found.attention.deletion


def test_removal_is_the_mean_change_of_the_scores_by_hand():
    # Of 10 patches, 1, 1, 1, 2 and 5 are taken away, from the largest value on.
    values = np.arange(10.0)
    found = probed(values, 1 + values)
    counts = (1, 1, 1, 2, 5)
    assert found.attention.deletion == pytest.approx(np.mean([4.5 - values[: 10 - n].mean() for n in counts]))
    assert found.attention.insertion == pytest.approx(np.mean([values[10 - n :].mean() - 4.5 for n in counts]))
    assert found.attention.deletions == pytest.approx([4.5 - values[: 10 - n].mean() for n in counts])
    assert found.attention.insertions == pytest.approx([values[10 - n :].mean() - 4.5 for n in counts])


def test_a_bag_that_is_not_larger_than_a_size_is_used_whole_and_a_larger_one_is_sampled():
    values = np.random.default_rng(1).normal(size=100)
    found = probed(values, np.ones(100))
    assert list(found.sizes) == [str(size) for size in SIZES]
    assert found.sizes["512"] == pytest.approx([values.mean()], abs=1e-6)
    assert found.sizes["12"] != pytest.approx([values.mean()], abs=1e-6)
    assert found.sizes["12"] == probed(values, np.ones(100)).sizes["12"]
    assert found.sizes["12"] != probed(values, np.ones(100), seed=2).sizes["12"]
    spread = [probed(values, np.ones(100), seed=seed).sizes["12"][0] for seed in range(200)]
    assert np.std(spread) == pytest.approx(values.std() / np.sqrt(12 * DRAWS), rel=0.2)


def test_a_bag_of_one_patch_has_no_removal():
    found = probed(np.ones(1), np.ones(1))
    assert (found.attention, found.random) == (None, None)
    assert found.sizes["12"] == [1.0]


@pytest.mark.parametrize("name", ["mean", "max", "topk", "attention", "gated", "dsmil", "clam", "transmil", "additive"])
def test_every_pooling_can_be_probed(name):
    torch.manual_seed(0)
    pooling = build_pooling(BagPooling(name=name, hidden=[8], dropout=0.0), width=16, outputs=2).eval()
    places = torch.stack([torch.zeros(70), torch.arange(70) % 10, torch.arange(70) // 10], 1).long()
    pooled = pooling(Bags(torch.randn(70, 16), [70], places))
    found = probe(pooling, pooled, places, activate=lambda x: x.softmax(1), seed=1)
    assert np.array(list(found.sizes.values())).sum(1) == pytest.approx(np.ones(3))
    assert found.attention.deletion >= 0


BETTER, WORSE = (Removal(0.3, 0.1), Removal(0.1, 0.2)), (Removal(0.1, 0.4), Removal(0.3, 0.2))


def prediction(number, score, sizes, orders=BETTER, patient=None):
    label = "high" if number % 2 else "low"
    columns = {"tissue": [1.0, 1.0], "score_low": [1 - score] * 2, "score_high": [score] * 2, "label": [label] * 2}
    table = pa.table(columns).cast(pa.schema([(n, pa.string() if n == "label" else pa.float32()) for n in columns]))
    table = with_probe(table, BagProbe(sizes, *orders))
    return SlidePrediction(f"s{number}", patient or f"p{number}", 0, table, labels={"grade": label})


def test_metrics_are_given_by_size_of_the_bag_beside_all_patches():
    # With few patches the scores of the grades are in the wrong order.
    scores = [[0.1 + 0.8 * (i % 2), 0.9 - 0.8 * (i % 2)] for i in range(6)]
    given = [prediction(i, both[0], {"12": both, "512": both, "64": both}) for i, both in enumerate(scores)]
    target = Target(source="sheet", column="grade", classes=["low", "high"])
    record = evaluate(
        given,
        kind="classification",
        target=target,
        aggregate="mean",
        seed=1,
        bootstraps=20,
        level="slide",
        bag_sizes=by_bag_size(given, ["low", "high"]),
        removal=removal(given, "slide", seed=1, bootstraps=20),
    ).record
    assert record.levels["slide"].metrics["all"]["auroc"].value == 1
    assert record.bag_sizes["12"]["slide"].metrics["all"]["auroc"].value == 0
    shown = bag_sizes_table(record)
    places = [shown.index(title) for title in ("12 patches", "64 patches", "512 patches", "all patches")]
    assert places == sorted(places)
    assert "without the patches" in removal_table(record, "patches")


def test_removal_is_a_mean_over_bags_and_the_slides_of_a_patient_are_one():
    given = [prediction(0, 0.5, {}, BETTER, "p"), prediction(1, 0.5, {}, BETTER, "p"), prediction(2, 0.5, {}, WORSE)]
    found = removal(given, "patient", seed=1, bootstraps=20)
    assert found["deletion"].value == pytest.approx(0.2)
    assert found["random_deletion"].value == pytest.approx(0.2)
    assert found["insertion"].value == pytest.approx(0.25)
    assert found["deletion_better"].value == found["insertion_better"].value == 0.5
    assert removal(given, "slide", seed=1, bootstraps=20)["deletion_better"].value == pytest.approx(2 / 3)


def test_removal_by_share_is_a_mean_over_bags_and_is_drawn():
    shares = [0.1 * number for number in range(len(SHARES))]
    steep, flat = Removal(0.2, 0.2, shares, shares), Removal(0.0, 0.0, [0.0] * len(SHARES), [0.0] * len(SHARES))
    given = [prediction(0, 0.2, {}, (steep, flat)), prediction(1, 0.8, {}, (flat, flat))]
    found = removal_by_share(given, "slide", seed=1, bootstraps=20)
    assert list(found) == ["0.01", "0.05", "0.1", "0.2", "0.5"]
    assert [found[share]["deletion"].value for share in found] == pytest.approx([value / 2 for value in shares])
    assert {one["random_insertion"].value for one in found.values()} == {0.0}
    target = Target(source="sheet", column="grade", classes=["low", "high"])
    settings = {"kind": "classification", "target": target, "aggregate": "mean", "seed": 1, "bootstraps": 20}
    record = evaluate(given, **settings, level="slide", removal_by_share=found).record
    assert "<figure" in removal_curves(record, "patches")


def test_removal_of_earlier_predictions_has_no_curves():
    given = [prediction(0, 0.2, {}), prediction(1, 0.8, {})]
    assert removal_by_share(given, "slide", seed=1, bootstraps=20) == {}


def test_slides_without_patches_are_left_out():
    given = [prediction(0, 0.5, {"12": [0.5, 0.5]}), SlidePrediction("s1", "p1", 0, pa.table({"score_low": [0.1]}))]
    assert probe_of(given[1].table) is None
    assert [one.slide_id for one in by_bag_size(given, ["low", "high"])["12"]] == ["s0"]
    assert removal(given[1:], "slide", seed=1, bootstraps=20) == {}
