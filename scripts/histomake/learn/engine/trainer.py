"""Owns one training run: its network, optimiser, steps, validations, and the state from which it can go on.

What a step computes depends on (seed, step) and the weights alone, so a run resumed from any checkpoint ends with
the same weights as one that was never interrupted (bit for bit on a CPU with the same number of threads).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.kinds import Kind
from histomake.config import Task
from histomake.learn.data.batches import Batch, FixedBatches, TrainingBatches
from histomake.learn.data.drawn_patches import DrawnPatches
from histomake.learn.data.loader import load_batches
from histomake.learn.data.patch_index import PatchIndex, output_sizes, patches_containing
from histomake.learn.data.reading import MaskReader, PatchReader
from histomake.learn.data.stains import fit_normaliser
from histomake.learn.engine import distributed
from histomake.learn.engine.checkpoint import load_state, save_state
from histomake.learn.engine.losses import build_loss
from histomake.learn.engine.optim import build_optimiser, build_schedule
from histomake.learn.engine.runtime import (
    Interrupts,
    PreemptedError,
    advise_on_memory,
    choose_runtime,
    default_workers,
    seed_step,
    standardise,
    to_unit,
)
from histomake.learn.inference.validation import PixelMeter, ScoreMeter, is_better
from histomake.model.build import build_model, normalisation
from histomake.model.transfer import (
    freeze_stages,
    load_weights,
    parameter_groups,
    read_weights,
    train_mode,
    transfer_encoder,
    weights_file,
)
from histomake.patch import augment
from histomake.patch.sampler import Sampler, balance_weights, mix_containing
from histomake.patch.stain import StainNormaliser
from histomake.target.outputs import outputs_of
from histomake.target.targets import balance_group

log = logging.getLogger(__name__)

LOG_EVERY = 20

SHORT_OF_MEMORY = (
    "with batches of {batch} patches: halve train.batch and double train.accumulate, which learns the same; or take "
    "smaller patches, or train.precision: bf16"
)
AUTO_LOSS = {
    Kind.CLASSIFICATION: "ce",
    Kind.MULTI_LABEL: "bce",
    Kind.SEGMENTATION: "dice_ce",
    Kind.REGRESSION: "huber",
}


class Trainer:
    """One training process of one run; ``worker`` 0 also validates, saves and exports."""

    def __init__(
        self, task: Task, *, patches: PatchIndex, held_out: PatchIndex, state: Path, seed: int, threads: int
    ) -> None:
        self.task, self.patches, self.held_out = task, patches, held_out
        self.outputs = outputs_of(task.kind, task.target)
        self.state, self.seed = state, seed
        self.worker, self.processes = distributed.rank(), distributed.size()
        self.runtime = choose_runtime(task.train.precision, threads=threads, index=distributed.local_rank())
        self.workers = default_workers(task.train, threads)
        self.stain = self._fit_stain(threads)
        self._build_network()
        self.optimiser = build_optimiser(task.train, self._groups())
        self.schedule = build_schedule(task.train, self.optimiser)
        self.scaler = torch.amp.GradScaler(self.runtime.device.type, enabled=self.runtime.scaled)
        self.loss = build_loss(self._loss_name(), class_weights=self._class_weights())
        self.drawn = DrawnPatches(state / "drawn", patches, worker=self.worker) if task.train.audit else None
        self.step = 0
        self.read_errors = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.running = Running()

    def _build_network(self) -> None:
        """The network, with what is transferred and frozen; ``forward`` is what a step calls."""
        model = self.task.model
        seed_step(self.seed, worker=0, step=0)
        network = build_model(model, kind=self.task.kind, outputs=len(self.outputs), size=self.patches.size)
        self.normalisation = normalisation(network)
        if isinstance(model.pretrained, str):
            origin = weights_file(model.pretrained)
            take = load_weights if model.transfer == "all" else transfer_encoder
            take(network, read_weights(origin), origin=origin)
        if model.frozen_stages:
            freeze_stages(network, model.frozen_stages)
        self.network = network.to(self.runtime.device, memory_format=torch.channels_last)
        self.forward: Any = torch.compile(self.network) if self.task.train.compile else self.network
        if self.processes > 1:
            devices = [self.runtime.device.index] if self.runtime.device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.forward, device_ids=devices)

    def _groups(self) -> list[dict[str, Any]]:
        train = self.task.train
        return parameter_groups(
            self.network,
            learning_rate=train.learning_rate,
            weight_decay=train.weight_decay,
            layer_decay=self.task.model.layer_decay,
        )

    def _fit_stain(self, threads: int) -> StainNormaliser | None:
        """A normaliser that knows every slide of the run; its reference is a training slide."""
        if self.task.model.stain == "none":
            return None
        slides = {"train": self.patches.entries, "val": self.held_out.entries}
        fitted = None
        if self.worker == 0:
            entries = [*slides["train"], *slides["val"]]
            options = {"reference_from": slides["train"], "memory": self.state, "threads": threads}
            fitted = fit_normaliser(self.task.model.stain, entries, **options)
        stain = distributed.from_first(fitted)
        stain.share()
        return stain

    def _loss_name(self) -> str:
        return AUTO_LOSS[self.task.kind] if self.task.train.loss == "auto" else self.task.train.loss

    def _class_weights(self) -> Tensor | None:
        """Inverse size of each class among the training patches, or of its area in them, mean 1, for weighted_ce."""
        if self._loss_name() != "weighted_ce":
            return None
        sizes = output_sizes(self.patches, self.outputs, kind=self.task.kind)
        weights = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        return torch.tensor(weights / weights.mean(), dtype=torch.float32, device=self.runtime.device)

    @property
    def identity(self) -> str:
        """Digest of all that decides the final weights: a state with another identity is not continued."""
        pretrained = self.task.model.pretrained
        arrays = (self.patches.slide, self.patches.x, self.patches.y, self.patches.target)
        content = {
            "task": self.task.fitting(),
            "seed": self.seed,
            "slides": [entry.slide_id for entry in self.patches.entries],
            "patches": [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays],
            "pretrained": sha256_file(weights_file(pretrained)) if isinstance(pretrained, str) else pretrained,
            "processes": self.processes,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def resume(self) -> None:
        """Go on from the saved state, if there is one of this very run."""
        saved = load_state(self.state)
        if saved is not None and saved["identity"] != self.identity:
            log.warning("%s holds the state of another configuration: training starts from step 0", self.state)
            saved = None
        if saved is not None:
            self._restore(saved)
            log.info("resumed at step %d of %d from %s", self.step, self.task.train.steps, self.state)
        if self.drawn is not None:
            self.drawn.forget_from(self.step)

    def _restore(self, saved: dict[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self._restore_memory_format()
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        self.step, self.read_errors = saved["step"], saved["read_errors"]
        self.history, self.best = saved["history"], saved["best"]
        self.running = Running(**saved["running"])

    def _restore_memory_format(self) -> None:
        """Loading leaves the moments contiguous; give each the strides of its weight, as before the checkpoint."""
        for parameter, moments in self.optimiser.state.items():
            for key, value in moments.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
                    moments[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def save(self) -> None:
        """Write the state from which ``resume`` goes on."""
        self.check_losses()
        if self.drawn is not None:
            self.drawn.flush()
        if self.worker:
            return
        state = {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "read_errors": self.read_errors,
            "history": self.history,
            "best": self.best,
            "running": self.running.as_dict(),
        }
        save_state(self.state, state)
        log.info("state saved at step %d", self.step)

    def run(self, interrupts: Interrupts) -> Iterator[dict[str, Any]]:
        """Train to the last step or until nothing gets better; yield the history's new row at each validation.

        Raises PreemptedError when told to stop, once the state is saved.
        """
        train = self.task.train
        steps = range(self.step * train.accumulate, train.steps * train.accumulate)
        with load_batches(self.dataset(), steps, workers=self.workers) as batches:
            yield from self._run(batches, interrupts)

    def _run(self, batches: Iterator[Batch], interrupts: Interrupts) -> Iterator[dict[str, Any]]:
        train, saved_at = self.task.train, time.monotonic()
        while self.step < train.steps and not self.has_settled():
            started = time.monotonic()
            with advise_on_memory(SHORT_OF_MEMORY.format(batch=train.batch)):
                self.train_step(batches)
            self.running.seconds += time.monotonic() - started
            if self.step % train.validate_every == 0 or self.step == train.steps:
                yield self.validate()
            due = time.monotonic() - saved_at > 60 * train.checkpoint_minutes
            save, stop = distributed.any_of(interrupts.save or due, interrupts.stop)
            if save:
                self.save()
                interrupts.save, saved_at = False, time.monotonic()
            if stop:
                raise PreemptedError(f"told to stop at step {self.step}; the state is in {self.state}: run it again")

    def has_settled(self) -> bool:
        """Whether the last ``patience`` validations brought nothing better."""
        patience = self.task.train.patience
        if patience is None or self.best is None:
            return False
        since = [row["step"] for row in self.history if row["step"] > self.best["step"]]
        return len(since) >= patience

    def dataset(self) -> TrainingBatches:
        """The batches of this process, drawn as the task says."""
        train, outputs = self.task.train, self.outputs
        balance = train.balance
        if balance == "auto":
            balance = "slide" if self.task.kind == "regression" else "class"
        classes = balance_group(self.patches.target) if self.task.kind != "regression" else self.patches.slide
        shares = {[*outputs, "none"].index(name): share for name, share in train.shares.items()}
        weights = balance_weights(slide=self.patches.slide, group=classes, balance=balance, shares=shares)
        for name, factor in train.factors.items():
            weights = np.where(classes == [*outputs, "none"].index(name), factor * weights, weights)
        weights = mix_containing(
            weights / weights.sum(), [self._containing(*item) for item in train.containing.items()]
        )
        reader = PatchReader(self.patches, self.task.model, stain=self.stain)
        return TrainingBatches(reader, Sampler.from_weights(weights, seed=self.seed), self.task, worker=self.worker)

    def _containing(self, name: str, share: float) -> tuple[np.ndarray, float]:
        contains = patches_containing(self.patches, name)
        if not contains.any():
            slides = ", ".join(entry.slide_id for entry in self.patches.entries)
            raise HistomakeError(f"train.containing: no training patch contains {name} (slides: {slides})")
        return contains, share

    def train_step(self, batches: Iterator[Batch]) -> None:
        """One optimiser step, over ``accumulate`` batches."""
        train = self.task.train
        seed_step(self.seed, worker=self.worker, step=self.step)
        train_mode(self.network)
        for part in range(train.accumulate):
            batch = self._next(batches)
            last = part == train.accumulate - 1
            with nullcontext() if last or self.processes == 1 else self.forward.no_sync():
                loss = self._loss_of(batch)
                self.scaler.scale(loss / train.accumulate).backward()
            self.running.add(loss.detach(), self.step, batch)
        if train.clip is not None:
            self.scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), train.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.schedule.step()
        self.step += 1
        if self.step % LOG_EVERY == 0:
            self.check_losses()
            log.info("step %d of %d: %s", self.step, train.steps, self._progress())

    def _progress(self) -> str:
        """How it goes since the last validation, and how long it may take yet."""
        running, train = self.running, self.task.train
        seconds = running.seconds / max(running.count - train.accumulate, 1)
        left = (train.steps - self.step) * train.accumulate * seconds / 60
        speed = train.batch * self.processes / seconds if seconds else 0.0
        wait = 100 * running.waited / max(running.seconds, 1e-9)
        return (
            f"loss {running.mean_loss:.4f}, {speed:.0f} patches/s, {wait:.0f} % waiting for data, {left:.0f} min left"
        )

    def _next(self, batches: Iterator[Batch]) -> Batch:
        started = time.monotonic()
        batch = next(batches)
        self.running.waited += time.monotonic() - started
        if self.drawn is not None:
            self.drawn.add(batch)
        self._count_read_errors(batch)
        return batch

    def _loss_of(self, batch: Batch) -> Tensor:
        device = self.runtime.device
        images, target = self._pixels(batch.images), batch.target.to(device, non_blocking=True)
        masks = target.long() if self.task.kind == "segmentation" else None
        images, masks = augment.apply(images, batch.parameters.to(device), masks)
        with self.runtime.autocast():
            logits = self.forward(standardise(images, self.normalisation))
            return self.loss(logits, target if masks is None else masks)

    def _pixels(self, images: Tensor) -> Tensor:
        return to_unit(images, self.runtime.device)

    def check_losses(self) -> None:
        """Stop at the first loss that is no number, naming the step and what was in the batch."""
        found = self.running.settle()
        if found is not None:
            step, index, x, y = found
            slides = [self.patches.entries[s].slide_id for s in self.patches.slide[index]]
            places = ", ".join(f"{slide} ({a}, {b})" for slide, a, b in zip(slides, x, y, strict=True))
            raise HistomakeError(
                f"the loss is not a number at step {step}; lower train.learning_rate or set train.clip: 1. "
                f"The batch, as slide (x, y) in level-0 pixels: {places}"
            )

    def _count_read_errors(self, batch: Batch) -> None:
        self.read_errors += len(batch.read_errors)
        for message in batch.read_errors:
            log.warning("read error %d: %s", self.read_errors, message)
        if self.read_errors > self.task.train.max_read_errors:
            raise HistomakeError(
                f"{self.read_errors} patches could not be read (train.max_read_errors: "
                f"{self.task.train.max_read_errors}); the last: {batch.read_errors[-1]}"
            )

    def validate(self) -> dict[str, Any]:
        """Measure on the held-out patches, keep the weights if they are the best so far; the history's new row."""
        self.check_losses()
        if self.worker == 0:
            meter = self._measure()
            self._record(meter)
        self.history, best_step = distributed.from_first((self.history, self.best and self.best["step"]))
        if self.worker and best_step is not None:
            self.best = {"step": best_step}
        self.running = Running()
        return self.history[-1]

    @torch.inference_mode()
    def _measure(self) -> ScoreMeter | PixelMeter:
        task = self.task
        self.network.eval()
        segmentation = task.kind == "segmentation"
        masks = MaskReader(self.held_out, task.target) if segmentation else None
        reader = PatchReader(self.held_out, task.model, stain=self.stain)
        dataset = FixedBatches(reader, batch=2 * task.train.batch, masks=masks)
        meter = PixelMeter(len(self.outputs), self.loss) if segmentation else ScoreMeter(task.kind)
        with load_batches(dataset, range(len(dataset)), workers=self.workers) as batches:
            for batch in batches:
                if batch.read_errors:
                    raise HistomakeError(f"a validation patch could not be read: {batch.read_errors[0]}")
                with self.runtime.autocast():
                    logits = self.network(standardise(self._pixels(batch.images), self.normalisation))
                meter.update(logits, batch.target)
        return meter

    def _record(self, meter: ScoreMeter | PixelMeter) -> None:
        select = self.task.train.select
        measured = meter.figures(build_loss(self._loss_name(), class_weights=_on_cpu(self._class_weights())))
        if np.isnan(measured[select]):
            slides = sorted({self.held_out.entries[slide].slide_id for slide in self.held_out.slide})
            raise HistomakeError(
                f"train.select: {select} is not defined on the validation patches (slides {', '.join(slides)}: "
                "only one class?); choose another figure, or stratify the split"
            )
        row = {
            "step": self.step,
            "train_loss": self.running.mean_loss,
            "learning_rate": self.schedule.get_last_lr()[-1],
            "seconds": round(self.running.seconds, 3),
            "data_wait": round(self.running.waited / max(self.running.seconds, 1e-9), 4),
            "read_errors": self.read_errors,
            **{f"val_{name}": value for name, value in measured.items()},
        }
        self.history.append(row)
        log.info("validation at step %d: %s", self.step, {k: round(v, 4) for k, v in measured.items()})
        if is_better(select, measured[select], self.best and self.best["metrics"][select]):
            self.best = {
                "step": self.step,
                "metrics": measured,
                "weights": {key: value.detach().cpu().clone() for key, value in self.network.state_dict().items()},
                **meter.thresholds(self.held_out.slide, self.held_out.tissue),
            }


