"""Search in features: the most similar patches of a cohort, and its prototypes."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.cli import main
from histomake.config import Encoder, Grid
from histomake.features import search
from histomake.features.encoders import load_group
from histomake.features.extract import extract
from histomake.features.search import FeatureCohort, prototypes, similar, unit
from PIL import Image
from small_cohort import GRID_NAME, MPP, build_cohort, build_quarantined

GRID = Grid(size=64, mpp=MPP)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohort")
    slides = [*build_cohort(root, 3), build_quarantined(Layout(root), "lost", grid=GRID)]
    ready = load_group({"a": Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}, GRID, models={}, threads=1)
    found = Layout(root)
    for entry in slides:
        path = found.features("a", entry.slide_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        extract(ready, entry, path, batch=32, threads=1, code="c", made_of="m")
    return found


@pytest.fixture
def cohort(layout):
    return FeatureCohort(layout, "a")


def everything(cohort):
    parts = [(slide, f.patch_id, unit(v)) for slide, f, v in cohort.slides()]
    names = [(slide, int(patch)) for slide, ids, _ in parts for patch in ids]
    return names, np.concatenate([vectors for _, _, vectors in parts])


@pytest.mark.parametrize("rows", [search.ROWS, 7])
def test_the_most_similar_patches_are_those_of_a_search_through_all(rows, cohort, monkeypatch):
    monkeypatch.setattr(search, "ROWS", rows)
    names, vectors = everything(cohort)
    slide, patch = names[40]
    cosine = vectors @ vectors[40]
    cosine[40] = -np.inf
    expected = [names[i] for i in np.argsort(-cosine, kind="stable")[:5]]
    found = similar(cohort, slide, patch, count=5)
    assert [(p.slide, p.patch_id) for p in found] == expected
    assert found[0].similarity == pytest.approx(cosine.max(), abs=1e-5)


def test_a_search_elsewhere_finds_patches_of_other_slides(cohort):
    found = similar(cohort, "s1", int(everything(cohort)[0][0][1]), count=200, elsewhere=True)
    assert {patch.slide for patch in found} == {"s0", "s2"}


def test_a_patch_without_features_is_named(cohort):
    with pytest.raises(HistomakeError, match="slide s0 has no features of patch 4000"):
        similar(cohort, "s0", 4000, count=3)
    with pytest.raises(HistomakeError, match="slide s9 has no features a"):
        similar(cohort, "s9", 0, count=3)


def test_an_encoder_without_features_is_an_error_that_lists_those_with_features(layout):
    with pytest.raises(HistomakeError, match=r"no features b; available: a"):
        FeatureCohort(layout, "b")


def test_prototypes_divide_all_patches_and_list_their_nearest_ones(cohort):
    found = prototypes(cohort, count=2, patches=4, seed=1)
    assert sum(group.share for group in found) == pytest.approx(1)
    assert found[0].share >= found[1].share
    names, vectors = everything(cohort)
    row = {name: i for i, name in enumerate(names)}
    first, second = ([row[p.slide, p.patch_id] for p in group.patches] for group in found)
    assert (vectors[first] @ vectors[first].T).mean() > (vectors[first] @ vectors[second].T).mean()
    assert found == prototypes(cohort, count=2, patches=4, seed=1)


def test_more_prototypes_than_patches_are_refused(cohort):
    with pytest.raises(HistomakeError, match="fewer than 10000 prototypes"):
        prototypes(cohort, count=10_000, patches=1, seed=0)


def test_the_command_lists_and_draws_similar_patches(layout, tmp_path, capsys):
    patch = str(everything(FeatureCohort(layout, "a"))[0][3][1])
    options = ["--encoder", "a", "--count", "3", "--results", str(layout.results)]
    assert main(["similar", "s0", patch, *options, "--picture", str(tmp_path / "a.png")]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("\t") == ["slide_id", "patch_id", "x", "y", "cosine"]
    assert len(lines) == 3
    assert Image.open(tmp_path / "a.png").size[0] > 300


def test_the_command_draws_every_prototype(layout, tmp_path, capsys):
    options = ["--encoder", "a", "--count", "2", "--results", str(layout.results)]
    assert main(["prototypes", *options, "--folder", str(tmp_path / "p")]) == 0
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "prototype_1.png",
        "prototype_2.png",
        "prototypes.tsv",
    ]
    assert len(capsys.readouterr().out.splitlines()) == 3
