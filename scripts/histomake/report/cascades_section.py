"""Report section of cascades: evaluations saved, time, and accuracy."""

from __future__ import annotations

from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.cascade_metrics import CascadeMetrics
from histomake.base.records.cascade_thresholds import ThresholdsRecord
from histomake.base.records.patch_cascade import PatchCascadeRecord
from histomake.base.records.record import Quarantined
from histomake.config import Config
from histomake.report import page
from histomake.report.page import Html


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
    remark = ThresholdsRecord.read(files.thresholds).remark
    return page.section(
        f"Nuclei: {name}",
        page.tag("p", remark, class_="warn") if remark else "",
        page.tag(
            "p", "Share of pixel evaluations saved against a patch-wise network, and seconds for the whole group."
        ),
        page.table(header, rows),
        page.table(["figure", "measured", "bar", "met"], bars),
        page.picture(files.pareto_front, "Thresholds: cost against F on validation patients", width=620),
        page.folded("level maps by slide", *pictures),
        level=3,
    )


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
