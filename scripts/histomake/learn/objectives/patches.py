"""The objective of tasks on patches: classes, several labels, numbers, or the classes of pixels."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from histomake.base.errors import HistomakeError, SlideError
from histomake.base.files import sha256_file
from histomake.base.layout import DESCRIPTION
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard, ModelGrid, Normalisation, slides_behind
from histomake.config import Task
from histomake.learn.data.batches import Batch, FixedBatches, TrainingBatches
from histomake.learn.data.drawing import draw_weights
from histomake.learn.data.drawn_patches import DrawnPatches, join_parts
from histomake.learn.data.images import standardise, to_unit
from histomake.learn.data.loader import load_batches
from histomake.learn.data.patch_index import PatchIndex, SlideEntry, output_sizes
from histomake.learn.data.reading import MaskReader, PatchReader
from histomake.learn.data.stains import COLOURS, fit_normaliser
from histomake.learn.engine import distributed
from histomake.learn.engine.checkpoint import State
from histomake.learn.engine.objective import Json, Objective, Optimisation, Result, Turn, Validation
from histomake.learn.engine.optim import build_optimiser, build_schedule
from histomake.learn.engine.runtime import Runtime, default_workers, seed_step
from histomake.learn.inference.validation import LOWER_IS_BETTER, PixelMeter, ScoreMeter
from histomake.learn.kinds import TRAINED
from histomake.learn.objectives.losses import Loss, build_loss
from histomake.model.build import build_model, normalisation
from histomake.model.transfer import (
    encoder_normalisation,
    freeze_stages,
    load_weights_file,
    parameter_groups,
    train_mode,
    transfer_encoder,
    weights_file,
)
from histomake.patch import augment
from histomake.patch.sampler import Sampler
from histomake.patch.stain import StainNormaliser
from histomake.target.kinds import LEARNED
from histomake.target.outputs import outputs_of

log = logging.getLogger(__name__)

SHORT_OF_MEMORY = (
    "with batches of {batch} patches: halve train.batch and double train.accumulate, which learns the same; or take "
    "smaller patches, or train.precision: bf16"
)
KNOWN_DIGITS = 20
"""Digits of a slide's sha256 that model.json stores: enough to recognise the slide."""
NETWORK = "network"


