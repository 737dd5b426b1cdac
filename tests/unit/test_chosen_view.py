"""Panels of the patches that an encoder sees: the scores that chose them, and the chosen patches."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from histomake.base.records.features import FeatureColumn, PatchChooser
from histomake.config import Grid
from histomake.pictures import canvas, panel
from histomake.pictures.chosen_view import chosen, chosen_scores
from histomake.pictures.findings import ChoosingScores, SlideFindings
from test_views import MPP, WhiteSlide, blended, findings, share

from tests.sample_records import patch_table

COARSE = Grid(size=64, mpp=4.0)  # 512 px of level 0; the patches of the findings have 256
SCORES = np.array([1.0, 0.25])


def chosen_findings(class_name: str | None) -> SlideFindings:
    """Three patches of the first row, below two coarser ones."""
    found = findings("classification", {"score_skin": [0.5] * 3, "score_nuclei": [0.5] * 3, "percentile": [1.0] * 3})
    limits = {"budget": 0.1, "most": None, "least_score": None}
    column = FeatureColumn(
        encoder="fine",
        fold=0,
        identity="i",
        weights="w",
        dimensions=8,
        dtype="float16",
        settings={},
        card={},
        chooser=PatchChooser(task="coarse", weights="w", class_name=class_name, **limits),
    )
    name = "percentile" if class_name is None else f"score_{class_name}"
    places = {"x": pa.array([0, 512], pa.int32()), "y": pa.array([0, 0], pa.int32())}
    record = patch_table("S", width=WhiteSlide.width, height=WhiteSlide.height, mpp=MPP, grid=COARSE)
    choosing = ChoosingScores(record, pa.table({**places, name: pa.array(SCORES, pa.float32())}))
    return replace(found, model=msgspec.structs.replace(found.model, features=column), choosing=choosing)


def test_a_chosen_patch_has_the_score_of_the_coarser_patch_around_it():
    found = chosen_findings("nuclei")
    assert chosen_scores(found, found.choosing, SCORES).tolist() == [1.0, 1.0, 0.25]


@pytest.mark.parametrize("class_name", ["nuclei", None])
def test_all_scores_and_the_chosen_patches_are_drawn_at_their_places(class_name):
    found = chosen_findings(class_name)
    scores, patches = chosen(found, canvas.thumbnail(found.reader, 4.0))
    highest = blended(tuple(canvas.score_colours(np.array([1.0]))[0].tolist()), panel.SCORE_OPACITY)
    # A coarse patch has the area of four patches, of which two are chosen.
    assert share(scores, highest) / share(patches, highest) == pytest.approx(2, rel=0.15)


def test_nothing_is_drawn_if_the_encoder_sees_all_patches():
    found = findings("classification", {"score_skin": [0.5], "score_nuclei": [0.5], "percentile": [1.0]})
    assert chosen(found, canvas.thumbnail(found.reader, 4.0)) == []
