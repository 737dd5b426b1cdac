"""Comparison on a test slide: time, cost and scores of naive, dense and cascade evaluation in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from histomake.base.rng import counter_rng
from histomake.base.units import Mpp
from histomake.cascade.answers import NetworkAnswers, StoredAnswers, patch_by_patch
from histomake.cascade.infer import DENSE_BLOCK_PX, cost_record, whole_labels, whole_maps
from histomake.cascade.levels import Level, Window, read_window
from histomake.cascade.measures import otsu_nuclei, score
from histomake.cascade.run import COMPUTED, LevelMap, costs, run_cascade
from histomake.config import CascadeBaselines, CascadeThresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.tissue.mask import TissueMask

NAIVE_BATCH = 256


def compare_slide(
    levels: Sequence[Level],
    answers: NetworkAnswers,
    thresholds: CascadeThresholds,
    *,
    dense_cut: float,
    truth: NDArray[np.int32] | None,
    tissue: TissueMask | None,
    complete: bool,
    config: CascadeBaselines,
    seed: int,
) -> dict[str, Any]:
    """Segment one slide naively, densely and with the cascade, in memory; return a record of all results.

    Args:
        levels: Levels of the slide, finest first.
        answers: The trained networks on the slide.
        thresholds: Thresholds of the cascade.
        dense_cut: The threshold on p1 of the dense network.
        truth: Nucleus numbers (h, w) at level 1; None without annotation.
        tissue: Tissue mask; None counts the whole slide as tissue.
        complete: Whether all nuclei are annotated.
        config: The ``baselines`` section of the cascade's configuration.
        seed: Seed of the pixels on which the naive way is timed.
    """
    dense_answers = replace(answers, block=max(answers.block, DENSE_BLOCK_PX))
    everything = CascadeThresholds(cut=dense_cut, lower=[], upper=[])

    def dense() -> tuple[list[LevelMap], NDArray[np.int32]]:
        maps = run_cascade(levels[:1], dense_answers, everything, block=dense_answers.block)
        return maps, whole_labels(maps[-1], cut=dense_cut)

    def cascade() -> tuple[list[LevelMap], NDArray[np.int32]]:
        maps = run_cascade(levels, answers, thresholds, block=answers.block)
        return maps, whole_labels(maps[-1], cut=thresholds.cut)

    dense_seconds, (dense_maps, dense_labels) = _timed(dense, config.repeats)
    cascade_seconds, (maps, labels) = _timed(cascade, config.repeats)
    naive_seconds, difference = _naive(levels[0], answers, dense_maps[0], config, seed)
    record = {
        "status": "ok",
        "slide_id": answers.reader.slide_id,
        "area_mm2": levels[0].pixels * levels[0].mpp ** 2 / 1e6,
        "tissue": _tissue_share(tissue),
        "seconds": {"naive": naive_seconds, "dense": dense_seconds, "cascade": cascade_seconds},
        "naive_pixels": config.naive_pixels,
        "dense_difference": difference,
        "simulated_identical": _simulated_equals(levels, answers, thresholds, labels),
        "saved_in_tissue": _saved_inside(tissue, maps, answers.reader.mpp),
        **cost_record(levels, costs(maps), answers),
    }
    if truth is not None and truth.any():
        pixels = read_window(answers.reader, levels[0], Window(0, 0, levels[0].height, levels[0].width))
        otsu, _ = ndimage.label(otsu_nuclei(pixels))
        found = {"dense": dense_labels, "cascade": labels, "otsu": otsu}
        record["scores"] = {way: score(f, truth, complete=complete).record() for way, f in found.items()}
    return record


def _timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the median time in seconds of ``repeats`` runs after a warm-up run, and the last result."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def _naive(
    level: Level, answers: NetworkAnswers, dense: LevelMap, config: CascadeBaselines, seed: int
) -> tuple[float, float]:
    """Estimate the time of naive evaluation of the whole slide, and compare its results with dense evaluation.

    Random pixels are timed and scaled to the whole slide, because every pixel costs the same. Returns seconds and the
    largest difference of probabilities.
    """
    rng = counter_rng(seed, stream=2)
    y = rng.integers(level.height, size=config.naive_pixels)
    x = rng.integers(level.width, size=config.naive_pixels)
    pixels = list(zip(y.tolist(), x.tolist(), strict=True))
    started = time.perf_counter()
    p = patch_by_patch(answers.reader, level, answers.networks[1], pixels, batch=NAIVE_BATCH)
    seconds = (time.perf_counter() - started) * level.pixels / len(pixels)
    return seconds, float(np.abs(p[:, 1:].T - dense.p[:, y, x]).max())


def _simulated_equals(
    levels: Sequence[Level],
    answers: NetworkAnswers,
    thresholds: CascadeThresholds,
    labels: NDArray[np.int32],
) -> bool:
    """Return whether the cascade on whole maps, as in the threshold search, gives exactly the deployed mask."""
    stored = StoredAnswers(whole_maps(answers, levels))
    edge = max(levels[0].height, levels[0].width)
    maps = run_cascade(levels, stored, thresholds, block=edge)
    return bool(np.array_equal(whole_labels(maps[-1], cut=thresholds.cut) > 0, labels > 0))


def _tissue_share(tissue: TissueMask | None) -> float:
    return 1.0 if tissue is None else float(tissue.mask.mean())


def _saved_inside(tissue: TissueMask | None, maps: Sequence[LevelMap], mpp: Mpp) -> float:
    """Return the share of pixel evaluations saved in comparison to naive, counting only pixels in tissue."""
    evaluations, finest = 0, 0
    for m in maps:
        inside = np.ones(m.state.shape, bool) if tissue is None else _on_level(tissue, m.level, mpp)
        evaluations += int(((m.state == COMPUTED) & inside).sum())
        if m.level.number == 1:
            finest = int(inside.sum())
    return 1 - evaluations / finest if finest else 0.0


def _on_level(tissue: TissueMask, level: Level, mpp: Mpp) -> NDArray[np.bool_]:
    """Sample the tissue mask on a level's grid, (h, w), at pixel centres."""
    height, width = tissue.mask.shape
    rows = ((np.arange(level.height) + 0.5) * level.mpp / mpp / tissue.downsample_y).astype(int)
    columns = ((np.arange(level.width) + 0.5) * level.mpp / mpp / tissue.downsample_x).astype(int)
    return tissue.mask[np.ix_(np.minimum(rows, height - 1), np.minimum(columns, width - 1))]