class PatchObjective(Objective[Batch]):
    """What one process learns from patches; the first process also validates.

    ``patches`` are drawn for training, ``held_out`` measured at each validation. ``state`` is the folder of the run's
    checkpoints, where drawn patches and stain colours are kept as well.
    """

    unit: ClassVar[str] = "patches"
    not_finite = "lower train.learning_rate or set train.clip: 1"

    def __init__(
        self,
        task: Task,
        *,
        patches: PatchIndex,
        held_out: PatchIndex,
        runtime: Runtime,
        state: Path,
        seed: int,
        threads: int,
    ) -> None:
        self.task, self.patches, self.held_out = task, patches, held_out
        self.outputs, self.learned = outputs_of(task.kind, task.target), LEARNED[task.kind]
        self.runtime, self.state_folder, self.seed = runtime, state, seed
        self.process = distributed.rank()
        self.workers = default_workers(task.train.workers, threads)
        self.out_of_memory = SHORT_OF_MEMORY.format(batch=task.train.batch)
        self.stain = self._fit_stain(threads)
        self.network = self._build_network()
        self.normalisation = self._normalisation()
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.network) if task.train.compile else self.network
        self.networks = {NETWORK: self.network}
        self.optimisers = {NETWORK: self._build_optimisation()}
        self.loss = task_loss(task, patches, device=runtime.device)
        self.drawn = DrawnPatches(state / "drawn", patches, worker=self.process) if task.train.audit else None
        self.read_errors = 0

    def _build_network(self) -> nn.Module:
        """The network, with what is transferred and frozen."""
        model = self.task.model
        seed_step(self.seed, worker=0, step=0)
        network = build_model(model, kind=self.task.kind, outputs=len(self.outputs), size=self.patches.size)
        if isinstance(model.pretrained, str):
            take = load_weights_file if model.transfer == "all" else transfer_encoder
            take(network, weights_file(model.pretrained))
        if model.frozen_stages:
            freeze_stages(network, model.frozen_stages)
        return network.to(self.runtime.device).to(memory_format=torch.channels_last)

    def _normalisation(self) -> Normalisation:
        """Normalisation of the weights that the network starts from, if their card states it, else of the network."""
        pretrained = self.task.model.pretrained
        known = encoder_normalisation(weights_file(pretrained)) if isinstance(pretrained, str) else None
        return known or normalisation(self.network)

    def _build_optimisation(self) -> Optimisation:
        train = self.task.train
        groups = parameter_groups(
            self.network,
            learning_rate=train.learning_rate,
            weight_decay=train.weight_decay,
            layer_decay=self.task.model.layer_decay,
        )
        optimiser = build_optimiser(train.optimizer, groups, learning_rate=train.learning_rate)
        return Optimisation(optimiser, build_schedule(train.schedule, optimiser, steps=train.steps))

    def _fit_stain(self, threads: int) -> StainNormaliser | None:
        """A normaliser that knows every slide of the run; its reference is a training slide."""
        method = self.task.model.stain
        if method == "none":
            return None
        train, fitted = self.patches.entries, None
        if self.process == 0:
            entries = [*train, *self.held_out.entries]
            fitted = fit_normaliser(method, entries, reference_from=train, memory=self.state_folder, threads=threads)
        stain = distributed.from_first(fitted)
        if stain is not None:
            stain.share()
        return stain

    def identity(self) -> Json:
        """See Objective: the task, the drawn patches with their targets, and the weights it starts from."""
        pretrained = self.task.model.pretrained
        arrays = (self.patches.slide, self.patches.x, self.patches.y, self.patches.target)
        return {
            "task": self.task.fitting(),
            "slides": [[entry.slide_id, entry.reader] for entry in self.patches.entries],
            "patches": [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays],
            "pretrained": sha256_file(weights_file(pretrained)) if isinstance(pretrained, str) else pretrained,
        }

    # --- batches ------------------------------------------------------------------------------------------------------

    def batches(self, numbers: range) -> AbstractContextManager[Iterator[Batch]]:
        """See Objective."""
        return load_batches(self.dataset(), numbers, workers=self.workers)

    def dataset(self) -> TrainingBatches:
        """The batches of this process, drawn as the task says."""
        reader = PatchReader(self.patches, self.task.model, stain=self.stain)
        sampler = Sampler.from_weights(draw_weights(self.patches, self.task), seed=self.seed)
        return TrainingBatches(reader, sampler, self.task, worker=self.process)

    def size(self, batch: Batch) -> int:
        """See Objective."""
        return len(batch.index)

    def naming(self, batch: Batch) -> Callable[[], str]:
        """See Objective."""
        return partial(self._name, batch.index, batch.x, batch.y)

    def _name(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> str:
        slides = [self.patches.entries[slide].slide_id for slide in self.patches.slide[index]]
        places = ", ".join(f"{slide} ({a}, {b})" for slide, a, b in zip(slides, x, y, strict=True))
        return f"slide (x, y) in level-0 pixels: {places}"

    # --- learning -----------------------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """See Objective: layers whose weights are all frozen stay in eval mode."""
        train_mode(self.network)

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        """See Objective."""
        if self.drawn is not None:
            self.drawn.add(batch)
        self._count_read_errors(batch)
        yield Turn(NETWORK, self.loss_of(batch, step))

    def loss_of(self, batch: Batch, step: int) -> Tensor:
        """The loss of a batch whose patches are changed at random."""
        device = self.runtime.device
        images, target = to_unit(batch.images, device), batch.target.to(device, non_blocking=True)
        masks = target.long() if self.learned.per_pixel else None
        if batch.parameters is not None:
            images, masks = augment.apply(images, batch.parameters.to(device), masks)
        with self.runtime.autocast():
            logits = self.forward(standardise(images, self.normalisation))
            return self.loss(logits, target if masks is None else masks)

    def _count_read_errors(self, batch: Batch) -> None:
        self.read_errors += len(batch.read_errors)
        for message in batch.read_errors:
            log.warning("read error %d: %s", self.read_errors, message)
        if self.read_errors > self.task.train.max_read_errors:
            met = f"{self.read_errors} patches could not be read (train.max_read_errors: "
            met += f"{self.task.train.max_read_errors}); the last"
            last = batch.read_errors[-1]
            raise last.at(met) if isinstance(last, SlideError) else HistomakeError(f"{met}: {last}")

    def counters(self) -> Mapping[str, float]:
        """See Objective."""
        return {"read_errors": self.read_errors}

    # --- validation ---------------------------------------------------------------------------------------------------

    def validate(self, step: int) -> Validation:
        """See Objective."""
        meter = self._measure()
        on_cpu = task_loss(self.task, self.patches, device=torch.device("cpu"))
        figures, select = meter.figures(on_cpu), self.task.train.select
        if np.isnan(figures[select]):
            slides = sorted({self.held_out.entries[slide].slide_id for slide in self.held_out.slide})
            raise HistomakeError(
                f"train.select: {select} is not defined on the validation patches (slides {', '.join(slides)}: "
                "only one class?); choose another figure, or stratify the split"
            )
        score = -figures[select] if select in LOWER_IS_BETTER else figures[select]
        thresholds = meter.thresholds(self.held_out.slide, self.held_out.tissue)
        return Validation(figures, score, thresholds._asdict())

    def _measure(self) -> ScoreMeter | PixelMeter:
        task = self.task
        masks = MaskReader(self.held_out, task.target) if self.learned.per_pixel else None
        reader = PatchReader(self.held_out, task.model, stain=self.stain)
        dataset = FixedBatches(reader, batch=2 * task.train.batch, masks=masks)
        meter = TRAINED[task.kind].meter(len(self.outputs), self.loss)
        with load_batches(dataset, range(len(dataset)), workers=self.workers) as batches:
            for batch in batches:
                if batch.read_errors:
                    raise batch.read_errors[0]
                images = to_unit(batch.images, self.runtime.device)
                with self.runtime.autocast():
                    logits = self.network(standardise(images, self.normalisation))
                meter.update(logits, batch.target)
        return meter

    # --- state and result ---------------------------------------------------------------------------------------------

    def state(self) -> State:
        """See Objective."""
        if self.drawn is not None:
            self.drawn.flush()
        return {"read_errors": self.read_errors}

    def resume(self, step: int, state: State | None) -> None:
        """See Objective."""
        self.read_errors = int(str(state["read_errors"])) if state else 0
        if self.drawn is not None:
            self.drawn.forget_from(step * self.task.train.accumulate)

    def write_files(self, output: Path, details: Path) -> None:
        """See Objective."""
        if self.drawn is not None:
            join_parts(self.drawn.folder, details)
        if self.stain is not None:
            shutil.copyfile(self.state_folder / COLOURS, details / COLOURS)

    def describe(self, result: Result) -> ModelCard:
        """See Objective."""
        task, patches = self.task, self.patches
        finite = {name: value if np.isfinite(value) else None for name, value in result.figures.items()}
        entries = [*patches.entries, *self.held_out.entries]
        thresholds: dict[str, Any] = dict(result.kept)
        return ModelCard(
            kind=task.kind,
            class_names=self.outputs,
            architecture=task.model.dump(),
            target=task.target.dump(),
            grid=ModelGrid(name=task.grid, size=patches.size, mpp=patches.mpp),
            normalisation=self.normalisation,
            stain=self.stain.reference if self.stain else None,
            **thresholds,
            metrics=finite,
            step=result.step,
            seed=self.seed,
            made_with=made_with(entries, task.model.pretrained),
            parameters=sum(p.numel() for p in self.network.parameters()),
        )


def task_loss(task: Task, patches: PatchIndex, *, device: torch.device) -> Loss:
    """The loss of a task; for weighted_ce with the inverse size of each class among the patches, mean 1."""
    name = TRAINED[task.kind].loss if task.train.loss == "auto" else task.train.loss
    if name != "weighted_ce":
        return build_loss(name)
    sizes = output_sizes(patches, outputs_of(task.kind, task.target), kind=task.kind)
    weights = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    return build_loss(name, class_weights=torch.tensor(weights / weights.mean(), dtype=torch.float32, device=device))


def made_with(entries: Iterable[SlideEntry], pretrained: bool | str) -> list[str]:
    """Digests of the slides that a model, or the model it started from, was made with: none of them may test it."""
    manifests = (Manifest.read(entry.manifest) for entry in entries)
    seen = {manifest.sha256[:KNOWN_DIGITS] for manifest in manifests if isinstance(manifest, Manifest)}
    earlier = weights_file(pretrained).with_name(DESCRIPTION) if isinstance(pretrained, str) else None
    if earlier and earlier.is_file():
        seen.update(slides_behind(earlier))
    return sorted(seen)
