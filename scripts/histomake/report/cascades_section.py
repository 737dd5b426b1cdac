"""Report section of cascades: evaluations saved, time, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping

from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.cascade_metrics import CascadeMetrics, ComparedGroup, Way
from histomake.base.records.cascade_thresholds import Parting, ThresholdsRecord
from histomake.base.records.patch_cascade import PatchCascadeRecord
from histomake.base.records.record import Quarantined
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


def cascades_section(config: Config, layout: Layout) -> Html:
    """Nucleus cascades with their savings, bars and level maps; cascades of classifiers with their savings."""
    parts = [_nuclei(layout, name) for name in config.radhical]
    parts += [_patches(layout, name) for name in config.patch_cascades]
    return page.section("RADHicaL", *parts) if parts else Html("")


def _nuclei(layout: Layout, name: str) -> Html:
    files = layout.cascade(name)
    metrics = CascadeMetrics.read(files.metrics)
    rows = []
    for group, found in metrics.groups.items():
        times = [found.seconds.naive, found.seconds.dense, found.seconds.cascade]
        rows.append([group, found.slides, page.percent(found.saved), page.percent(found.saved_in_tissue), *times])
    header = ["group", "slides", "evaluations saved", "inside tissue", "naive s", "dense s", "cascade s"]
    bars = [[bar.figure, bar.value, bar.bar, "yes" if bar.ok else "no"] for bar in metrics.bars]
    pictures = [
        page.picture(path, path.stem, width=1000) for path in existing(files.levels_view("*"), under=layout.results)
    ]
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
        page.folded("level maps by slide", *pictures),
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
    rows = []
    for path in existing(layout.patch_cascade_record(name, "*", "*"), under=layout.results):
        if not path.name.endswith(".meta.json"):
            record = PatchCascadeRecord.read(path)
            saved = None if isinstance(record, Quarantined) else page.percent(record.saved)
            rows.append([path.parent.name.removeprefix("fold"), record.slide_id, saved])
    return page.section(
        f"Patches: {name}", page.table(["fold", "slide", "pixels read, saved against the finest grid"], rows), level=3
    )