SLIDES, IMAGES = "whole slides", "images"
HALF_TISSUE = 0.5
SLIDE_MM2 = 0.3


def group_of(record: Mapping[str, Any]) -> str:
    """Return the group of a slide: whole slides are at least SLIDE_MM2 large and at most half tissue, others images."""
    return SLIDES if record["tissue"] <= HALF_TISSUE and record["area_mm2"] >= SLIDE_MM2 else IMAGES


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over the slides of each group, and the comparison with the required bounds."""
    groups = {}
    for group in (SLIDES, IMAGES):
        members = [r for r in records if r["status"] == "ok" and group_of(r) == group]
        if members:
            groups[group] = _means(members)
    return {"groups": groups, "bars": bars(groups)}


def _means(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = {way: sum(r["seconds"][way] for r in records) for way in ("naive", "dense", "cascade")}
    adds = {way: sum(r["multiply_adds"][way] for r in records) for way in ("naive", "dense", "cascade")}
    scored = [r["scores"] for r in records if "scores" in r]
    finest = [r["levels"][0]["pixels"] for r in records]
    return {
        "slides": len(records),
        "each": [
            {"slide_id": r["slide_id"], "tissue": r["tissue"], "saved": r["saved"], "faster": _faster(r["seconds"])}
            for r in records
        ],
        "scored": len(scored),
        "tissue": float(np.average([r["tissue"] for r in records], weights=finest)),
        "saved": 1 - sum(r["pixel_evaluations"] for r in records) / sum(finest),
        "saved_in_tissue": float(np.mean([r["saved_in_tissue"] for r in records])),
        "multiply_adds_vs_naive": 1 - adds["cascade"] / adds["naive"],
        "multiply_adds_vs_dense": 1 - adds["cascade"] / adds["dense"],
        "seconds": seconds,
        "dense_difference": max(r["dense_difference"] for r in records),
        "simulated_identical": all(r["simulated_identical"] for r in records),
        "scores": {
            way: {k: _mean([s[way][k] for s in scored]) for k in scored[0][way]} for way in ("dense", "cascade", "otsu")
        }
        if scored
        else {},
    }


def _faster(seconds: Mapping[str, float]) -> float:
    return seconds["dense"] / seconds["cascade"]


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


def bars(groups: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the bounds required of a cascade on test images, each with its measured value."""
    found: list[dict[str, Any]] = []

    def add(figure: str, value: float, sign: str, bar: float) -> None:
        ok = value >= bar if sign == ">=" else value <= bar
        found.append({"figure": figure, "value": value, "bar": f"{sign} {bar:g}", "ok": bool(ok)})

    for name, g in groups.items():
        if name == SLIDES:
            add(f"{name}: pixel evaluations saved vs naive", g["saved"], ">=", 0.85)
            slowest = min(g["each"], key=lambda e: e["faster"])
            add(f"{name}: wall time, dense / cascade ({slowest['tissue']:.0%} tissue)", slowest["faster"], ">=", 2)
        add(f"{name}: pixel evaluations saved inside tissue", g["saved_in_tissue"], ">=", 0.7)
        add(f"{name}: wall time, naive / cascade", g["seconds"]["naive"] / g["seconds"]["cascade"], ">=", 5)
        add(f"{name}: dense = patch-wise, largest difference", g["dense_difference"], "<=", 1e-5)
        add(f"{name}: simulated = deployed mask", float(g["simulated_identical"]), ">=", 1)
        if not g["scores"]:
            continue
        dense, cascade, otsu = (g["scores"][way] for way in ("dense", "cascade", "otsu"))
        add(f"{name}: pixel F lost vs dense", dense["pixel_f"] - cascade["pixel_f"], "<=", 0.03)
        add(f"{name}: RADHicaL F lost vs dense", dense["f"] - cascade["f"], "<=", 0.03)
        if name == IMAGES:
            add(f"{name}: pixel Dice, dense", dense["pixel_f"], ">=", 0.85)
            add(f"{name}: pixel Dice, cascade", cascade["pixel_f"], ">=", 0.82)
            add(f"{name}: pixel Dice, cascade above Otsu", cascade["pixel_f"] - otsu["pixel_f"], ">=", 0)
    return found


