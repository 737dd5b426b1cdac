"""Report section of stain transfers: realism and structures of virtual slides of held-out patients."""

from __future__ import annotations

from pathlib import Path

from histomake.base.layout import Layout
from histomake.base.records.transfer_measures import NucleiMatch, Realism, SlideStructure, TransferMeasures
from histomake.config import Config
from histomake.generate.realism_rows import ROWS
from histomake.generate.reference import METHODS
from histomake.generate.translate import direction_of
from histomake.report import page
from histomake.report.page import Html

ROW_TEXTS = {
    "untouched": "as scanned",
    "reinhard": "Reinhard",
    "macenko": "Macenko",
    "transfer": "in silico",
    "real": "other real slides",
}

MAP_PX = 1100
"""Width of a map on the page, in pixels."""


def transfers_section(config: Config, layout: Layout) -> Html:
    """Stain transfers by name under ``stain_transfers``; nothing if there are none."""
    parts = [
        _direction(layout.transfer(name).measures(direction), layout.transfer(name).invented(direction))
        for name, transfer in config.stain_transfers.items()
        for direction in map(direction_of, transfer.apply.sides)
        if layout.transfer(name).measures(direction).is_file()
    ]
    if not parts:
        return Html("")
    text = (
        "Slides in another stain are in silico: a generator may remove structures or invent them. These are measures "
        "on patients whose slides it has not learned from."
    )
    return page.section("Stain transfer", page.tag("p", text, class_="warn"), *parts, anchor="stain-transfer")


def _direction(measures: Path, invented: Path) -> Html:
    found = TransferMeasures.read(measures)
    lost = [[entry.slide_id, entry.stage, entry.detail, entry.remedy] for entry in found.left_out]
    caption = f"{found.transfer}, {found.direction}: invented nuclei per mm² of tissue on held-out slides, in silico"
    return page.section(
        f"{found.transfer}: {found.stains[0]} to {found.stains[1]}, in silico",
        *(page.tag("p", flag, class_="warn") for flag in found.flags),
        page.facts(_facts(found)),
        *_realism(found),
        _structures(found.structures),
        page.table(["slide", "stage", "problem", "remedy"], lost) if lost else "",
        page.picture(invented, caption, at_most=MAP_PX),
        level=3,
        anchor=f"stain-transfer-{found.transfer}-{found.direction}",
    )


def _facts(found: TransferMeasures) -> dict[str, object]:
    cycle = found.cycle
    return {
        "held-out slides": len(found.slides[0]),
        "their patients": len({s.patient_id for s in found.structures}),
        "real held-out slides with the wanted stain": len(found.slides[1]),
        "invented nuclei per mm²": found.invented_per_mm2,
        "invented nuclei, as share of those scanned": page.percent(_raw_share(found.structures, "invented")),
        "invented nuclei, beyond a normalisation's": _with_interval(found.invented_share, found.invented_interval),
        "lost nuclei, as share of those scanned": page.percent(_raw_share(found.structures, "lost")),
        "lost nuclei, beyond a normalisation's": _with_interval(found.lost_share, found.lost_interval),
        "there and back: structural similarity": None if cycle is None else cycle.ssim,
        "there and back: mean difference, grey levels": None if cycle is None else cycle.l1,
    }


def _with_interval(share: float | None, interval: tuple[float, float] | None) -> str | None:
    """A share with its interval by patients."""
    if share is None:
        return None
    if interval is None:
        return f"{share:.1%} (one patient: no interval)"
    return "{:.1%} (95 % interval by patients: {:.1%} to {:.1%})".format(share, *interval)


def _raw_share(structures: list[SlideStructure], what: str) -> float | None:
    """Invented or lost nuclei by those of the scanned slides, with nothing subtracted; None without nuclei."""
    nuclei = sum(s.nuclei for s in structures)
    changed = sum(getattr(s.transfer, what) for s in structures if s.transfer is not None)
    return float(changed / nuclei) if nuclei else None


def _realism(found: TransferMeasures) -> list[Html]:
    """Table of the distances from real patches, and what it says."""
    if found.encoder is None:
        return [page.tag("p", "Realism was not measured: measure.encoder names no encoder.")]
    rows = [[ROW_TEXTS[row], *_distances(found.realism[row])] for row in ROWS if row in found.realism]
    text = (
        f"Distance of patches from real ones, by the features of encoder {found.encoder.encoder}. In brackets: "
        "interval of 95 % by a bootstrap."
    )
    if any(measured.drawn == "patches" for measured in found.realism.values()):
        text += " Where a side has one patient, patches are drawn, and the interval is too narrow."
    header = ["patches", "number", "KID", "bootstrap of", "FID"]
    return [page.tag("p", text), page.table(header, rows)]


def _distances(found: Realism) -> list[object]:
    interval = "" if found.kid_interval is None else " ({:.3g} to {:.3g})".format(*found.kid_interval)
    return [found.images, f"{found.kid:.3g}{interval}", found.drawn, found.fid]


def _structures(structures: list[SlideStructure]) -> Html:
    header = ["slide", "patches", "haematoxylin, correlation", "nuclei before", "after", "Dice", "invented", "lost"]
    header += [f"{what}, {ROW_TEXTS[row]}" for row in METHODS for what in ("invented", "lost")]
    header += ["seam ratio", "change of glass, levels"]
    rows = [
        [
            s.slide_id,
            s.patches,
            s.haematoxylin_correlation,
            s.nuclei if s.transfer else None,
            *_match(s.transfer),
            *(getattr(getattr(s, row), what, None) for row in METHODS for what in ("invented", "lost")),
            s.seam_ratio,
            s.glass_change,
        ]
        for s in structures
    ]
    return page.table(header, rows)


def _match(found: NucleiMatch | None) -> list[object]:
    return [None] * 4 if found is None else [found.nuclei, found.dice, found.invented, found.lost]
