"""Benchmarks of graphs: arrangements that means do not tell, invariance, 200,000 nodes, and a biopsy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from histomake.config import Gnn
from histomake.graphs.batch import GraphBatch
from histomake.graphs.edges import nearest
from histomake.graphs.networks import GraphLayers
from sklearn.metrics import roc_auc_score
from torch import nn

from tests.arranged_graphs import arranged
from tests.bench import biopsy_cells
from tests.bench.figures import Figure
from tests.workshop import ROOT

GRAPHS, NODES, STEPS = 120, 400, 150
"""Graphs, half of which are clustered and half of which are tested; nodes of each; steps of training."""

LARGE = """
import json, resource, time
import numpy as np, torch
from histomake.config import Gnn
from histomake.graphs.batch import GraphBatch
from histomake.graphs.edges import nearest
from histomake.graphs.networks import GraphLayers

torch.manual_seed(1)
places = np.random.default_rng(1).random((200_000, 2)) * 50_000
start = time.perf_counter()
pairs = nearest(places, 6)
found = {"nearest": time.perf_counter() - start}
network = GraphLayers(Gnn(hidden=32), inputs=32, outputs=2)
batch = GraphBatch.of([torch.randn(len(places), 32)], [torch.from_numpy(pairs)])
start = time.perf_counter()
network(batch).square().sum().backward()
found["pass"] = time.perf_counter() - start
print(json.dumps(found | {"gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
"""


def run(work: Path) -> list[Figure]:
    """Train on small graphs, and compute with a large one in a process of one thread."""
    torch.manual_seed(1)
    graphs, truth = _graphs()
    sagpool = _area(GraphLayers(Gnn(hidden=32), inputs=2, outputs=2), graphs, truth)
    mean = _area(_MeanPooling(), graphs, truth)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {"PYTHONPATH": str(ROOT / "scripts"), "PATH": "/usr/bin:/bin", **threads}
    done = subprocess.run(
        [sys.executable, "-c", LARGE], env=environment, capture_output=True, text=True, check=True, cwd=work
    )
    large = json.loads(done.stdout)
    difference = _order_difference(graphs[0])
    return [
        Figure("arrangement, AUROC of SAGPool", sagpool, ">= 0.95", sagpool >= 0.95),
        Figure("arrangement, AUROC of mean pooling", mean, "<= 0.65", mean <= 0.65),
        Figure("order of nodes, largest difference", difference, "<= 1e-5", difference <= 1e-5),
        Figure("200,000 nodes, nearest 6", large["nearest"], "<= 3", large["nearest"] <= 3, "s"),
        Figure("200,000 nodes, forward and backward", large["pass"], "<= 20", large["pass"] <= 20, "s"),
        Figure("200,000 nodes, memory", large["gb"], "<= 3", large["gb"] <= 3, "GB"),
        *biopsy_cells.figures(),
    ]


class _MeanPooling(nn.Module):
    """Two layers on the mean of the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, graphs: GraphBatch) -> torch.Tensor:
        """Logits (b, 2)."""
        return self.layers(torch.stack([part.mean(0) for part in graphs.features.split(graphs.sizes)]))


def _graphs() -> tuple[list[tuple[torch.Tensor, torch.Tensor]], np.ndarray]:
    rng, found = np.random.default_rng(1), []
    truth = np.arange(GRAPHS) % 2
    for clustered in truth:
        places, classes = arranged(rng, nodes=NODES, extent=1000.0, clustered=bool(clustered))
        features = torch.from_numpy((classes[:, None] == np.arange(2)).astype(np.float32))
        found.append((features, torch.from_numpy(nearest(places, 6))))
    return found, truth


def _area(network: nn.Module, graphs: list[tuple[torch.Tensor, torch.Tensor]], truth: np.ndarray) -> float:
    """Area under the ROC curve of the second half of the graphs, after training on the first."""
    optimiser, rng, half = torch.optim.Adam(network.parameters(), 0.003), np.random.default_rng(2), len(graphs) // 2
    for _ in range(STEPS):
        chosen = rng.choice(half, 10, replace=False)
        logits = network(GraphBatch.of(*zip(*(graphs[i] for i in chosen), strict=True)))
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits, torch.from_numpy(truth[chosen])).backward()
        optimiser.step()
    network.eval()
    with torch.inference_mode():
        logits = network(GraphBatch.of(*zip(*graphs[half:], strict=True)))
    return float(roc_auc_score(truth[half:], (logits[:, 1] - logits[:, 0]).numpy()))


def _order_difference(graph: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Largest difference of logits when the nodes of a graph, with features that do not tie, are permuted."""
    _, pairs = graph
    network = GraphLayers(Gnn(), inputs=8, outputs=2).eval()
    features, order = torch.randn(NODES, 8), torch.randperm(NODES)
    with torch.inference_mode():
        first = network(GraphBatch.of([features], [pairs]))
        second = network(GraphBatch.of([features[order]], [torch.argsort(order)[pairs]]))
    return float((first - second).abs().max())
