"""Memory of jobs that train or explain networks, in MB, by their settings and the patches that they learn from.

Everything counts as if it were computed on a CPU: planning does not know the machine. A network's own size is not known
before it is built either, so the largest usual one is assumed (`NETWORK_MB`), or one of the size of its file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from histomake.base.units import PatchPixels
from histomake.config import Explain, Generator, Grid, PatchChoice, Radhical, StainTransfer, Task
from histomake.generate.growing.schedule import batch_at
from histomake.planning.resources import MOST_BATCH_MB, batch_mb, batch_pixels

GRADIENT_BYTES = {"auto": 3500, "fp32": 3500, "bf16": 2500, "fp16": 2500}
"""Bytes of a training step for a pixel of its batch, by precision: what all layers return is kept for the gradients.

Measured with float32 on a CPU: DenseNet-121 2900, ConvNeXt-T 2300, ResNet-50 and EfficientNet-B0 2000, ViT-S/16 1600,
U-Net 1400, ResNet-18 700. bf16 takes half of float32 on a GPU (docs/benchmarks.md); on a CPU it was not measured.
"""

PROCESS_MB = 2500
"""A further process of a training on several GPUs."""

NETWORK_MB = 2500
"""100 million weights in float32, with gradients, both moments of AdamW, and copies of the best ones and for saving."""

FILE_COPIES = 6
"""The same for the file of weights that a training starts from, by its size."""

LOADER_MB = 250
"""What a loader process does not share with the process that it was forked from."""

LOADERS = 7
"""Loader processes where ``train.workers`` is not set."""

READY, MOST_READY, HELD = 4, 32, 3
"""Batches that loaders keep ready, see `histomake.learn.data.loader`."""

ROW_BYTES = 200
"""An indexed patch: place, target, weight, bag, while the tables of all slides are joined."""

WIDEST = 2560
"""Length of the longest vectors that published encoders give a patch. Those of a job are known only to its files."""

VALUE_BYTES = 4

HEAD_COPIES = 9
"""Copies of its vectors that a head makes at once, in units of float32: scaled in float64, and fitted."""

SCALED_BY = 20_000
"""Vectors from which a network of bags or a head takes mean and deviation."""

BAG_PART = 8192
"""Patches of a bag whose vectors are read at once in validation."""

POOLED_COPIES = 16
"""Values that a pooling keeps of an embedded patch for the gradients, in units of the width of its embedding."""

EXPLAINED_AT_ONCE = 32
"""Patches whose gradients SHAP computes at once."""

READ_AT_ONCE = 128
"""Patches that are read at once for an embedding."""

SAMPLES = 50
"""Images between a patch and the background that SHAP makes of each patch."""

SHAP_PER_REGION = 4
"""Patches of a region that are explained."""

UMAP_MB = 1000
"""Libraries of an embedding, compiled functions, and distances between its patches."""

EMBEDDED_BYTES = 30_000
"""An embedded patch besides its vector: thumbnail, its copies in the page and in the mosaic, and neighbours."""

POINTS_MB = 1200
"""Candidates for points of a cascade in the frames of a slide."""

LEVEL_MB = 3
"""A level of a slide that is kept in memory, of at most LEVELS."""

LEVELS = 512

TRANSFER_BYTES = 50_000
"""Bytes of a step of a stain transfer for a pixel of a patch of one side: 6 passes of generators with 64 filters and 9
blocks, whose layers are kept for the gradients. Measured: 43,700 at 192 px (CPU, float32, with identity loss)."""

TRANSFER_FILTERS = 64
"""Filters to which TRANSFER_BYTES refers."""

TRANSFER_MB = 1500
"""Generators and critics in float32, with gradients, moments, averages and copies, and the images of the pools."""

GENERATOR_BYTES = 240
"""Bytes of a step of a growing generator for a channel of a pixel of its batch: generator, critic on real, made and
mixed images, and gradients of gradients."""

GENERATOR_MB = 1500
"""Generator and critic in float32, with gradients, moments, average and copies."""


GRAPH_MB = 1500
"""A training on graphs without any: torch, torch-geometric, and files that are mapped into memory."""

GRAPH_COPIES = {"inputs": 4.0, "gathered": 1.2, "layers": 6.0, "messages": 4.0}
"""Values of a step on graphs, in units of float32: of a node for each number of its features and for each width of a
layer, of an edge in both directions for the wider of inputs and layers, whose messages are gathered, and for each width
that is kept for the gradients. Measured on a CPU with 50,000 nodes, 350,000 directed edges, 32 and 512 features and all
networks: 15 to 72 % of what they amount to."""

GRAPH_FILE_COPIES = 20
"""Memory of a prediction of a graph in units of its file: float16 in the file, float32 for each of 7 edges a node."""

EDGE_BYTES = 100
"""An edge of a graph in the indexes of a training: once as built, once exchanged, and while these are made."""

GATHERED_HIDDEN = frozenset({"gcn", "gat"})
"""Networks that gather messages after the linear layer, so their width is that of the layer. Measured as above with 16
and 64 units and 32 to 1,536 features: 33 to 72 % of what they amount to."""

KEPT_MESSAGES = {"gat": 3.0}
"""Messages of an edge that each layer of a network keeps, in units of its width; others make them anew."""


class CohortGraph(msgspec.Struct):
    """Size of the graph of a slide."""

    nodes: int = 0
    edges: int = 0
    values: int = 0


class CohortPatches(msgspec.Struct):
    """The part of a training cohort that says how much is learned from."""

    slide_id: str = ""
    patient_id: str = ""
    patches: int = 0
    graph: CohortGraph | None = None
    readers: dict[str, list[str]] = {}

    @property
    def rows(self) -> int:
        """Rows in the index of patches: one for each reader."""
        return self.patches * max(1, len(self.readers))


def cohort_patches(path: Path | str) -> list[CohortPatches]:
    """Slides of a training cohort with their numbers of patches.

    Raises FileNotFoundError if the cohort is not written yet; Snakemake then asks again when it is.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=list[CohortPatches])
    except msgspec.MsgspecError:
        return []  # the job itself tells what is wrong with the cohort


