"""Owns training the network of one level, and its model on disk: weights and the description they need."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file, read_json, write_json
from histomake.base.rng import AUGMENT, counter_rng
from histomake.cascade.net import PixelNetwork, build_network
from histomake.cascade.samples import IGNORED, Field, Layout, Points, class_of, draw_points, kind_shares, read_batch
from histomake.config import Augment, CascadeNetwork, CascadeTrain
from histomake.learn.engine.runtime import Runtime, choose_runtime
from histomake.patch.augment import apply, draw_parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

WEIGHTS, DESCRIPTION, HISTORY, SAMPLES = "model.safetensors", "model.json", "history.csv", "points.parquet"
LOG_EVERY = 50
WARM_UP = 0.1
WEIGHT_DECAY = 1e-4
STATISTICS_CROPS = 256
GRADIENT_LIMIT = 5.0
AVERAGING = 0.98
"""Per step; the average reaches some 50 steps back."""


def train_level(
    fields: Sequence[Field],
    number: int,
    *,
    network: CascadeNetwork,
    config: CascadeTrain,
    output: Path,
    seed: int,
    threads: int,
) -> dict[str, Any]:
    """Train the network of one level; fill ``output`` with weights, description, history and the points drawn.

    Every step draws its points by the classes' shares from (seed, step) alone, and its cross-entropy is the mean over
    the points and the pixels that came along with them. Where annotation is incomplete almost none of those are
    background, so there the classes' means are weighted by their shares.

    What is saved is an exponential average of the weights over the last steps, which is steadier than the last.

    Raises:
        HistomakeError: the slides lack a class, or the loss is no longer a number.
    """
    runtime = choose_runtime(_precision(), threads=threads)
    points = draw_points(fields, number, config, seed=seed)
    torch.manual_seed(seed * 1000 + number)
    net = build_network(network)
    layout = Layout(net.crop_edge(config.lattice), net.points(config.lattice))
    _set_statistics(net, fields, points, number, layout, config, seed)
    net.to(runtime.device, memory_format=torch.channels_last).train()
    steps = config.steps if isinstance(config.steps, int) else config.steps[number - 1]
    batches = _batches(fields, points, number, layout, config, seed, steps)
    averaged, history = _fit(net, batches, number, config, runtime, seed, steps)
    counts = np.bincount(points.kind, minlength=3).tolist()
    description = {
        "network": network.dump(),
        "level": number,
        "mpp": fields[0].levels[number - 1].mpp,
        "field": net.field,
        "parameters": sum(p.numel() for p in net.parameters()),
        "train": config.dump(),
        "seed": seed,
        "slides": sorted({f.slide_id for f in fields}),
        "points": dict(zip(("background", "inside", "third"), counts, strict=True)),
        "loss": history[-1]["loss"],
    }
    _save(averaged, description, history, fields, points, number, output)
    return description


def _precision() -> str:
    """bf16 also on a CPU that multiplies matrices of it: twice as fast, and answers are asked for in float32 anyway."""
    tiles = torch.cpu.get_capabilities().get("amx_bf16", False)
    return "bf16" if tiles and not torch.cuda.is_available() else "auto"


def _set_statistics(
    net: PixelNetwork,
    fields: Sequence[Field],
    points: Points,
    number: int,
    layout: Layout,
    config: CascadeTrain,
    seed: int,
) -> None:
    """Set the mean colour that is subtracted, and the scale, from crops of the training slides."""
    rng = counter_rng(seed, worker=number, stream=AUGMENT)
    chosen = rng.integers(len(points), size=STATISTICS_CROPS)
    crops, _ = read_batch(fields, points, chosen, number, layout, complete=config.complete, rng=rng)
    flat = crops.reshape(-1, 3).astype(np.float64)
    net.mean.copy_(torch.from_numpy(flat.mean(0)))
    net.std.copy_(torch.from_numpy(np.maximum(flat.std(0), 1.0)))


def _batches(
    fields: Sequence[Field], points: Points, number: int, layout: Layout, config: CascadeTrain, seed: int, steps: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int8]]]:
    """The batches of all steps, one read ahead while another is learned from."""
    shares = kind_shares(config, number)
    by_kind = [np.flatnonzero(points.kind == k) for k in range(3)]
    shares *= [len(places) > 0 for places in by_kind]
    shares /= shares.sum()

    def load(step: int) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
        rng = counter_rng(seed, worker=number, step=step)
        drawn = rng.choice(3, size=config.batch, p=shares.astype(np.float64) / shares.astype(np.float64).sum())
        chosen = np.array([rng.choice(by_kind[k]) for k in drawn])
        return read_batch(fields, points, chosen, number, layout, complete=config.complete, rng=rng)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(load, 0)
        for step in range(steps):
            current = ahead.result()
            ahead = pool.submit(load, step + 1)
            yield current


def _fit(
    net: PixelNetwork,
    batches: Iterator[tuple[NDArray[np.uint8], NDArray[np.int8]]],
    number: int,
    config: CascadeTrain,
    runtime: Runtime,
    seed: int,
    steps: int,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Run the optimiser over all batches; the averaged net, and loss and accuracy every LOG_EVERY steps."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=WEIGHT_DECAY)
    warm = max(1, round(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: min(1, (s + 1) / warm) * 0.5 * (1 + math.cos(math.pi * max(0, s - warm) / max(1, steps - warm))),
    )
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.scaled)
    averaged = AveragedModel(net, avg_fn=_average, use_buffers=True)
    shares = None if config.complete else torch.from_numpy(kind_shares(config, number)).to(runtime.device)
    history, losses, hits = [], [], []
    for step, (crops, kinds) in enumerate(batches):
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).to(runtime.device)
        pixels = _jittered(pixels, config.colour, counter_rng(seed, worker=number, step=step, stream=AUGMENT))
        kind = torch.from_numpy(kinds).to(runtime.device, torch.long)
        target = torch.from_numpy(class_of(kinds, number)).to(runtime.device)
        with runtime.autocast():
            logits = net(pixels)
        loss, accuracy = _cross_entropy(logits.float(), target, kind, shares)
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_LIMIT)
        scaler.step(optimiser)
        scaler.update()
        schedule.step()
        averaged.update_parameters(net)
        losses.append(loss.item())
        hits.append(accuracy.item())
        if not math.isfinite(losses[-1]):
            raise HistomakeError(f"level {number}: the loss is no number at step {step}; lower train.learning_rate")
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            history.append({"step": step + 1, "loss": float(np.mean(losses)), "accuracy": float(np.mean(hits))})
            log.info("level %d step %d: loss %.4f, accuracy %.3f", number, *history[-1].values())
            losses, hits = [], []
    return averaged.module, history


def _average(averaged: Tensor, current: Tensor, number: Tensor) -> Tensor:
    """The exponential average of a weight, that of fewer steps while there are few."""
    share = max(1 - AVERAGING, 1 / (1 + number.item() / 10))
    return averaged + share * (current - averaged)


def _cross_entropy(logits: Tensor, target: Tensor, kind: Tensor, shares: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy, as means over pixels or, by ``shares``, over kinds; IGNORED pixels do not count."""
    counted = kind != IGNORED
    losses = F.cross_entropy(logits.movedim(1, -1)[counted], target[counted], reduction="none")
    right = (logits.argmax(1) == target)[counted].float()
    if shares is None:
        return losses.mean(), right.mean()
    members = F.one_hot(kind[counted], 3).float()
    number = members.sum(0)
    weights = shares * (number > 0)
    weight = (members * (weights / weights.sum() / number.clamp(min=1))).sum(1)
    return (losses * weight).sum(), (right * weight).sum()


