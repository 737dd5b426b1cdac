"""Report section of cascades: evaluations saved, time, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from histomake.base.files import existing
from histomake.base.layout import Layout, PatchCascadeFiles
from histomake.base.records.cascade_metrics import CascadeMetrics, ComparedGroup, Way
from histomake.base.records.cascade_thresholds import Parting, ThresholdsRecord
from histomake.base.records.metrics import MetricValue
from histomake.base.records.patch_cascade_metrics import FrontPoint, PatchCascadeMetrics
from histomake.base.records.patch_thresholds import PatchThresholdsRecord
from histomake.config import Config
from histomake.report import page
from histomake.report.page import Html

WAYS: dict[Way, str] = {"dense": "dense network", "cascade": "cascade", "otsu": "Otsu + watershed"}
SCORES = {
    "pixel_f": "F of pixels",
    "f": "F of nuclei (RADHicaL)",
    "tpr": "TPR",
    "ppv": "PPV",
    "detected": "detected",
    "object_f1": "F of objects, IoU 0.5",
    "aji": "AJI",
    "pq": "PQ",
    "count_error": "count error",
}
"""Fields of the scores, and their columns."""

MOST = 20
"""Slides of a cascade whose pictures are in the report. The page of each slide has its own."""

METRICS = {"auroc": "AUROC", "average_precision": "average precision"}
"""Metrics of patches, as texts."""


def cascades_section(config: Config, layout: Layout) -> Html:
    """Nucleus cascades with savings, bars and level maps; cascades of patch classifiers with cost and loss."""
    parts = [_nuclei(layout, name) for name in config.radhical]
    parts += [_patches(layout, name) for name in config.cascades]
    return page.section("Cascades", *parts) if parts else Html("")


def _nuclei(layout: Layout, name: str) -> Html:
    files = layout.cascade(name)
    metrics = CascadeMetrics.read(files.metrics)
    rows = []
    for group, found in metrics.groups.items():
        times = [found.seconds.naive, found.seconds.dense, found.seconds.cascade]
        rows.append([group, found.slides, page.percent(found.saved), page.percent(found.saved_in_tissue), *times])
    header = ["group", "slides", "evaluations saved", "inside tissue", "naive s", "dense s", "cascade s"]
    bars = [[bar.figure, bar.value, bar.bar, "yes" if bar.ok else "no"] for bar in metrics.bars]
    chosen = ThresholdsRecord.read(files.thresholds)
    remark = chosen.remark
    return page.section(
        f"Nuclei: {name}",
        page.tag("p", remark, class_="warn") if remark else "",
        page.tag(
            "p", "Share of pixel evaluations saved against a patch-wise network, and seconds for the whole group."
        ),
        page.table(header, rows),
        _scores(metrics.groups),
        _parting(chosen.parting),
        page.table(["figure", "measured", "bar", "met"], bars),
        page.picture(files.pareto_front, "Thresholds: cost against F on validation patients", width=620),
        _pictures("level maps by slide", files.levels_view("*"), layout),
        level=3,
    )


def _scores(groups: Mapping[str, ComparedGroup]) -> Html:
    """Table of the scores of each group and way; nothing without annotated nuclei."""
    rows = [
        [name, WAYS[way], group.patients, *(getattr(scores, field) for field in SCORES)]
        for name, group in groups.items()
        for way, scores in group.scores.items()
    ]
    if not rows:
        return Html("")
    text = "Scores of nuclei, as means over the slides of a patient, then over patients. All ways are parted alike."
    return page.join([page.tag("p", text), page.table(["group", "found by", "patients", *SCORES.values()], rows)])


def _parting(parting: Parting) -> Html:
    neck = "are not parted" if parting.neck_um is None else f"are parted with neck_um {parting.neck_um:g}"
    header = ["neck_um", "F of objects, IoU 0.5", "PQ", "F of nuclei", "count error"]
    rows = [[trial.neck_um, trial.object_f1, trial.pq, trial.f, trial.count_error] for trial in parting.tried]
    tried = page.folded("partings tried on validation patients", page.table(header, rows)) if rows else ""
    return page.join([page.tag("p", f"Touching nuclei {neck}."), tried])


def _patches(layout: Layout, name: str) -> Html:
    """What a cascade of patch classifiers reads, takes and loses, and how its thresholds were chosen."""
    files = layout.patch_cascade(name)
    found = existing(files.thresholds("*"), under=layout.results)
    chosen = {fold: PatchThresholdsRecord.read(path) for fold, path in enumerate(found)}
    remarks = [record.remark for record in chosen.values() if record.remark]
    parts = [page.tag("p", remark, class_="warn") for remark in dict.fromkeys(remarks)]
    if files.metrics.exists():
        parts += _compared_patches(PatchCascadeMetrics.read(files.metrics), files)
    rows = [
        [fold, task, *limits, record.rule]
        for fold, record in chosen.items()
        for task, *limits in zip(_undecided(record), record.chosen.lower, record.chosen.upper, strict=True)
    ]
    if rows:
        parts.append(page.table(["fold", "stage", "computed from", "accepted from", "chosen by"], rows))
    parts += [page.picture(files.pareto_front(fold), f"Thresholds of fold {fold}", width=620) for fold in chosen]
    parts.append(_pictures("stages by slide", files.levels_view("*", "*"), layout))
    return page.section(f"Patches: {name}", *parts, level=3)


def _pictures(title: str, pattern: Path, layout: Layout) -> Html:
    """Pictures of the first slides, folded; ``pattern``: path of a picture, in which ``*`` stands for any name."""
    found = existing(pattern, under=layout.results)
    text = f"The first {MOST} of {len(found):,} pictures; those of the other slides are on their pages."
    more = page.tag("p", text) if len(found) > MOST else ""
    return page.folded(title, more, *(page.picture(path, path.stem, width=1000) for path in found[:MOST]))


def _undecided(record: PatchThresholdsRecord) -> list[str]:
    """Stages that have thresholds."""
    used = record.stages[len(record.stages) - len(record.chosen.lower) - 1 :]
    return used[:-1]


def _compared_patches(metrics: PatchCascadeMetrics, files: PatchCascadeFiles) -> list[Html]:
    stages = [[s.task, s.mpp, s.patches, s.computed, s.pixels, s.seconds] for s in metrics.stages]
    stages.append(["whole cascade", None, None, None, sum(s.pixels for s in metrics.stages), metrics.seconds_cascade])
    stages.append(["finest stage alone", None, None, None, None, metrics.seconds_dense])
    lost = [
        [METRICS[name], *map(_with_interval, (found.dense, found.cascade, found.lost))]
        for name, found in metrics.metrics.items()
    ]
    slower = [slide for slide in metrics.slides if slide.seconds_cascade > slide.seconds_dense]
    even = "" if metrics.break_even is None else f" It pays while it computes less than {_share(metrics.break_even)}."
    same = "are identical" if metrics.simulated_identical else "differ on some slides, see slides.csv"
    parts = [page.tag("p", metrics.remark, class_="warn")] if metrics.remark else []
    parts.append(
        page.tag(
            "p",
            f"{page.percent(metrics.saved)} of the pixels are not read, on {len(metrics.slides)} test slides of "
            f"{metrics.patients} patients.{even} It is slower than its finest stage alone on {len(slower)} slide(s)"
            + (f", of at most {max(slide.patches for slide in slower):,} finest patches." if slower else ".")
            + f" Simulated and deployed decisions {same}.",
        )
    )
    parts.append(page.table(["stage", "µm/px", "patches", "computed", "pixels read", "seconds"], stages))
    if lost:
        parts.append(page.table(["metric of patches", "finest stage alone", "cascade", "lost"], lost))
    front = [
        [page.percent(point.cost), point.seconds, point.auroc, *_limits(point), "yes" if point.chosen else ""]
        for point in metrics.front
    ]
    header = ["pixels read", "seconds", "AUROC", "computed from", "accepted from", "chosen"]
    return [
        *parts,
        page.picture(files.front, "Seconds against AUROC on the test slides", width=620),
        page.folded("front of thresholds on the test slides", page.table(header, front)),
    ]


def _share(share: float) -> str:
    return f"{page.percent(share)} of the finest patches"


def _limits(point: FrontPoint) -> list[str]:
    """Thresholds of all stages, coarsest first; none for the finest stage alone."""
    return [", ".join(f"{value:.3g}" for value in values) or "–" for values in (point.lower, point.upper)]


def _with_interval(value: MetricValue) -> str:
    if value.value is None:
        return "not defined"
    limits = "" if value.low is None or value.high is None else f" ({value.low:.3f} to {value.high:.3f})"
    return f"{value.value:.3f}{limits}"
