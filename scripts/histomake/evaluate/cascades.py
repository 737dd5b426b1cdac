"""Metrics of a patch cascade against its finest stage alone, on the test slides of all folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.patient_bootstrap import BOOTSTRAPS, patient_weights
from histomake.base.records.patch_cascade import StageCost
from histomake.base.records.patch_cascade_metrics import (
    ComparedMetric,
    ComparedPatches,
    FrontPoint,
    PatchCascadeMetrics,
    StageTotal,
)
from histomake.base.records.patch_thresholds import PatchThresholdsRecord
from histomake.base.units import Mpp
from histomake.cascade.patch_cascade import dense_pixels, pixels_read, run_stages
from histomake.cascade.patch_compare import SlideComparison
from histomake.config import StageThresholds
from histomake.evaluate.sampling import summarise
from histomake.evaluate.statistics import area_under_roc, average_precision, score_histograms

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEASURES = {"auroc": area_under_roc, "average_precision": average_precision}


def measure_cascade(
    slides: Sequence[SlideComparison],
    thresholds: Mapping[int, PatchThresholdsRecord],
    *,
    left_out: Sequence[str],
    seed: int,
    bootstraps: int = BOOTSTRAPS,
) -> PatchCascadeMetrics:
    """Compare on all test slides. Intervals are by paired resampling of patients.

    Args:
        slides: Compared test slides of all folds.
        thresholds: Thresholds by fold.
        left_out: Test slides that could not be compared.
        seed: Of the bootstrap.
        bootstraps: Number of resamples.
    """
    chosen = next(iter(thresholds.values()))
    totals = list(_totals(slides, chosen.stages))
    alone = sum(dense_pixels(slide.dense.stages) for slide in slides)
    return PatchCascadeMetrics(
        class_name=chosen.class_name,
        patients=len({slide.dense.patient_id for slide in slides}),
        metrics=_metrics(slides, seed=seed, bootstraps=bootstraps),
        stages=totals,
        saved=1 - sum(total.pixels for total in totals) / alone if alone else 0.0,
        seconds_dense=sum(slide.alone.seconds or 0 for slide in slides),
        seconds_cascade=sum(slide.cascade.seconds or 0 for slide in slides),
        gpu_seconds=sum(slide.cascade.gpu_seconds or 0 for slide in slides),
        peak_memory_mb=max((slide.alone.peak_memory_mb or 0 for slide in slides), default=0),
        break_even=_break_even(slides),
        simulated_identical=all(slide.identical for slide in slides),
        slides=[_compared(slide) for slide in slides],
        front=_front(slides, thresholds),
        left_out=sorted(left_out),
        without_coarser=_without_coarser(slides),
    )


def _without_coarser(slides: Sequence[SlideComparison]) -> float:
    parents = [slide.dense.stages[-1].parent for slide in slides]
    patches = sum(map(len, parents))
    return sum(int((parent < 0).sum()) for parent in parents) / patches if patches else 0.0


def _metrics(slides: Sequence[SlideComparison], *, seed: int, bootstraps: int) -> dict[str, ComparedMetric]:
    patients = sorted({slide.dense.patient_id for slide in slides})
    known = [slide for slide in slides if slide.dense.known.any()]
    positive = np.concatenate([slide.dense.positive[slide.dense.known] for slide in known] or [np.zeros(0, bool)])
    if not positive.any() or positive.all():
        return {}
    patient = np.concatenate(
        [np.full(slide.dense.known.sum(), patients.index(slide.dense.patient_id)) for slide in known]
    )
    weights = patient_weights(patient, len(patients), seed=seed, bootstraps=bootstraps)
    scores = [
        np.concatenate([slide.dense.answers.scores[-1][slide.dense.known] for slide in known]),
        np.concatenate([slide.score[slide.dense.known] for slide in known]),
    ]
    found = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        histograms = [score_histograms(score, positive, patient, weights) for score in scores]
        for name, measure in MEASURES.items():
            dense, cascade = (measure(*histogram) for histogram in histograms)
            found[name] = ComparedMetric(
                dense=summarise(dense), cascade=summarise(cascade), lost=summarise(dense - cascade)
            )
    return found


def _auroc(score: NDArray[np.float32], positive: NDArray[np.bool_]) -> float | None:
    """AUROC of patches; None if they are of one kind only."""
    if not positive.any() or positive.all():
        return None
    everyone = np.zeros(len(score), np.int64)
    return float(area_under_roc(*score_histograms(score, positive, everyone, np.ones((1, 1))))[0])


def _compared(slide: SlideComparison) -> ComparedPatches:
    dense, known = slide.dense, slide.dense.known
    finest = dense.stages[-1].patches
    assert finest is not None
    return ComparedPatches(
        slide_id=dense.slide_id,
        patient_id=dense.patient_id,
        fold=slide.fold,
        patches=len(finest),
        tissue=len(finest) / slide.cells,
        positive=int(dense.positive[known].sum()),
        auroc_dense=_auroc(dense.answers.scores[-1][known], dense.positive[known]),
        auroc_cascade=_auroc(slide.score[known], dense.positive[known]),
        stages=slide.cascade.stages,
        saved=slide.cascade.saved,
        seconds_dense=slide.alone.seconds or 0.0,
        seconds_cascade=slide.cascade.seconds or 0.0,
        peak_memory_mb=slide.alone.peak_memory_mb or 0.0,
        gpu_seconds=slide.cascade.gpu_seconds or 0.0,
        simulated_identical=slide.identical,
        simulated_difference=slide.difference,
    )


def _totals(slides: Sequence[SlideComparison], tasks: Sequence[str]) -> Iterator[StageTotal]:
    """Sums over slides, by resolution: a fold may use fewer stages than another one."""
    by_mpp: dict[Mpp, list[StageCost]] = {}
    for slide in slides:
        for cost in slide.cascade.stages:
            by_mpp.setdefault(cost.mpp, []).append(cost)
    names = {
        stage.patches.mpp: task
        for slide in slides
        for stage, task in zip(slide.dense.stages, tasks, strict=True)
        if stage.patches is not None
    }
    for mpp, costs in sorted(by_mpp.items(), reverse=True):
        yield StageTotal(
            task=names[mpp],
            mpp=costs[0].mpp,
            patches=sum(cost.patches for cost in costs),
            computed=sum(cost.computed for cost in costs),
            pixels=sum(cost.computed * cost.pixels for cost in costs),
            seconds=sum(cost.seconds or 0 for cost in costs),
        )


def _break_even(slides: Sequence[SlideComparison]) -> float | None:
    """Share of finest patches at which cascade and finest stage take the same time, if coarse stages cost the same."""
    alone = sum(slide.alone.seconds or 0 for slide in slides)
    coarse = sum((slide.cascade.seconds or 0) - (slide.cascade.stages[-1].seconds or 0) for slide in slides)
    per_patch, patches = _seconds_per_patch(slides)[-1], sum(len(slide.dense.stages[-1]) for slide in slides)
    return max(0.0, min(1.0, (alone - coarse) / (per_patch * patches))) if per_patch else None


def _seconds_per_patch(slides: Sequence[SlideComparison]) -> list[float]:
    """Measured time per patch of each stage, coarsest first; the finest from its dense run; 0 if never run."""
    depth = len(slides[0].dense.stages)
    seconds, computed = np.zeros(depth), np.zeros(depth)
    for slide in slides:
        for number, cost in enumerate(slide.cascade.stages[:-1], start=depth - len(slide.cascade.stages)):
            seconds[number] += cost.seconds or 0
            computed[number] += cost.computed
        seconds[-1] += slide.alone.stages[-1].seconds or 0
        computed[-1] += slide.alone.stages[-1].computed
    return list(np.divide(seconds, computed, out=np.zeros(depth), where=computed > 0).tolist())


def _front(slides: Sequence[SlideComparison], thresholds: Mapping[int, PatchThresholdsRecord]) -> list[FrontPoint]:
    """Thresholds of the front of the first fold with test slides, on these, cheapest first."""
    if not slides:
        return []
    fold = min(slide.fold for slide in slides)
    own, record = [slide for slide in slides if slide.fold == fold], thresholds[fold]
    each, found = _seconds_per_patch(own), list[FrontPoint]()
    truth = np.concatenate([slide.dense.positive[slide.dense.known] for slide in own])
    alone = sum(dense_pixels(slide.dense.stages) for slide in own)
    for tried in {(tuple(t.lower), tuple(t.upper)): t for t in [*record.front, record.chosen]}.values():
        limits = StageThresholds(lower=tried.lower, upper=tried.upper)
        runs = [run_stages(slide.dense.stages, slide.dense.answers, limits) for slide in own]
        used = each[len(each) - len(tried.lower) - 1 :]
        timed = [(done.computed, one) for run in runs for done, one in zip(run, used, strict=True) if done.computed]
        score = np.concatenate([run[-1].score[s.dense.known] for s, run in zip(own, runs, strict=True)])
        read = sum(pixels_read(slide.dense.stages, run) for slide, run in zip(own, runs, strict=True))
        found.append(
            FrontPoint(
                lower=tried.lower,
                upper=tried.upper,
                cost=read / alone,
                seconds=sum(count * one for count, one in timed) if all(one for _, one in timed) else None,
                auroc=_auroc(score, truth),
                chosen=(tried.lower, tried.upper) == (record.chosen.lower, record.chosen.upper),
            )
        )
    return sorted(found, key=lambda point: point.cost)