class Running:
    """Sums since the last validation. Losses stay on the device until someone asks, so a step never waits for them."""

    def __init__(self, loss: float = 0.0, count: int = 0, seconds: float = 0.0, waited: float = 0.0) -> None:
        self.loss, self.count, self.seconds, self.waited = loss, count, seconds, waited
        self._pending: list[tuple[Tensor, int, Batch]] = []

    def add(self, loss: Tensor, step: int, batch: Batch) -> None:
        """Note the loss of one batch."""
        self._pending.append((loss, step, batch))

    def settle(self) -> tuple[int, np.ndarray, np.ndarray, np.ndarray] | None:
        """Add up what was noted; returns step, index, x and y of the first batch whose loss is no number."""
        pending, self._pending = self._pending, []
        if not pending:
            return None
        losses = torch.stack([loss.float() for loss, _, _ in pending]).cpu()
        self.loss += float(losses.double().sum())
        self.count += len(pending)
        bad = torch.nonzero(~torch.isfinite(losses))
        if not len(bad):
            return None
        _, step, batch = pending[int(bad[0, 0])]
        return step, batch.index, batch.x, batch.y

    def as_dict(self) -> dict[str, float]:
        """The settled sums, for a checkpoint."""
        return {"loss": self.loss, "count": self.count, "seconds": self.seconds, "waited": self.waited}

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.count, 1)


def _on_cpu(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights.cpu()
