"""The training cohort: what its file states of each slide, and the refusal of files that have changed since."""

from __future__ import annotations

import pytest
from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import Layout
from histomake.base.records.cohort import CohortSlide
from histomake.config import Grid
from histomake.learn.data.cohort import read_cohort
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from small_cohort import GRID_NAME, MPP, build_quarantined, build_slide
from test_damage_jobs import run

GRID = Grid(size=64, mpp=MPP)
ROLES = {"a": "train", "lost": "train", "b": "val"}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Results with the training cohort of three slides, of which one is in quarantine."""
    layout = Layout(tmp_path_factory.mktemp("results"))
    for number, slide in enumerate(("a", "b")):
        build_slide(layout, slide, seed=number, grid=GRID)
    build_quarantined(layout, "lost", grid=GRID)
    layout.annotation("lost").write_text("{}")
    slides = {role: [[s, f"patient-{s}", {}] for s in ROLES if ROLES[s] == role] for role in ("train", "val")}
    run(
        layout,
        "training_cohort",
        {"cohort": layout.training_cohort("t", 0)},
        params={"slides": slides, "readers": {}},
        wildcards={"task": "t", "fold": "0"},
        manifests=[layout.manifest(slide) for slide in ROLES],
        tables=[layout.table(GRID_NAME, slide) for slide in ROLES],
        annotations=[layout.annotation(slide) for slide in ROLES],
        vectors=[],
        readings=[],
    )
    return layout


def test_it_states_the_role_the_files_and_the_usable_patches_of_each_slide(layout):
    found = CohortSlide.read_list(layout.training_cohort("t", 0))
    assert {slide.slide_id: slide.role for slide in found} == ROLES
    for slide in found:
        entry = SlideEntry.at(layout, GRID_NAME, slide.slide_id, slide.patient_id, {})
        files = (entry.manifest, entry.table, layout.annotation(slide.slide_id))
        assert slide.digests == [sha256_file(file) for file in files]
        assert slide.patches == usable_patches(entry)[0].num_rows
    assert [slide.patches > 0 for slide in found] == [True, False, True]


def test_slides_are_read_by_role(layout):
    cohort = read_cohort(layout, layout.training_cohort("t", 0), grid=GRID_NAME)
    assert [entry.slide_id for entry in cohort.train] == ["a", "lost"]
    assert [entry.slide_id for entry in cohort.val] == ["b"]


@pytest.mark.parametrize("of", ["manifest", "annotation", "table"])
def test_a_file_that_the_cohort_was_not_made_of_is_refused_by_its_name(layout, of):
    path = layout.table(GRID_NAME, "a") if of == "table" else getattr(layout, of)("a")
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        with pytest.raises(HistomakeError, match="not the bytes that the training cohort was made of") as caught:
            read_cohort(layout, layout.training_cohort("t", 0), grid=GRID_NAME)
    finally:
        path.write_bytes(kept)
    assert str(path) in str(caught.value)
    assert str(layout.manifest("b")) not in str(caught.value)
