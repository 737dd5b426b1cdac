"""Training of a task on graphs: from the graphs of a cohort to the files of a model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from histomake.bags.training import known_bags, require_learnable
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined
from histomake.config import Task
from histomake.graphs.ablation import ABLATIONS
from histomake.graphs.index import GraphIndex, index_graphs
from histomake.graphs.objective import GraphObjective
from histomake.graphs.store import read_graph
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from histomake.learn.engine.run import run
from histomake.learn.engine.runtime import choose_runtime
from histomake.learn.train import name_left_out, require_slides, settings_of
from histomake.model.transfer import read_weights

log = logging.getLogger(__name__)

LAYERS = "layers."
"""Beginning of the names of the weights that an ablation has of its own."""


def train_graphs(
    task: Task,
    *,
    train: Sequence[SlideEntry],
    val: Sequence[SlideEntry],
    files: Mapping[str, Path],
    output: Path,
    state: Path,
    seed: int,
    threads: int,
) -> ModelCard:
    """Train the model of a task on graphs; fill ``output`` with model.safetensors, model.json, history.csv, training/.

    Networks for the same nodes without edges, and with edges between random nodes, are trained before it, with the
    same settings and draws, and are kept in the same file of weights.

    Args:
        task: The task, of level slide or patient, with a graph.
        train: Slides to learn from.
        val: Slides to choose with.
        files: Graph of each slide, by id.
        output: Folder of the model.
        state: Folder of the checkpoints.
        seed: Seed of all draws.
        threads: Number of CPU threads.

    A slide whose damage was met when its nodes were computed is left out, and named in the card. Raises HistomakeError
    for data from which no model can be learned.
    """
    left_out = lost_slides([*train, *val], files)
    lost = {entry.slide_id for entry in left_out}
    train, val = ([entry for entry in entries if entry.slide_id not in lost] for entries in (train, val))
    require_slides(train, val)
    bags, held_out = (_graphs(task, entries, files) for entries in (train, val))
    bags.nodes.require_same(held_out.nodes)
    require_learnable(task, bags, held_out)
    runtime = choose_runtime(task.train.precision, threads=threads)

    def learn(
        bags: GraphIndex, held_out: GraphIndex, ablations: Mapping[str, Mapping[str, Tensor]], state: Path, output: Path
    ) -> None:
        objective = GraphObjective(task, bags=bags, held_out=held_out, runtime=runtime, seed=seed, ablations=ablations)
        run(objective, settings_of(task, seed=seed), runtime=runtime, state=state, output=output)

    ablations: dict[str, dict[str, Tensor]] = {}
    for name, changed in ABLATIONS.items():
        finished = state / name / "model"
        if not (finished / DESCRIPTION).is_file():
            log.info("ablation %s", name)
            learn(changed(bags, seed=seed), changed(held_out, seed=seed), {}, state / name, finished)
        weights = read_weights(finished / WEIGHTS)
        ablations[name] = {key.removeprefix(LAYERS): value for key, value in weights.items() if key.startswith(LAYERS)}
    learn(bags, held_out, ablations, state, output)
    for name in ABLATIONS:
        shutil.rmtree(state / name)
    return name_left_out(output, left_out)


def lost_slides(entries: Sequence[SlideEntry], files: Mapping[str, Path]) -> list[Quarantined]:
    """The quarantine entries of slides that have patches and no graph."""
    found = []
    for entry in entries:
        record = read_graph(files[entry.slide_id]).record
        if isinstance(record, Quarantined) and usable_patches(entry)[0].num_rows:
            log.warning("slide %s is left out of the training: %s", record.slide_id, record.detail)
            found.append(record)
    return found


def _graphs(task: Task, entries: Sequence[SlideEntry], files: Mapping[str, Path]) -> GraphIndex:
    found = known_bags(task, index_graphs(entries, files, kind=task.kind, target=task.target, level=task.level))
    assert isinstance(found, GraphIndex)
    return found
