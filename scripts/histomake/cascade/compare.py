"""Comparison on a test slide: time, cost and scores of naive, dense and cascade evaluation in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from histomake.base.records.cascade_metrics import (
    Bar,
    CascadeSeconds,
    ComparedGroup,
    ComparedSlide,
    NucleusScores,
    SlideSaving,
    Way,
)
from histomake.base.rng import counter_rng
from histomake.base.units import Mpp
from histomake.base.windows import Window
from histomake.cascade.answers import NetworkAnswers, StoredAnswers, patch_by_patch
from histomake.cascade.infer import (
    count_multiply_adds,
    dense_block,
    deployed,
    level_shares,
    saved,
    whole_labels,
    whole_maps,
)
from histomake.cascade.levels import Level, read_window
from histomake.cascade.measures import otsu_nuclei, score
from histomake.cascade.run import COMPUTED, LevelMap, costs, pixel_evaluations, run_cascade
from histomake.cells.parting import depth_px, part_array
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
    neck_um: float | None = None,
    patient_id: str | None = None,
    site: str | None = None,
) -> ComparedSlide:
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
        neck_um: Parting of touching nuclei, as in the record of thresholds; of all ways alike, and not timed.
        patient_id: Patient of the slide.
        site: Site of the slide.
    """
    dense_answers = replace(answers, block=dense_block(answers.block))
    levels, answers = deployed(levels, answers, thresholds)
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
    scores = None
    if truth is not None and truth.any():
        pixels = read_window(answers.reader, levels[0], Window(0, 0, levels[0].height, levels[0].width))
        masks: dict[Way, NDArray[np.bool_]] = {
            "dense": dense_labels > 0,
            "cascade": labels > 0,
            "otsu": otsu_nuclei(pixels),
        }
        found = {way: part_array(mask, depth_px(neck_um, levels[0].mpp)) for way, mask in masks.items()}
        scores = {w: NucleusScores(**asdict(score(f, truth, complete=complete))) for w, f in found.items()}
    shares = costs(maps)
    return ComparedSlide(
        slide_id=answers.reader.slide_id,
        patient_id=patient_id,
        site=site,
        area_mm2=levels[0].pixels * levels[0].mpp ** 2 / 1e6,
        tissue=_tissue_share(tissue),
        seconds=CascadeSeconds(naive=naive_seconds, dense=dense_seconds, cascade=cascade_seconds),
        naive_pixels=config.naive_pixels,
        dense_difference=difference,
        simulated_identical=_simulated_equals(levels, answers, thresholds, labels),
        saved_in_tissue=_saved_inside(tissue, maps, answers.reader.mpp),
        levels=level_shares(levels, shares),
        pixel_evaluations=pixel_evaluations(shares),
        saved=saved(shares),
        multiply_adds=count_multiply_adds(levels, shares, answers),
        scores=scores,
    )


def _timed[T](work: Callable[[], T], repeats: int) -> tuple[float, T]:
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


WAYS: tuple[Way, ...] = get_args(Way)
SHOWN_SCORES = ("pixel_f", "f", "tpr", "ppv", "detected", "aji", "pq", "object_f1", "count_error")

SLIDES, IMAGES = "whole slides", "images"
HALF_TISSUE = 0.5
SLIDE_MM2 = 0.3


def is_whole(slide: ComparedSlide) -> bool:
    """Return whether a slide is a whole slide and no field of view: large enough, and at most half of it is tissue."""
    return slide.tissue <= HALF_TISSUE and slide.area_mm2 >= SLIDE_MM2


def group_of(slide: ComparedSlide) -> str:
    """Return the name of a slide's group: whole slides or images, and the site if the sheet has one."""
    kind = SLIDES if is_whole(slide) else IMAGES
    return f"{kind} of {slide.site}" if slide.site else kind


def summarise(slides: Sequence[ComparedSlide]) -> dict[str, ComparedGroup]:
    """Return the comparison over the slides of each group. Sites are separate: one must not compensate for another."""
    groups: dict[str, list[ComparedSlide]] = {}
    for slide in sorted(slides, key=lambda slide: (not is_whole(slide), slide.site or "")):
        groups.setdefault(group_of(slide), []).append(slide)
    return {name: _means(members) for name, members in groups.items()}


def _means(slides: Sequence[ComparedSlide]) -> ComparedGroup:
    finest = [slide.levels[0].pixels for slide in slides]
    cascade = sum(slide.multiply_adds.cascade for slide in slides)
    scored: dict[str, list[dict[Way, NucleusScores]]] = {}
    for slide in slides:
        if slide.scores is not None:
            scored.setdefault(slide.patient_id or slide.slide_id, []).append(slide.scores)
    return ComparedGroup(
        whole_slides=is_whole(slides[0]),
        slides=len(slides),
        each=[SlideSaving(slide_id=s.slide_id, tissue=s.tissue, saved=s.saved, faster=_faster(s)) for s in slides],
        scored=sum(map(len, scored.values())),
        patients=len(scored),
        tissue=float(np.average([slide.tissue for slide in slides], weights=finest)),
        saved=1 - sum(slide.pixel_evaluations for slide in slides) / sum(finest),
        saved_in_tissue=float(np.mean([slide.saved_in_tissue for slide in slides])),
        multiply_adds_vs_naive=1 - cascade / sum(slide.multiply_adds.naive for slide in slides),
        multiply_adds_vs_dense=1 - cascade / sum(slide.multiply_adds.dense for slide in slides),
        seconds=CascadeSeconds(
            naive=sum(slide.seconds.naive for slide in slides),
            dense=sum(slide.seconds.dense for slide in slides),
            cascade=sum(slide.seconds.cascade for slide in slides),
        ),
        dense_difference=max(slide.dense_difference for slide in slides),
        simulated_identical=all(slide.simulated_identical for slide in slides),
        scores={way: _mean_of_patients(way, scored) for way in WAYS} if scored else {},
    )