def table(summary: Mapping[str, Any]) -> str:
    """Format the bounds and the scores as text."""
    width = max((len(b["figure"]) for b in summary["bars"]), default=0)
    lines = [
        f"{b['figure']:<{width}}  {b['value']:>10.4g}  {b['bar']:>8}  {'yes' if b['ok'] else 'NO'}"
        for b in summary["bars"]
    ]
    for name, g in summary["groups"].items():
        lines += ["", f"{name}: {g['slides']} ({g['tissue']:.0%} tissue), {g['scored']} annotated"]
        lines.append("seconds: " + ", ".join(f"{way} {s:.2f}" for way, s in g["seconds"].items()))
        if name == SLIDES:
            lines += [
                f"{e['slide_id']}: {e['tissue']:.0%} tissue, {e['saved']:.1%} of pixel evaluations saved, "
                f"{e['faster']:.2f} times as fast as dense"
                for e in g["each"]
            ]
        adds = ", ".join(f"{g[f'multiply_adds_vs_{way}']:.2%} vs {way}" for way in ("naive", "dense"))
        lines.append(f"multiply-adds saved: {adds}")
        keys = ("pixel_f", "f", "tpr", "ppv", "detected", "aji", "pq", "object_f1")
        if g["scores"]:
            lines.append(f"{'':<8}" + "".join(f"{k:>10}" for k in keys))
        for way, s in g["scores"].items():
            lines.append(f"{way:<8}" + "".join(f"{s[k]:>10.4f}" for k in keys))
    return "\n".join(lines)
