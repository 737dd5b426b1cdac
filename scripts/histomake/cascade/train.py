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
from torch import Tensor

from histomake.cascade.net import PixelNetwork, build_network
from histomake.cascade.samples import (
    IGNORED,
    Field,
    Layout,
    Points,
    class_of,
    draw_points,
    kind_shares,
    read_batch,
)
from histomake.config import CascadeNetwork, CascadeTrain
from histomake.errors import HistomakeError
from histomake.files import atomic_file, read_json, write_json
from histomake.learn.runtime import Runtime, choose_runtime
from histomake.patch.sampler import AUGMENT, counter_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

WEIGHTS, DESCRIPTION, HISTORY, SAMPLES = "model.safetensors", "model.json", "history.csv", "points.parquet"
LOG_EVERY = 50
WARM_UP = 0.1
WEIGHT_DECAY = 1e-4
STATISTICS_CROPS = 256
GRADIENT_LIMIT = 5.0


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

    Every step draws its points by the classes' shares from (seed, step) alone. The loss is the mean over the classes'
    cross-entropies, weighted by those shares, so pixels that came along with a point do not change the balance.

    Raises:
        HistomakeError: the slides lack a class, or the loss is no longer a number.
    """
    runtime = choose_runtime("auto", threads=threads)
    points = draw_points(fields, number, config, seed=seed)
    torch.manual_seed(seed * 1000 + number)
    net = build_network(network)
    layout = Layout(net.crop_edge(config.lattice), net.points(config.lattice))
    _set_statistics(net, fields, points, number, layout, config, seed)
    net.to(runtime.device, memory_format=torch.channels_last).train()
    batches = _batches(fields, points, number, layout, config, seed)
    history = _fit(net, batches, number, config, runtime, seed)
    counts = np.bincount(points.kind, minlength=3).tolist()
    description = {
        "network": network.dump(),
        "level": number,
        "mpp": fields[0].levels[number - 1].mpp,
        "field": net.field,
        "parameters": sum(p.numel() for p in net.parameters()),
        "train": config.dump(),
        "seed": seed,
        "slides": sorted(f.slide_id for f in fields),
        "points": dict(zip(("background", "inside", "third"), counts, strict=True)),
        "loss": history[-1]["loss"],
    }
    _save(net, description, history, fields, points, output)
    return description


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
    fields: Sequence[Field], points: Points, number: int, layout: Layout, config: CascadeTrain, seed: int
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
        for step in range(config.steps):
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
) -> list[dict[str, float]]:
    """Run the optimiser over all batches; loss and balanced accuracy every LOG_EVERY steps."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=WEIGHT_DECAY)
    warm = max(1, round(WARM_UP * config.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: (
            min(1, (s + 1) / warm) * 0.5 * (1 + math.cos(math.pi * max(0, s - warm) / max(1, config.steps - warm)))
        ),
    )
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.scaled)
    shares = torch.from_numpy(kind_shares(config, number)).to(runtime.device)
    history, losses, hits = [], [], []
    for step, (crops, kinds) in enumerate(batches):
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).to(runtime.device)
        pixels = _colour_jitter(pixels, config.colour, counter_rng(seed, worker=number, step=step, stream=AUGMENT))
        kind = torch.from_numpy(kinds).to(runtime.device, torch.long)
        target = torch.from_numpy(class_of(kinds, number)).to(runtime.device)
        with runtime.autocast():
            logits = net(pixels)
        loss, accuracy = _balanced_loss(logits.float(), target, kind, shares)
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_LIMIT)
        scaler.step(optimiser)
        scaler.update()
        schedule.step()
        losses.append(loss.item())
        hits.append(accuracy.item())
        if not math.isfinite(losses[-1]):
            raise HistomakeError(f"level {number}: the loss is no number at step {step}; lower train.learning_rate")
        if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
            history.append({"step": step + 1, "loss": float(np.mean(losses)), "accuracy": float(np.mean(hits))})
            log.info("level %d step %d: loss %.4f, accuracy %.3f", number, *history[-1].values())
            losses, hits = [], []
    return history


def _balanced_loss(logits: Tensor, target: Tensor, kind: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy as means over kinds, weighted by the kinds' shares; IGNORED pixels do not count."""
    counted = kind != IGNORED
    losses = F.cross_entropy(logits.movedim(1, -1)[counted], target[counted], reduction="none")
    right = (logits.argmax(1) == target)[counted].float()
    members = F.one_hot(kind[counted], 3).float()
    number = members.sum(0)
    weights = shares * (number > 0)
    weight = (members * (weights / weights.sum() / number.clamp(min=1))).sum(1)
    return (losses * weight).sum(), (right * weight).sum()


def _colour_jitter(pixels: Tensor, spread: float, rng: np.random.Generator) -> Tensor:
    """Random gain (around mid-grey 128) and offset per crop and channel, and per crop: stains and scanners differ."""
    n = pixels.shape[0]
    drawn = rng.normal(0, spread, (2, n, 4, 1, 1)).astype(np.float32)
    gain, offset = torch.from_numpy(drawn[:, :, :1] + 0.5 * drawn[:, :, 1:]).to(pixels.device)
    return ((pixels.float() - 128) * (1 + gain) + 128 + 64 * offset).clamp(0, 255)


def _save(
    net: PixelNetwork,
    description: dict[str, Any],
    history: list[dict[str, float]],
    fields: Sequence[Field],
    points: Points,
    output: Path,
) -> None:
    ids = np.array([f.slide_id for f in fields])[points.field]
    table = pa.table({"slide_id": ids, "y": points.y, "x": points.x, "kind": points.kind})
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
    net = build_network(CascadeNetwork.model_validate(read_json(folder / DESCRIPTION)["network"]))
    net.load_state_dict(load_file(folder / WEIGHTS))
    return net.to(device, memory_format=torch.channels_last).eval()