def _faster(slide: ComparedSlide) -> float:
    return slide.seconds.dense / slide.seconds.cascade


def _mean_of_patients(way: Way, scored: Mapping[str, Sequence[Mapping[Way, NucleusScores]]]) -> NucleusScores:
    return _mean_scores([_mean_scores([scores[way] for scores in slides]) for slides in scored.values()])


def _mean_scores(scores: Sequence[NucleusScores]) -> NucleusScores:
    values = {name: [getattr(one, name) for one in scores] for name in NucleusScores.__struct_fields__}
    return NucleusScores(**{name: float(np.mean(each)) for name, each in values.items() if None not in each})


def bars(groups: Mapping[str, ComparedGroup]) -> list[Bar]:
    """Return the bounds required of a cascade on test images, each with its measured value."""
    found: list[Bar] = []

    def add(figure: str, value: float, sign: str, bar: float) -> None:
        ok = value >= bar if sign == ">=" else value <= bar
        found.append(Bar(figure=figure, value=value, bar=f"{sign} {bar:g}", ok=bool(ok)))

    for name, g in groups.items():
        if g.whole_slides:
            add(f"{name}: pixel evaluations saved vs naive", g.saved, ">=", 0.85)
            slowest = min(g.each, key=lambda each: each.faster)
            add(f"{name}: wall time, dense / cascade ({slowest.tissue:.0%} tissue)", slowest.faster, ">=", 2)
        add(f"{name}: pixel evaluations saved inside tissue", g.saved_in_tissue, ">=", 0.7)
        add(f"{name}: wall time, naive / cascade", g.seconds.naive / g.seconds.cascade, ">=", 5)
        add(f"{name}: dense = patch-wise, largest difference", g.dense_difference, "<=", 1e-5)
        add(f"{name}: simulated = deployed mask", float(g.simulated_identical), ">=", 1)
        if not g.scores:
            continue
        dense, cascade, otsu = (g.scores[way] for way in WAYS)
        add(f"{name}: pixel F lost vs dense", dense.pixel_f - cascade.pixel_f, "<=", 0.03)
        add(f"{name}: RADHicaL F lost vs dense", dense.f - cascade.f, "<=", 0.03)
        if not g.whole_slides:
            add(f"{name}: pixel Dice, dense", dense.pixel_f, ">=", 0.85)
            add(f"{name}: pixel Dice, cascade", cascade.pixel_f, ">=", 0.82)
            add(f"{name}: pixel Dice, cascade above Otsu", cascade.pixel_f - otsu.pixel_f, ">=", 0)
            add(f"{name}: RADHicaL F, cascade above Otsu", cascade.f - otsu.f, ">=", 0)
            add(f"{name}: RADHicaL F, cascade", cascade.f, ">=", 0.8)
            add(f"{name}: object F1, cascade above Otsu + watershed", cascade.object_f1 - otsu.object_f1, ">=", 0.05)
    return found


def table(groups: Mapping[str, ComparedGroup], found: Sequence[Bar]) -> str:
    """Format the bounds and the scores as text."""
    width = max((len(bar.figure) for bar in found), default=0)
    lines = [f"{bar.figure:<{width}}  {bar.value:>10.4g}  {bar.bar:>8}  {'yes' if bar.ok else 'NO'}" for bar in found]
    for name, g in groups.items():
        lines += ["", f"{name}: {g.slides} ({g.tissue:.0%} tissue), {g.scored} annotated of {g.patients} patients"]
        seconds = {way: getattr(g.seconds, way) for way in g.seconds.__struct_fields__}
        lines.append("seconds: " + ", ".join(f"{way} {s:.2f}" for way, s in seconds.items()))
        if g.whole_slides:
            lines += [
                f"{each.slide_id}: {each.tissue:.0%} tissue, {each.saved:.1%} of pixel evaluations saved, "
                f"{each.faster:.2f} times as fast as dense"
                for each in g.each
            ]
        adds = f"{g.multiply_adds_vs_naive:.2%} vs naive, {g.multiply_adds_vs_dense:.2%} vs dense"
        lines.append(f"multiply-adds saved: {adds}")
        if g.scores:
            lines.append(f"{'':<8}" + "".join(f"{name:>10}" for name in SHOWN_SCORES))
        for way, scores in g.scores.items():
            lines.append(f"{way:<8}" + "".join(f"{getattr(scores, name):>10.4f}" for name in SHOWN_SCORES))
    return "\n".join(lines)
