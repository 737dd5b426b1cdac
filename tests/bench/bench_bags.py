"""Bags: what must hold for every pooling, a needle in a haystack, and the cost of large bags.

Times are CPU times of one thread, so that other work on the machine does not count.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from histomake.bags.batch import Bags
from histomake.bags.network import BagNetwork
from histomake.bags.pooling import PooledBags
from histomake.bags.sampling import BagPatches, BagSampler, curve_positions
from histomake.config import BagPooling
from sklearn.metrics import roc_auc_score

from tests.bench.figures import Figure
from tests.bench.public_bags import public_sets

POOLINGS = ("mean", "max", "topk", "attention", "gated", "dsmil", "clam", "transmil", "additive")
NEEDLE_BAGS, NEEDLE_PATCHES, NEEDLE_WIDTH = 160, 200, 32
STEPS, BATCH = 300, 16
SHUFFLES = 5
LARGE, WIDE = 20_000, 1024
HUGE = 100_000


def random_bags(*sizes: int, width: int, seed: int = 0) -> Bags:
    """Bags of random features, whose patches lie side by side."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.arange(sum(sizes))
    places = torch.stack([torch.zeros_like(at), at % 100, at // 100], dim=1)
    return Bags(torch.randn(len(at), width, generator=generator), list(sizes), places)


def build(name: str, width: int, outputs: int = 2, **settings: object) -> BagNetwork:
    """A network with random weights."""
    torch.manual_seed(0)
    return BagNetwork(BagPooling(name=name, dropout=0.0, **settings), inputs=width, outputs=outputs)


def largest(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest difference."""
    return float((first - second).abs().max())


@torch.inference_mode()
def invariances() -> list[Figure]:
    """Order of patches, packing, and contributions."""
    moved = packed = added = 0.0
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    one, several = random_bags(500, width=64), random_bags(5, 1, 300, width=64)
    for name in POOLINGS:
        network = build(name, 64).eval()
        turned = Bags(one.features[order], [500], one.places[order])
        moved = max(moved, largest(network(one).logits, network(turned).logits))
        packed = max(packed, largest(network(several).logits, network(Bags.from_padded(*several.padded())).logits))
        found: PooledBags = network(several)
        if found.contributions is not None:
            sums = torch.stack([part.sum(0) for part in several.split(found.contributions)])
            added = max(added, largest(sums, found.logits))
    note = f"largest over {len(POOLINGS)} poolings"
    return [
        Figure("order of patches: difference of logits", moved, "<= 1e-06", moved <= 1e-6, "", note),
        Figure("padded against packed: difference of logits", packed, "<= 1e-06", packed <= 1e-6, "", note),
        Figure("sum of contributions against logits", added, "<= 1e-05", added <= 1e-5, "", "topk, additive"),
    ]


def needles(seed: int) -> tuple[list[torch.Tensor], np.ndarray, list[np.ndarray]]:
    """Bags whose positive half has 1 % patches of another mean: features, labels, and which patches are positive."""
    rng = np.random.default_rng(seed)
    direction = np.zeros(NEEDLE_WIDTH)
    direction[:4] = 2.5
    bags, labels, marks = [], np.arange(NEEDLE_BAGS) % 2, []
    for label in labels:
        mark = np.zeros(NEEDLE_PATCHES, bool)
        if label:
            mark[rng.choice(NEEDLE_PATCHES, NEEDLE_PATCHES // 100, replace=False)] = True
        marks.append(mark)
        values = rng.normal(0, 1, (NEEDLE_PATCHES, NEEDLE_WIDTH)) + mark[:, None] * direction
        bags.append(torch.tensor(values, dtype=torch.float32))
    return bags, labels, marks


def fitted(name: str, labels: np.ndarray, bags: list[torch.Tensor]) -> BagNetwork:
    """A network that is trained on bags."""
    network = build(name, NEEDLE_WIDTH, embed=32, hidden=[32]).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    rng = np.random.default_rng(1)
    places = torch.zeros(BATCH * NEEDLE_PATCHES, 3, dtype=torch.int64)
    for _ in range(STEPS):
        chosen = rng.choice(len(bags), BATCH, replace=False)
        given = Bags(torch.cat([bags[i] for i in chosen]), [NEEDLE_PATCHES] * BATCH, places)
        loss = torch.nn.functional.cross_entropy(network(given).logits, torch.from_numpy(labels[chosen]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def find_needles() -> list[Figure]:
    """AUROC of bags and patches that were not trained on."""
    train, labels, _ = needles(1)
    test, truth, marks = needles(2)
    given = Bags(torch.cat(test), [NEEDLE_PATCHES] * len(test), torch.zeros(len(test) * NEEDLE_PATCHES, 3).long())
    of_bags, of_patches = {}, {}
    for name in ("gated", "additive", "mean"):
        with torch.inference_mode():
            found = fitted_and_pooled(name, labels, train, given)
        of_bags[name] = float(roc_auc_score(truth, found.logits[:, 1] - found.logits[:, 0]))
        values = (
            found.attention if found.contributions is None else found.contributions[:, 1] - found.contributions[:, 0]
        )
        inside = np.repeat(truth == 1, NEEDLE_PATCHES)
        of_patches[name] = float(roc_auc_score(np.concatenate(marks)[inside], values.numpy()[inside]))
    gap = min(of_bags["gated"], of_bags["additive"]) - of_bags["mean"]
    note = f"{NEEDLE_BAGS} bags of {NEEDLE_PATCHES}, 1 % positive patches in half of them"
    figures = [
        Figure(f"needle: AUROC of bags, {n}", of_bags[n], ">= 0.95", of_bags[n] >= 0.95, "", note)
        for n in ("gated", "additive")
    ]
    figures += [
        Figure(f"needle: AUROC of patches, {n}", of_patches[n], ">= 0.85", of_patches[n] >= 0.85)
        for n in ("gated", "additive")
    ]
    return [*figures, Figure("needle: mean pooling is lower by", gap, ">= 0.15", gap >= 0.15)]


def without_signal() -> list[Figure]:
    """How many 95 % intervals of the AUROC of bags that were not trained on cover 0.5 where labels are shuffled."""
    train, labels, _ = needles(1)
    test, truth, _ = needles(2)
    given = Bags(torch.cat(test), [NEEDLE_PATCHES] * len(test), torch.zeros(len(test) * NEEDLE_PATCHES, 3).long())
    covered, areas = 0, []
    for seed in range(SHUFFLES):
        rng = np.random.default_rng(seed)
        with torch.inference_mode():
            logits = fitted_and_pooled("gated", rng.permutation(labels), train, given).logits
        known, scores = rng.permutation(truth), (logits[:, 1] - logits[:, 0]).numpy()
        drawn = [rng.integers(0, len(known), len(known)) for _ in range(1000)]
        low, high = np.percentile([roc_auc_score(known[index], scores[index]) for index in drawn], (2.5, 97.5))
        covered += bool(low <= 0.5 <= high)
        areas.append(roc_auc_score(known, scores))
    note = f"AUROC {min(areas):.2f} to {max(areas):.2f}"
    least = SHUFFLES - 1
    return [
        Figure(
            f"shuffled labels: intervals of {SHUFFLES} that cover .5",
            covered,
            f">= {least}",
            covered >= least,
            "",
            note,
        )
    ]


def fitted_and_pooled(name: str, labels: np.ndarray, train: list[torch.Tensor], given: Bags) -> PooledBags:
    """What a network trained on some bags makes of others."""
    with torch.inference_mode(mode=False):
        network = fitted(name, labels, train)
    return network(given)


def cpu_seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Smallest CPU time of one call."""
    took = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return min(took)


def speed(work: Path) -> list[Figure]:
    """Drawing of a bag from the disk, and a step on a whole large slide."""
    path = work / "features.npy"
    np.save(path, np.random.default_rng(0).normal(size=(LARGE, WIDE)).astype(np.float16))
    stored, at = np.load(path, mmap_mode="r"), np.arange(LARGE)
    patches = BagPatches(curve_positions(np.zeros_like(at), at % 200, at // 200), None, {})
    sampler = BagSampler(0, "random", 512, {})
    steps = iter(range(10_000))

    def draw() -> np.ndarray:
        return stored[sampler.draw(patches, step=next(steps), slot=0)].astype(np.float32)

    drawn = 1000 * cpu_seconds(draw, rounds=20)
    network, given = build("gated", WIDE), random_bags(LARGE, width=WIDE)

    def step() -> None:
        network(given).logits.square().sum().backward()

    took = cpu_seconds(step)
    return [
        Figure("bag of 512 of 20,000 patches from disk", drawn, "<= 5", drawn <= 5, "ms"),
        Figure("forward and backward of 20,000 x 1,024, gated", took, "<= 3", took <= 3, "s"),
    ]


MEMORY = """
import resource, sys, numpy as np, torch
sys.path.insert(0, "scripts")
from tests.bench.bench_bags import build, HUGE, WIDE
from histomake.bags.batch import Bags
class Stored:
    members = [np.arange(HUGE)]
    def part(self, bag, start, stop):
        at = torch.arange(start, stop)
        features = torch.randn(stop - start, WIDE, dtype=torch.float16).float()
        return Bags(features, [stop - start], torch.stack([0 * at, at % 300, at // 300], 1))
build(sys.argv[1], WIDE).eval().predict_bag(Stored(), 0, torch.device("cpu"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def memory() -> list[Figure]:
    """Peak memory of the process that predicts a slide, with all its libraries."""
    figures = []
    for name in ("gated", "additive", "transmil"):
        done = subprocess.run([sys.executable, "-c", MEMORY, name], capture_output=True, text=True, check=True)
        peak = float(done.stdout)
        figures.append(Figure(f"prediction of 100,000 x 1,024, {name}", peak, "<= 2", peak <= 2, "GB"))
    return figures


def run(work: Path) -> list[Figure]:
    """All figures of bags."""
    torch.set_num_threads(1)
    return [*invariances(), *find_needles(), *without_signal(), *public_sets(), *speed(work), *memory()]