def _jittered(pixels: Tensor, spread: float, rng: np.random.Generator) -> Tensor:
    """Crops on the 0-255 scale in other colours, each by its own draw: stains and scanners differ."""
    changes = Augment(flip=False, brightness=spread, saturation=spread, hue=spread / 5, hed=spread)
    changed, _ = apply(pixels.float() / 255, draw_parameters(changes, len(pixels), rng))
    return changed * 255


def _save(
    net: nn.Module,
    description: dict[str, Any],
    history: list[dict[str, float]],
    fields: Sequence[Field],
    points: Points,
    number: int,
    output: Path,
) -> None:
    ids = np.array([f.slide_id for f in fields])[points.field]
    mpp = np.array([f.levels[number - 1].mpp for f in fields], np.float32)[points.field]
    table = pa.table({"slide_id": ids, "mpp": mpp, "y": points.y, "x": points.x, "kind": points.kind})
    with atomic_file(output / SAMPLES) as aside:
        pq.write_table(table, aside, compression="zstd")
    with atomic_file(output / HISTORY) as aside, aside.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["step", "loss", "accuracy"])
        writer.writeheader()
        writer.writerows(history)
    with atomic_file(output / WEIGHTS) as aside:
        save_file({k: v.contiguous().cpu() for k, v in net.state_dict().items()}, aside)
    write_json(output / DESCRIPTION, description)


def load_network(folder: Path, device: torch.device) -> PixelNetwork:
    """A trained network in eval mode.

    Raises:
        HistomakeError: the level has no model.
    """
    if not (folder / WEIGHTS).exists():
        raise HistomakeError(f"no trained level in {folder}: train every level before the cascade runs")
    description = read_json(folder / DESCRIPTION)
    net = build_network(CascadeNetwork.model_validate(description["network"]), field=description["field"])
    net.load_state_dict(load_file(folder / WEIGHTS))
    return net.to(device, memory_format=torch.channels_last).eval()