def chosen_patches(cohort: Sequence[CohortPatches], choice: PatchChoice | None) -> list[CohortPatches]:
    """A cohort with as many patches of each slide as an encoder sees at most: all, unless patches are chosen."""
    if choice is None:
        return list(cohort)
    most = choice.most if choice.most is not None else sys.maxsize
    share = choice.budget if choice.budget is not None else 1.0
    return [msgspec.structs.replace(s, patches=min(s.patches, most, max(1, int(share * s.patches)))) for s in cohort]


def patches_mb(cohort: Sequence[CohortPatches]) -> float:
    """The index of all patches of a cohort."""
    return ROW_BYTES * sum(slide.rows for slide in cohort) / 1e6


def gradients_mb(pixels: float, precision: str) -> float:
    """A training step on ``pixels`` pixels, as far as they are not meant for the memory of a GPU."""
    return min(GRADIENT_BYTES[precision] * pixels / 1e6, MOST_BATCH_MB)


def loaders_mb(workers: int | None, batch_bytes: float) -> float:
    """Loader processes, and the batches that they keep ready."""
    count = LOADERS if workers is None else workers
    ready = max(2, min(READY, MOST_READY // count)) * count + HELD if count else 1
    return LOADER_MB * count + ready * batch_bytes / 1e6


def network_mb(weights_mb: float) -> float:
    """A network while it is trained; ``weights_mb``: size of the files that it starts from."""
    return max(NETWORK_MB, FILE_COPIES * weights_mb)


def patch_training_mb(task: Task, grid: Grid, cohort: Sequence[CohortPatches], *, weights_mb: float) -> float:
    """Training on patches."""
    train, pixels = task.train, batch_pixels(task.train.batch, grid.size)
    values = 3 * (1 + len(task.model.context)) + 2  # with the mask of a segmentation
    each = network_mb(weights_mb) + gradients_mb(pixels, train.precision) + loaders_mb(train.workers, pixels * values)
    return train.gpus * (each + patches_mb(cohort)) + (train.gpus - 1) * PROCESS_MB


def transfer_training_mb(transfer: StainTransfer, grid: Grid, cohort: Sequence[CohortPatches]) -> float:
    """Training of a stain transfer."""
    pixels, filters = batch_pixels(transfer.train.batch, grid.size), transfer.generator.filters
    step = min(TRANSFER_BYTES * filters / TRANSFER_FILTERS * pixels / 1e6, MOST_BATCH_MB)
    return TRANSFER_MB + step + loaders_mb(transfer.train.workers, 6 * pixels) + patches_mb(cohort)


def generator_training_mb(generator: Generator, cohort: Sequence[CohortPatches]) -> float:
    """Training of a generator, in the phase that needs most."""
    network, batches = generator.network, {size: batch_at(size, generator.train.batch) for size in generator.sizes}
    pixels = {size: batch_pixels(batch, PatchPixels(size)) for size, batch in batches.items()}
    step = max(pixels[s] * min(network.features / s, network.most) for s in pixels) * GENERATOR_BYTES / 1e6
    loaders = loaders_mb(generator.train.workers, 3 * max(pixels.values()))
    return GENERATOR_MB + min(step, MOST_BATCH_MB) + loaders + patches_mb(cohort)


def head_training_mb(task: Task, cohort: Sequence[CohortPatches]) -> float:
    """Training of a head on vectors."""
    patches = sum(slide.rows for slide in cohort)
    drawn = min(patches, max(task.probe.patches, SCALED_BY)) + min(patches, task.train.validate_patches)
    step = task.train.batch * (WIDEST + sum(task.probe.hidden)) * VALUE_BYTES * HEAD_COPIES
    return patches_mb(cohort) + (drawn * WIDEST * VALUE_BYTES * HEAD_COPIES + step) / 1e6


def bag_training_mb(task: Task, cohort: Sequence[CohortPatches], choice: PatchChoice | None = None) -> float:
    """Training on bags of vectors, and validation on whole bags. ``choice``: of the patches that have vectors."""
    with_vectors = chosen_patches(cohort, choice)
    patches = sum(slide.patches for slide in with_vectors)
    scaled = min(patches, SCALED_BY) * WIDEST * VALUE_BYTES * HEAD_COPIES
    drawn = task.train.batch * min(task.bag.size, largest_bag(task, with_vectors))
    read = drawn * WIDEST * VALUE_BYTES
    loaded = loaders_mb(1 if task.train.workers is None else task.train.workers, read)  # the rule has two threads
    # All patches are indexed before those with vectors are taken.
    return patches_mb(cohort) + loaded + (scaled + 3 * read) / 1e6 + pooling_mb(task, with_vectors)


def graph_training_mb(task: Task, cohort: Sequence[CohortPatches]) -> float:
    """Training on graphs: a step on the largest graphs of a batch, and the indexes of all."""
    graphs = _graphs(task, cohort)
    batch = sorted(graphs, key=lambda graph: graph.nodes + graph.edges)[-task.train.batch :]
    nodes, directed = (sum(of) for of in ([g.nodes for g in batch], [2 * g.edges for g in batch]))
    values, hidden = max((graph.values for graph in batch), default=0), task.gnn.hidden
    of_node = GRAPH_COPIES["inputs"] * values + GRAPH_COPIES["layers"] * hidden * task.gnn.layers
    kept = KEPT_MESSAGES[task.gnn.name] * task.gnn.layers if task.gnn.name in KEPT_MESSAGES else 0
    gathered = hidden if task.gnn.name in GATHERED_HIDDEN else max(values, hidden)
    of_edge = GRAPH_COPIES["gathered"] * gathered + max(GRAPH_COPIES["messages"], kept) * hidden
    if task.fuse is not None:
        of_node += ((task.pooling.embed or values) + sum(task.pooling.hidden) * task.pooling.heads) * POOLED_COPIES
    index = ROW_BYTES * sum(g.nodes for g in graphs) + EDGE_BYTES * sum(g.edges for g in graphs)
    return GRAPH_MB + (index + VALUE_BYTES * (nodes * of_node + directed * of_edge)) / 1e6


def graph_prediction_mb(graphs: Sequence[Path | str]) -> float:
    """Prediction of graphs one after the other, by the largest file.

    Raises FileNotFoundError if one is not made yet; Snakemake then asks again when it is.
    """
    return GRAPH_FILE_COPIES * max((Path(path).stat().st_size for path in graphs), default=0) / 1e6


def _graphs(task: Task, cohort: Sequence[CohortPatches]) -> list[CohortGraph]:
    """Graphs of slides, or of the slides of patients together."""
    found: dict[str, CohortGraph] = {}
    for slide in cohort:
        own, whole = slide.graph or CohortGraph(), found.setdefault(bag_of(task, slide), CohortGraph())
        whole.nodes, whole.edges = whole.nodes + own.nodes, whole.edges + own.edges
        whole.values = max(whole.values, own.values)
    return list(found.values())


def pooling_mb(task: Task, cohort: Sequence[CohortPatches]) -> float:
    """Pooling of the bags of a step, and of the largest bag as a whole."""
    largest = largest_bag(task, cohort)
    width = (task.pooling.embed or WIDEST) + sum(task.pooling.hidden) * task.pooling.heads
    trained = task.train.batch * min(task.bag.size, largest) * width * POOLED_COPIES
    whole = largest * width * POOLED_COPIES / 2 + min(largest, BAG_PART) * WIDEST * 3
    return VALUE_BYTES * (trained + whole) / 1e6


def largest_bag(task: Task, cohort: Sequence[CohortPatches]) -> int:
    """Patches of the largest bag: a slide, or all slides of a patient."""
    bags: dict[str, int] = {}
    for slide in cohort:
        name = bag_of(task, slide)
        bags[name] = bags.get(name, 0) + slide.patches
    return max(bags.values(), default=0)


def bag_of(task: Task, slide: CohortPatches) -> str:
    """Name of the bag of a slide."""
    return slide.slide_id if task.level == "slide" else slide.patient_id


def pixel_bag_training_mb(task: Task, grid: Grid, cohort: Sequence[CohortPatches], *, weights_mb: float) -> float:
    """Training on bags of pixels: a network that computes some patches at once, and its pooling."""
    views, drawn = 1 + len(task.model.context), task.train.batch * min(task.bag.size, largest_bag(task, cohort))
    edge = task.bag.crop or grid.size
    loaded = loaders_mb(task.train.workers, drawn * edge * edge * 3 * views)
    read = drawn * grid.size**2 * 3 * views / 1e6
    step = gradients_mb(min(task.bag.chunk, drawn) * edge * edge, task.train.precision)
    return network_mb(weights_mb) + loaded + read + step + patches_mb(cohort) + pooling_mb(task, cohort)


def embedding_mb(explain: Explain, grid: Grid) -> float:
    """Embedding of patches, without the network, which is among the inputs of the job."""
    vectors = explain.embed_patches * (WIDEST * VALUE_BYTES * 6 + EMBEDDED_BYTES) / 1e6
    return UMAP_MB + vectors + batch_mb(batch_pixels(READ_AT_ONCE, grid.size))


def attribution_mb(explain: Explain, grid: Grid, *, outputs: int, views: int, cohort: Sequence[CohortPatches]) -> float:
    """Attributions to pixels, without the network, which is among the inputs of the job.

    ``outputs``: outputs of the network; ``views``: images that it takes of a patch.
    """
    patches = explain.shap_patches + len(explain.shap_at) + SHAP_PER_REGION * len(explain.regions)
    image = grid.size**2 * 3 * views * VALUE_BYTES / 1e6
    held = (2 * (patches + explain.shap_background) + 2 * SAMPLES + 6 * patches * outputs) * image
    scored = batch_mb(batch_pixels(max(patches, explain.shap_background), grid.size))
    return held + scored + gradients_mb(batch_pixels(EXPLAINED_AT_ONCE, grid.size), "fp32") + patches_mb(cohort)


def level_training_mb(radhical: Radhical, *, slides: int) -> float:
    """Training of a level of a cascade on ``slides`` slides."""
    train = radhical.train
    pixels = train.batch * (32 + 8 * train.lattice) ** 2
    workers = 1 if train.workers is None else train.workers
    each = NETWORK_MB / 2 + gradients_mb(pixels, train.precision) + loaders_mb(workers, pixels * 4)
    return train.gpus * (each + POINTS_MB + LEVEL_MB * min(slides, LEVELS)) + (train.gpus - 1) * PROCESS_MB
