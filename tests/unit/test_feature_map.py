"""Maps of features: fitted once, kept as arrays, and new slides are placed into them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.config import Encoder, Grid, parse_config
from histomake.explain.embedding_page import mosaic, page
from histomake.explain.feature_map import FEWEST, FeatureMap, MappedSlide, draw_map, fit_map
from histomake.features.encoders import load_group
from histomake.features.extract import extract
from histomake.pictures.canvas import write_picture
from histomake.report import front_page
from small_cohort import GRID_NAME, MPP, build_cohort, build_quarantined

GRID = Grid(size=64, mpp=MPP)
FIT = {"patches": 60, "neighbours": 10, "seed": 1}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Four slides with features, and one in quarantine."""
    root = tmp_path_factory.mktemp("cohort")
    layout = Layout(root)
    entries = [*build_cohort(root, 4), build_quarantined(layout, "lost", grid=GRID)]
    ready = load_group({"a": Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}, GRID, models={}, threads=1)
    found = []
    for entry in entries:
        path = layout.features("a", entry.slide_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        extract(ready, entry, path, batch=32, threads=1, code="c", made_of="m")
        found.append(MappedSlide(entry, "north", path))
    return found


@pytest.fixture(scope="module")
def fitted(slides):
    return fit_map([*slides[:2], slides[-1]], "a", **FIT)


def groups(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (count, 32) of three groups that are far apart, and their groups."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, count)
    centres = 10 * np.random.default_rng(0).normal(size=(3, 32))
    return (centres[group] + rng.normal(size=(count, 32))).astype(np.float32), group


def of_vectors(vectors: np.ndarray) -> FeatureMap:
    """A map that was fitted to vectors."""
    from histomake.explain.embedding import lay_out

    mean = vectors.mean(axis=0)
    axes = np.linalg.svd(vectors - mean, full_matrices=False)[2][: min(20, len(vectors))]
    points = ((vectors - mean) @ axes.T).astype(np.float32)
    plane, space = lay_out(points, neighbours=10, seed=1)
    ids = np.arange(len(vectors))
    return FeatureMap("i", ("s",), 0 * ids, ids.astype(np.uint32), mean, axes, points, plane, space, 10, 1)


@pytest.mark.parametrize("count", [300, FEWEST - 2])
def test_a_map_that_was_kept_places_patches_as_it_did_before(count, tmp_path):
    before, (vectors, _) = of_vectors(groups(count, seed=1)[0]), groups(40, seed=2)
    before.write(tmp_path / "map.safetensors")
    after = FeatureMap.read(tmp_path / "map.safetensors")
    assert all((one == other).all() for one, other in zip(before.place(vectors), after.place(vectors), strict=True))


def test_new_patches_are_placed_among_those_that_look_like_them():
    vectors, group = groups(300, seed=1)
    kept = of_vectors(vectors)
    new, expected = groups(60, seed=2)
    for known, placed in zip((kept.plane, kept.space), kept.place(new), strict=True):
        near = np.linalg.norm(placed[:, None] - known[None], axis=2).argmin(axis=1)
        assert (group[near] == expected).all()


def test_fitted_patches_stay_where_the_map_has_them(fitted, slides):
    found = draw_map(fitted, slides, "a", patches=30, seed=1).table
    mine = found.filter([state == "fitted" for state in found["map"].to_pylist()])
    assert set(mine["slide_id"].to_pylist()) == {"s0", "s1"}
    assert (mine["umap2_x"].to_numpy() == fitted.plane[:, 0]).all()
    assert (mine["umap3_z"].to_numpy() == fitted.space[:, 2]).all()


def test_a_slide_lies_where_it_lies_whatever_else_is_placed(fitted, slides):
    alone = draw_map(fitted, slides[2:3], "a", patches=1000, seed=1).table
    both = draw_map(fitted, slides, "a", patches=1000, seed=1).table
    same = both.filter([slide == "s2" for slide in both["slide_id"].to_pylist()])
    assert same.num_rows > FEWEST
    for name in ("patch_id", "umap2_x", "umap2_y", "umap3_z"):
        assert same[name].to_pylist() == alone[name].to_pylist()


def test_the_page_and_the_mosaic_tell_fitted_patches_from_placed_ones(fitted, slides):
    found = draw_map(fitted, slides, "a", patches=20, seed=1)
    assert '"map":{"names":["fitted","placed"]' in page(found, title="map")
    assert mosaic(found, title="map").shape[2] == 3
    assert set(found.record.batch_effect) >= {"slide_id"}


def test_features_of_other_weights_do_not_fit_the_map(fitted, slides):
    with pytest.raises(HistomakeError, match="of other weights or settings than the map"):
        draw_map(replace(fitted, identity="other"), slides, "a", patches=10, seed=1)


def test_a_cohort_without_features_has_no_map(slides):
    with pytest.raises(HistomakeError, match="none of 1 slides has features a"):
        fit_map(slides[-1:], "a", **FIT)


def test_a_damaged_map_is_refused_by_its_name(tmp_path):
    path = tmp_path / "map.safetensors"
    path.write_bytes(b"no map")
    with pytest.raises(HistomakeError, match=r"map\.safetensors is no map of features"):
        FeatureMap.read(path)


def test_the_front_page_shows_the_map_and_links_to_its_page(fitted, slides, tmp_path):
    layout = Layout(tmp_path)
    files, found = layout.feature_map("a"), draw_map(fitted, slides, "a", patches=20, seed=1)
    files.folder.mkdir(parents=True)
    found.record.write(files.record)
    write_picture(mosaic(found, title="map"), files.mosaic)
    encoders = {"a": {"grid": "x20", "name": "resnet10t", "weights": False}}
    shown = {"grids": {"x20": {"mpp": 0.5}}, "encoders": encoders}
    text = str(front_page._feature_maps(parse_config({**shown, "explain": {"maps": ["a"]}}), layout))
    assert 'href="../maps/a/map.html"' in text
    assert "slide_id" in text
    assert str(front_page._feature_maps(parse_config(shown), layout)) == ""
