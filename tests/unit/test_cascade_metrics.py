"""Metrics of a patch cascade against its finest stage alone: hand-computed values, front, break-even and the report."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from histomake.base.layout import Layout
from histomake.base.records.patch_cascade import PatchCascadeRecord, StageCost
from histomake.base.records.patch_thresholds import PatchThresholdsRecord, TriedThresholds
from histomake.cascade.patch_cascade import StagePatches, run_stages, stage_costs
from histomake.cascade.patch_compare import SlideComparison
from histomake.cascade.plots import draw_seconds
from histomake.cascade.stage_scores import DenseSlide, StoredScores
from histomake.config import Config, StageThresholds
from histomake.evaluate.cascades import measure_cascade
from histomake.report.cascades_section import cascades_section
from PIL import Image

HALF = TriedThresholds(lower=[0.5], upper=[1.0], method="joint", auroc=1.0, cost=0.6)
ALONE = TriedThresholds(lower=[], upper=[], method="coordinate", auroc=1.0, cost=1.0)
CHOSEN = PatchThresholdsRecord(
    class_name="tumour",
    stages=["coarse", "fine"],
    rule="max_loss",
    dense_auroc=1.0,
    chosen=HALF,
    trials=2,
    front=[HALF, ALONE],
    slides=["V"],
    left_out=[],
)


class _Patches(list):
    """As many patches of 16 pixels."""

    def __init__(self, count, mpp):
        super().__init__(range(count))
        self.mpp, self.size = mpp, 4


def compared(slide_id, *, fine=(0.1, 0.2, 0.9, 0.8, 0.3, 0.4, 0.1, 0.2), positive=(0, 0, 1, 1, 0, 0, 0, 0), **changes):
    """A slide of two coarse patches, the first above four of eight finer ones; only the first is above 0.5.

    The coarse stage takes 1 s, the finest 0.5 s per patch.
    """
    parent = np.repeat([0, 1], 4)
    stages = [StagePatches(_Patches(2, 4.0), np.full(2, -1)), StagePatches(_Patches(8, 1.0), parent)]
    scores = StoredScores([np.array([0.9, 0.2], np.float32), np.array(fine, np.float32)])
    dense = DenseSlide(slide_id, f"patient-{slide_id}", stages, scores, np.array(positive, bool), np.ones(8, bool))
    decided = run_stages(stages, scores, StageThresholds(lower=[0.5], upper=[1.0]))
    costs = [
        StageCost(mpp=c.mpp, patches=c.patches, computed=c.computed, pixels=c.pixels, seconds=seconds)
        for c, seconds in zip(stage_costs(stages, decided), (1.0, 2.0), strict=True)
    ]
    alone = StageCost(mpp=1.0, patches=8, computed=8, pixels=16, seconds=4.0)
    known = {"slide_id": slide_id, "peak_memory_mb": 100.0, "gpu_seconds": 0.0}
    found = SlideComparison(
        dense=dense,
        fold=0,
        score=decided[-1].score,
        cascade=PatchCascadeRecord(stages=costs, saved=1 - 6 / 8, seconds=3.5, **known),
        alone=PatchCascadeRecord(stages=[alone], saved=0.0, seconds=4.5, **known),
        identical=True,
        difference=0.0,
        cells=16,
    )
    return replace(found, **changes)


def measured(*slides, left_out=()):
    return measure_cascade(slides, {0: CHOSEN}, left_out=left_out, seed=0, bootstraps=50)


def test_patches_pixels_and_seconds_of_every_stage_are_summed_over_slides():
    found = measured(compared("A"), compared("B"))
    coarse, fine = found.stages
    assert (coarse.task, coarse.patches, coarse.computed, coarse.pixels, coarse.seconds) == ("coarse", 4, 4, 64, 2.0)
    assert (fine.task, fine.patches, fine.computed, fine.pixels, fine.seconds) == ("fine", 16, 8, 128, 4.0)
    assert (found.seconds_dense, found.seconds_cascade) == (9.0, 7.0)
    assert found.saved == pytest.approx(1 - 192 / 256)
    assert found.slides[0].tissue == 0.5


def test_a_metric_is_lost_where_a_rejected_patch_has_the_class():
    # The last patch has the class. Dense, all positives rank first; the cascade rejects it with the coarse score 0.2.
    slide = compared("A", fine=(0.1, 0.3, 0.9, 0.8, 0.1, 0.1, 0.1, 0.95), positive=(0, 0, 1, 1, 0, 0, 0, 1))
    found = measured(slide, compared("B"))
    assert found.metrics["auroc"].dense.value == 1.0
    # Scores: A 0.1 0.3 0.9 0.8 and four times 0.2; B 0.1 0.2 0.9 0.8 and four times 0.2. The positive at 0.2 beats the
    # two negatives at 0.1, ties with 3 + 5 and loses to 0.3: (2 + 8 / 2) / 11; the other four win against all 11.
    assert found.metrics["auroc"].cascade.value == pytest.approx((4 * 11 + 2 + 4) / 55)
    assert found.metrics["auroc"].lost.value == pytest.approx(1 - 50 / 55)
    assert found.slides[0].auroc_cascade == pytest.approx((2 * 5 + 1 + 3 / 2) / 15)


def test_the_intervals_of_what_is_lost_are_paired():
    found = measured(*(compared(name) for name in "ABCD"))
    lost = found.metrics["auroc"].lost
    assert (lost.value, lost.low, lost.high) == (0.0, 0.0, 0.0)


def test_slides_with_patches_of_one_kind_have_no_metrics():
    found = measured(compared("A", positive=(0,) * 8))
    assert found.metrics == {}
    assert found.slides[0].auroc_dense is None


def test_the_front_has_seconds_by_measured_time_per_patch():
    found = measured(compared("A"))
    half, alone = found.front
    assert (half.seconds, half.cost, half.chosen) == (pytest.approx(1.0 + 4 * 0.5), pytest.approx(0.75), True)
    assert (alone.seconds, alone.cost, alone.chosen) == (pytest.approx(8 * 0.5), 1.0, False)


def test_a_front_has_no_seconds_where_a_stage_was_never_run(tmp_path):
    slide = compared("A")
    dense = replace(slide, cascade=slide.alone)  # the search chose the finest stage alone
    chosen = msgspec.structs.replace(CHOSEN, chosen=ALONE)
    found = measure_cascade([dense], {0: chosen}, left_out=[], seed=0, bootstraps=50)
    assert [point.seconds for point in found.front] == [None, pytest.approx(8 * 0.5)]
    draw_seconds(found, tmp_path / "front.png")


def test_break_even_is_the_share_of_finest_patches_at_which_both_take_the_same_time():
    # Coarse stage and overhead take 1.5 s of the 4.5 s of the finest stage alone, whose 8 patches take 4 s.
    assert measured(compared("A")).break_even == pytest.approx((4.5 - 1.5) / 4.0)


def test_a_cascade_that_is_slower_than_its_finest_stage_is_reported_with_a_warning():
    slide = compared("A")
    slow = replace(slide, cascade=_slow(slide.cascade))
    assert measured(slide).remark is None
    assert "slower than its finest stage alone: 9 s instead of 4.5 s" in measured(slow).remark


def test_finest_patches_without_a_coarser_one_are_remarked_with_what_to_change():
    slide = compared("A")
    fine = slide.dense.stages[1]
    border = replace(fine, parent=np.array([0, 0, 0, 0, 1, 1, -1, -1]))
    slide = replace(slide, dense=replace(slide.dense, stages=[slide.dense.stages[0], border]))
    found = measured(slide, compared("B"))
    assert found.without_coarser == 2 / 16
    assert "12% of the finest patches are always computed" in found.remark
    assert "Lower min_tissue" in found.remark


def _slow(record):
    return PatchCascadeRecord(slide_id=record.slide_id, stages=record.stages, saved=record.saved, seconds=9.0)


def test_different_decisions_of_one_slide_are_stated():
    assert measured(compared("A")).simulated_identical
    assert not measured(compared("A"), compared("B", identical=False, difference=0.5)).simulated_identical


def test_the_report_shows_stages_losses_thresholds_and_pictures(tmp_path):
    layout = Layout(tmp_path)
    files = layout.patch_cascade("tumour")
    metrics = measured(compared("A"), compared("B"), left_out=["C"])
    metrics.write(files.metrics)
    CHOSEN.write(files.thresholds(0))
    draw_seconds(metrics, files.front)
    files.levels_view(0, "A").parent.mkdir(parents=True)
    for path in (files.pareto_front(0), files.levels_view(0, "A")):
        Image.new("RGB", (40, 30)).save(path)
    tasks = {name: {"grid": grid, "target": {"classes": ["tumour", "other"]}} for name, grid in STAGES.items()}
    config = {
        "annotations": {"classes": {"tumour": "tumour", "other": "other"}},
        "grids": {"x5": {"mpp": 2.0}, "x20": {"mpp": 0.5}},
        "tasks": tasks,
        "cascades": {"tumour": {"class_name": "tumour", "stages": ["coarse", "fine"]}},
    }
    shown = cascades_section(Config.model_validate(config), layout)
    assert "25.0% of the pixels are not read, on 2 test slides of 2 patients" in shown
    assert "Simulated and deployed decisions are identical" in shown
    texts = [part.split(">", 1)[1].split("</td>")[0] for part in shown.split("<td")[1:]]
    assert texts[texts.index("coarse") :][:6] == ["coarse", "4", "4", "4", "64", "2"]
    assert "1.000 (1.000 to 1.000)" in texts
    assert texts[texts.index("100.0%") :][:6] == ["100.0%", "8", "1", "–", "–", ""]
    assert "It pays while it computes less than 75.0% of the finest patches." in shown
    assert shown.count("<img") == 3


STAGES = {"coarse": "x5", "fine": "x20"}
