"""What the report says of a task whose encoder sees only chosen patches."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from histomake.base.layout import Layout
from histomake.base.records.features import PatchChooser
from histomake.base.records.model_card import ModelCard
from histomake.report import page
from histomake.report.page import Html


def chosen_patches(
    name: str, grid: str, layout: Layout, folds: Sequence[int], catalog: duckdb.DuckDBPyConnection
) -> list[Html]:
    """Which patches the encoder of a task saw, and how many of them; nothing if it saw all."""
    path = layout.description(name, folds[0])
    features = ModelCard.read(path).features if path.is_file() else None
    if features is None or features.chooser is None:
        return []
    chosen, usable, _ = patches_seen(name, grid, catalog)
    share = f", {100 * chosen / usable:.1f} %" if usable else ""
    text = (
        f"Encoder {features.encoder} sees only the patches that task {features.chooser.task} chooses by "
        f"{_by(features.chooser)}: {_limits(features.chooser)}. Of the predicted slides these are {chosen:,} of "
        f"{usable:,} usable patches{share}. Training slides were reduced in the same way, by a model that has learned "
        "them itself."
    )
    return [page.tag("p", text)]


def patches_seen(name: str, grid: str, catalog: duckdb.DuckDBPyConnection) -> tuple[int, int, int]:
    """Patches in the bags of a task, usable patches of their slides, and the number of slides, over all folds."""
    return catalog.execute(
        f"SELECT coalesce(sum(b.patches), 0), coalesce(sum(k.patches), 0), count(*) FROM bags_{name} b JOIN "  # noqa: S608
        f"(SELECT slide_id, count(*) AS patches FROM patches_{grid}_kept GROUP BY slide_id) k USING (slide_id)"
    ).fetchall()[0]


def _by(chooser: PatchChooser) -> str:
    return "attention" if chooser.class_name is None else f"the score of {chooser.class_name}"


def _limits(chooser: PatchChooser) -> str:
    found = []
    if chooser.budget is not None:
        found.append(f"at most {100 * chooser.budget:g} % of a slide")
    if chooser.most is not None:
        found.append(f"at most {chooser.most:,} of a slide")
    if chooser.least_score is not None:
        found.append(f"those of a score of at least {chooser.least_score:g}")
    return ", ".join(found)
