"""Agreement of readers: over the cohort for the front page, and of one slide for its page."""

from __future__ import annotations

from collections import defaultdict

import duckdb
import numpy as np

from histomake.annotation.agreement import cohen_kappa, dice
from histomake.base.records.consensus import CONSENSUS, ConsensusRecord
from histomake.report import page
from histomake.report.page import Html

EXPLAINED = (
    "Tissue, and what any reader annotated, is compared. Cohen's kappa counts the area without a class as a label; "
    "Dice is the overlap of a class."
)
QUERY = "SELECT reader, other, class, other_class, sum(area_mm2) FROM reader_pairs GROUP BY ALL ORDER BY ALL"


def readers_section(catalog: duckdb.DuckDBPyConnection) -> Html:
    """Agreement of each pair of readers over all slides that both have annotated; nothing without such slides."""
    slides = catalog.execute(
        "SELECT slide_id, readers, method, fleiss_kappa, undecided_mm2 FROM consensus ORDER BY fleiss_kappa, slide_id"
    ).fetchall()
    if not slides:
        return Html("")
    areas: defaultdict[tuple[str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    for reader, other, label, other_label, area in catalog.execute(QUERY).fetchall():
        areas[reader, other][label, other_label] = area
    counted = catalog.execute(
        "SELECT reader, other, count(DISTINCT slide_id) FROM reader_pairs GROUP BY ALL"
    ).fetchall()
    together = {(reader, other): n for reader, other, n in counted}
    names = sorted({label for found in areas.values() for labels in found for label in labels} - {""})
    rows = [[*pair, together[pair], *_measures(found, names)] for pair, found in sorted(areas.items(), key=_last)]
    header = ["reader", "other", "slides", "kappa", *(f"Dice {name}" for name in names)]
    listed = page.table(["slide", "readers", "consensus", "Fleiss' kappa", "undecided mm²"], slides)
    return page.section(
        "Readers",
        page.tag("p", f"{len(slides)} slide(s) have several readers. {EXPLAINED}"),
        page.table(header, rows),
        page.folded("slides, least agreement first", listed),
        anchor="readers",
    )


def _last(entry: tuple[tuple[str, str], object]) -> tuple[bool, tuple[str, str]]:
    """The consensus after all readers."""
    return entry[0][1] == CONSENSUS, entry[0]


def _measures(areas: dict[tuple[str, str], float], names: list[str]) -> list[float | None]:
    """Cohen's kappa, and the Dice coefficient of each class, from areas by two labels."""
    labels = ["", *names]
    confusion = np.array([[areas.get((one, other), 0.0) for other in labels] for one in labels])
    overlap = dice(confusion)[1:]
    return [cohen_kappa(confusion), *(None if np.isnan(value) else float(value) for value in overlap)]


def readers_of_slide(consensus: ConsensusRecord | None, *, mm2_per_px: float) -> Html:
    """The readers of a slide and their agreement; nothing if there are not several."""
    if consensus is None:
        return Html("")
    names = sorted({name for pair in consensus.pairs for name in pair.dice})
    rows = [[p.first, p.second, p.kappa, *(p.dice.get(name) for name in names)] for p in consensus.pairs]
    files = ", ".join(f"{one.reader} ({one.source})" for one in consensus.readers)
    kappa = "undefined" if consensus.fleiss_kappa is None else f"{consensus.fleiss_kappa:.3f}"
    text = (
        f"Annotated by {files}; consensus by {consensus.method}. Fleiss' kappa {kappa}; without a decision: "
        f"{consensus.undecided_px * mm2_per_px:.3g} mm². {EXPLAINED}"
    )
    table = page.table(["reader", "other", "kappa", *(f"Dice {name}" for name in names)], rows)
    return page.section("Readers", page.tag("p", text), table)
