"""Owns the training loop: draw, step, validate, keep the best, and survive being killed at any moment.

What a step computes depends on (seed, step) and the weights alone, so a run resumed from any checkpoint ends with
the same weights as one that was never interrupted (bit for bit on a CPU with the same number of threads).
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from histomake.config import Task
from histomake.errors import HistomakeError
from histomake.files import atomic_file, write_json
from histomake.learn.checkpoint import load_state, remove_state, save_state
from histomake.learn.data import (
    Batch,
    FixedBatches,
    PatchIndex,
    PatchReader,
    SlideEntry,
    TrainingBatches,
    index_patches,
    load_batches,
)
from histomake.learn.losses import build_loss
from histomake.learn.runtime import (
    Interrupts,
    PreemptedError,
    catch_interrupts,
    choose_runtime,
    default_workers,
    seed_step,
)
from histomake.learn.score import choose_thresholds, classification_scores
from histomake.learn.target import UNLABELLED
from histomake.model.build import build_model, normalisation
from histomake.patch import augment
from histomake.patch.sampler import Sampler, balance_weights, choose

log = logging.getLogger(__name__)

LOG_EVERY = 20


def train(
    task: Task,
    *,
    train: Sequence[SlideEntry],
    val: Sequence[SlideEntry],
    class_names: Sequence[str],
    output: Path,
    state: Path,
    seed: int,
    threads: int,
) -> dict[str, Any]:
    """Train one model; fill ``output`` with model.safetensors, model.json and history.csv; return model.json.

    ``class_names`` are the annotation classes of the project. ``state`` is a folder that outlives the job: a run
    that finds its own state there goes on from it. Raises PreemptedError after SIGTERM, once the state is saved, and
    HistomakeError for data a model cannot be learned from.
    """
    patches, held_out = index_patches(train, task), index_patches(val, task)
    patches = labelled(patches)
    held_out = labelled(held_out)
    held_out = held_out.take(choose(task.train.validate_patches, len(held_out), seed=seed))
    check_classes(patches, held_out, task)
    trainer = Trainer(task, patches=patches, held_out=held_out, state=state, seed=seed, threads=threads)
    trainer.resume()
    with catch_interrupts() as interrupts:
        trainer.run(interrupts)
    result = trainer.export(output)
    remove_state(state)
    return result


def labelled(patches: PatchIndex) -> PatchIndex:
    """The patches that have a class."""
    return patches.take(patches.target != UNLABELLED)


def check_classes(patches: PatchIndex, held_out: PatchIndex, task: Task) -> None:
    """Stop when a class is missing from the training slides; warn when it is missing from validation."""
    for role, index in (("training", patches), ("validation", held_out)):
        counts = np.bincount(index.target, minlength=len(task.target.classes))
        log.info("%s patches: %s", role, dict(zip(task.target.classes, counts.tolist(), strict=True)))
        missing = [name for name, count in zip(task.target.classes, counts, strict=True) if not count]
        if not missing:
            continue
        slides = ", ".join(entry.slide_id for entry in index.entries)
        message = f"no {role} patch has class {', '.join(missing)} (slides: {slides})"
        if role == "training" or not len(index):
            raise HistomakeError(f"{message}; stratify the split by it, or use fewer folds")
        log.warning(message)


class Trainer:
    """One training run: network, optimiser, what was best so far, and the steps done."""

    def __init__(
        self, task: Task, *, patches: PatchIndex, held_out: PatchIndex, state: Path, seed: int, threads: int
    ) -> None:
        self.task, self.patches, self.held_out = task, patches, held_out
        self.state, self.seed = state, seed
        self.runtime = choose_runtime(task.train.precision, threads=threads)
        self.workers = default_workers(task.train, threads)
        seed_step(seed, worker=0, step=0)
        network = build_model(task.model, outputs=len(task.target.classes), size=patches.size)
        self.normalisation = normalisation(network)
        self.network = network.to(self.runtime.device, memory_format=torch.channels_last)
        self.loss = build_loss("ce")
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=task.train.learning_rate, weight_decay=task.train.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, max_lr=task.train.learning_rate, total_steps=task.train.steps
        )
        self.scaler = torch.amp.GradScaler(self.runtime.device.type, enabled=self.runtime.scaled)
        self.step = 0
        self.read_errors = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.running = _Running()

    @property
    def identity(self) -> str:
        """Digest of all that decides the final weights: a state with another identity is not continued."""
        content = {
            "task": self.task.fitting(),
            "seed": self.seed,
            "slides": [entry.slide_id for entry in self.patches.entries],
            "patches": hashlib.sha256(self.patches.x.tobytes() + self.patches.y.tobytes()).hexdigest(),
            "target": hashlib.sha256(self.patches.target.tobytes()).hexdigest(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def resume(self) -> None:
        """Go on from the saved state, if there is one of this very run."""
        saved = load_state(self.state)
        if saved is None:
            return
        if saved["identity"] != self.identity:
            log.warning("%s holds the state of another configuration: training starts from step 0", self.state)
            return
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self._restore_memory_format()
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        self.step, self.read_errors = saved["step"], saved["read_errors"]
        self.history, self.best = saved["history"], saved["best"]
        self.running = _Running(**saved["running"])
        log.info("resumed at step %d of %d from %s", self.step, self.task.train.steps, self.state)

    def _restore_memory_format(self) -> None:
        """Loading leaves the moments contiguous; give each the strides of its weight, as before the checkpoint."""
        for parameter, moments in self.optimiser.state.items():
            for key, value in moments.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
                    moments[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def save(self) -> None:
        """Write the state from which ``resume`` goes on."""
        save_state(
            self.state,
            {
                "identity": self.identity,
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "read_errors": self.read_errors,
                "history": self.history,
                "best": self.best,
                "running": vars(self.running),
            },
        )
        log.info("state saved at step %d", self.step)

    def run(self, interrupts: Interrupts) -> None:
        """Train to the last step; leave with PreemptedError when told to stop."""
        settings = self.task.train
        batches = load_batches(self._dataset(), range(self.step, settings.steps), workers=self.workers)
        saved_at = time.monotonic()
        while self.step < settings.steps:
            started = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - started
            self.train_step(batch)
            self.running.seconds += time.monotonic() - started
            self.running.waited += waited
            if self.step % settings.validate_every == 0 or self.step == settings.steps:
                self.validate()
            if interrupts.save or time.monotonic() - saved_at > 60 * settings.checkpoint_minutes:
                self.save()
                interrupts.save, saved_at = False, time.monotonic()
            if interrupts.stop:
                raise PreemptedError(
                    f"told to stop at step {self.step}; the state is in {self.state}: run again to go on"
                )

    def _dataset(self) -> TrainingBatches:
        settings = self.task.train
        weights = balance_weights(slide=self.patches.slide, group=self.patches.target, balance=settings.balance)
        sampler = Sampler.from_weights(weights, seed=self.seed)
        reader = PatchReader(self.patches)
        return TrainingBatches(reader, sampler, self.task, worker=0, max_read_errors=settings.max_read_errors)

    def train_step(self, batch: Batch) -> None:
        """One optimiser step on one batch."""
        self._count_read_errors(batch)
        seed_step(self.seed, worker=0, step=self.step)
        self.network.train()
        images = self._pixels(batch.images)
        images, _ = augment.apply(images, batch.parameters)
        with self.runtime.autocast():
            loss = self.loss(self.network(self._normalise(images)), batch.target.to(images.device))
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        self.step += 1
        self.running.add(loss)
        if self.step % LOG_EVERY == 0:
            log.info("step %d of %d: loss %.4f", self.step, self.task.train.steps, self.running.mean_loss)

    def _pixels(self, images: Tensor) -> Tensor:
        """uint8 (n, h, w, 3) → float (n, 3, h, w) in [0, 1] on the device, channels last without a copy."""
        return images.to(self.runtime.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)

    def _normalise(self, images: Tensor) -> Tensor:
        return standardise(images, self.normalisation)

    def _count_read_errors(self, batch: Batch) -> None:
        self.read_errors += len(batch.read_errors)
        for message in batch.read_errors:
            log.warning("read error %d: %s", self.read_errors, message)
        if self.read_errors > self.task.train.max_read_errors:
            raise HistomakeError(
                f"{self.read_errors} patches could not be read (train.max_read_errors: "
                f"{self.task.train.max_read_errors}); the last: {batch.read_errors[-1]}"
            )

    @torch.inference_mode()
    def validate(self) -> None:
        """Measure on the held-out patches and keep the weights if they are the best so far."""
        self.network.eval()
        dataset = FixedBatches(PatchReader(self.held_out), batch=2 * self.task.train.batch)
        logits, target = [], []
        for batch in load_batches(dataset, range(len(dataset)), workers=self.workers):
            if batch.read_errors:
                raise HistomakeError(f"a validation patch could not be read: {batch.read_errors[0]}")
            with self.runtime.autocast():
                logits.append(self.network(self._normalise(self._pixels(batch.images))).float().cpu())
            target.append(batch.target)
        self._record(torch.cat(logits), torch.cat(target))

    def _record(self, logits: Tensor, target: Tensor) -> None:
        scores = torch.softmax(logits, 1).numpy()
        measured = {"loss": float(self.loss(logits, target)), **classification_scores(scores, target.numpy())}
        row = {
            "step": self.step,
            "train_loss": self.running.mean_loss,
            "learning_rate": self.schedule.get_last_lr()[0],
            "seconds": round(self.running.seconds, 3),
            "data_wait": round(self.running.waited / max(self.running.seconds, 1e-9), 4),
            "read_errors": self.read_errors,
            **{f"val_{name}": value for name, value in measured.items()},
        }
        self.history.append(row)
        self.running = _Running()
        log.info("validation at step %d: %s", self.step, {k: round(v, 4) for k, v in measured.items()})
        if self.best is None or measured["loss"] < self.best["metrics"]["loss"]:
            weights = {key: value.detach().cpu().clone() for key, value in self.network.state_dict().items()}
            self.best = {
                "step": self.step,
                "metrics": measured,
                "weights": weights,
                **choose_thresholds(scores, target.numpy(), self.held_out.slide),
            }

    def export(self, output: Path) -> dict[str, Any]:
        """Write the best weights, their description and the history into ``output``."""
        best = self.best
        if best is None:
            raise HistomakeError("training ended without a validation")
        output.mkdir(parents=True, exist_ok=True)
        description = {
            "architecture": self.task.model.dump(),
            "kind": self.task.kind,
            "class_names": list(self.task.target.classes),
            "target": self.task.target.dump(),
            "grid": {"name": self.task.grid, "size": self.patches.size, "mpp": self.patches.mpp},
            "normalisation": self.normalisation,
            "threshold": best["threshold"],
            "slide_thresholds": best["slide_thresholds"],
            "metrics": best["metrics"],
            "step": best["step"],
            "seed": self.seed,
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }
        weights = {key: value.contiguous() for key, value in best["weights"].items()}
        with atomic_file(output / "model.safetensors") as aside:
            save_file(weights, aside)
        _write_history(output / "history.csv", self.history)
        write_json(output / "model.json", description)
        return description


class _Running:
    """Sums since the last validation."""

    def __init__(self, loss: float = 0.0, steps: int = 0, seconds: float = 0.0, waited: float = 0.0) -> None:
        self.loss, self.steps, self.seconds, self.waited = loss, steps, seconds, waited

    def add(self, loss: Tensor) -> None:
        """Count one step."""
        self.loss += float(loss.detach())
        self.steps += 1

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.steps, 1)


def standardise(images: Tensor, normalisation: dict[str, list[float]]) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel of float (n, 3, h, w)."""
    mean = torch.tensor(normalisation["mean"], device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(normalisation["std"], device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


def _write_history(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_file(path) as aside, open(aside, "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
