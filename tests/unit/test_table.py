"""The patch table: a row for every cell, and the right reason for every excluded patch."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import shapely
from histomake.annotation.model import Annotation, LabelImage
from histomake.base.errors import Reason
from histomake.base.records.patch_table import PatchTableRecord
from histomake.config import Grid
from histomake.patch.grid import SlideGrid, too_coarse
from histomake.patch.table import METADATA_KEY, read_table
from histomake.patch.tabulate import empty_table, schema, tabulate, write_patch_table
from histomake.tissue.artefacts import BLUR, FOLD, PEN
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import sample_records

MPP, SCALE = 0.5, 16  # the masks' pixels are 16 level-0 pixels wide: 8 µm
MANIFEST = sample_records.manifest(width=4096, height=2048, mpp=MPP)
PLAIN = Grid(size=256, mpp=MPP)
TUMOUR = shapely.box(0, 0, 1024, 1024)


def masks(tissue=slice(None), **artefacts):
    """A slide whose columns (in mask pixels) are tissue or an artefact."""
    mask = np.zeros((128, 256), bool)
    mask[:, tissue] = True
    labels = np.zeros(mask.shape, np.uint8)
    for name, columns in artefacts.items():
        labels[:, columns] = {"pen": PEN, "blur": BLUR, "fold": FOLD}[name]
    return sample_records.tissue_mask(mask & (labels != PEN), SCALE), sample_records.artefact_map(labels)


def make(grid=PLAIN, annotation=None, class_names=(), max_share=0.5, **columns):
    tissue, artefacts = masks(**columns)
    annotation = annotation or Annotation((), [])
    return tabulate(MANIFEST, tissue, artefacts, annotation, grid, class_names, grid_name="x20", max_share=max_share)


def reasons(table):
    return np.array(table["excluded"].cast(pa.string()).to_pylist())


def test_every_cell_has_a_row_in_the_agreed_schema():
    table = make(class_names=["stroma", "tumor"])
    x, y = SlideGrid(4096, 2048, MPP, PLAIN).cells()
    assert table.schema.remove_metadata() == schema(["stroma", "tumor"])
    assert table["patch_id"].to_pylist() == list(range(128))
    np.testing.assert_array_equal(table["x"], x)
    np.testing.assert_array_equal(table["y"], y)


def coarse(mpp, **grid):
    manifest = sample_records.manifest(width=4096, height=2048, mpp=mpp)
    tissue, artefacts = masks()
    grid = Grid(size=256, mpp=0.5, **grid)
    return tabulate(manifest, tissue, artefacts, Annotation((), []), grid, (), grid_name="x20", max_share=0.5)


@pytest.mark.parametrize("mpp", [0.56, 1.0, 29.0])
def test_slides_coarser_than_the_grid_have_no_patches(mpp):
    """A slide of 29 µm per pixel gave 9,846 enlarged patches at 0.5."""
    assert set(reasons(coarse(mpp))) == {"too_coarse"}


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.55])
def test_slides_coarser_within_the_tolerance_have_patches(mpp):
    assert set(reasons(coarse(mpp))) <= {"", "background"}


def test_the_tolerance_for_coarse_slides_can_be_set():
    assert set(reasons(coarse(1.0, max_upsampling=2.0))) == {""}
    assert set(reasons(coarse(0.52, max_upsampling=1.0))) == {"too_coarse"}


def test_the_table_of_a_slide_that_is_too_coarse_says_why(tmp_path):
    write_patch_table(coarse(29.0), tmp_path / "t.parquet")
    _, record = read_table(tmp_path / "t.parquet")
    (warning,) = record.warnings
    assert "29 µm per pixel, 58 times as coarse as the grid (0.5; max_upsampling is 1.1)" in warning


def test_slides_that_are_too_coarse_are_named_for_every_grid():
    manifests = [sample_records.manifest(slide_id=name, mpp=mpp) for name, mpp in (("B", 1.0), ("A", 4.0))]
    grids = {"x5": Grid(mpp=2.0), "x20": Grid(mpp=0.5)}
    found = [(warning.slide_id, warning.about) for warning in too_coarse(manifests, grids)]
    assert found == [("A", "grid x5"), ("A", "grid x20"), ("B", "grid x20")]


def test_patches_with_too_little_tissue_are_background():
    table = make(tissue=slice(0, 24))  # one and a half columns of patches
    tissue = table["tissue"].to_numpy().reshape(8, 16)
    np.testing.assert_allclose(tissue[0, :3], [1, 0.5, 0])
    assert (reasons(table).reshape(8, 16)[0, :3] == ["", "", "background"]).all()


def test_exactly_the_required_tissue_is_enough():
    third = Grid(size=192, mpp=MPP, min_tissue=1 / 3)
    table = make(third, tissue=slice(0, 4))  # 64 of 192 pixels
    assert reasons(table)[0] == ""


@pytest.mark.parametrize("artefact", ["blur", "fold", "pen"])
def test_a_patch_mostly_under_an_artefact_is_excluded_for_it(artefact):
    table = make(**{artefact: slice(0, 25)})  # all of patch 0, nine sixteenths of patch 1
    assert (reasons(table).reshape(8, 16)[0, :3] == [artefact, artefact, ""]).all()


def test_the_artefact_share_is_of_the_patchs_tissue():
    half = make(tissue=slice(0, 8), blur=slice(0, 5))  # half the patch is tissue, five eighths of that blurred
    assert reasons(half)[0] == "blur"
    assert reasons(make(tissue=slice(0, 8), blur=slice(0, 4)))[0] == ""


def test_tissue_hidden_by_a_pen_is_excluded_for_the_pen_and_not_as_background():
    table = make(tissue=slice(0, 16), pen=slice(4, 16))
    assert table["tissue"][0].as_py() == 0.25
    assert reasons(table)[0] == "pen"


def test_a_patch_with_two_artefacts_gets_the_first_reason_in_order():
    tissue, artefacts = masks()
    artefacts.labels[:, :8], artefacts.labels[:, 8:16] = FOLD, BLUR
    table = tabulate(MANIFEST, tissue, artefacts, Annotation((), []), PLAIN, [], grid_name="x20", max_share=0.25)
    assert reasons(table)[0] == "fold"


@pytest.mark.parametrize(("border", "expected"), [("pad", ""), ("drop", "edge")])
def test_the_border_policy_decides_about_cells_over_the_edge(border, expected):
    grid = Grid(size=320, mpp=MPP, border=border, min_tissue=0.1)
    table = make(grid)  # 12.8 by 6.4 patches
    picture = reasons(table).reshape(7, 13)
    assert (picture[:-1, :-1] == "").all()
    assert (picture[-1] == expected).all()
    assert (picture[:, -1] == expected).all()


def test_patches_whose_centre_is_outside_the_region_of_interest_are_left_out():
    grid = Grid(size=256, mpp=MPP, roi=["tumor"])
    table = make(grid, Annotation(("tumor",), [("tumor", shapely.box(0, 0, 300, 2048))]), ["tumor"])
    assert (reasons(table).reshape(8, 16)[:, :3] == ["", "outside_roi", "outside_roi"]).all()


def test_areas_are_shares_of_the_patch_per_class():
    annotation = Annotation(("stroma", "tumor"), [("tumor", TUMOUR), ("stroma", shapely.box(0, 0, 128, 256))])
    table = make(Grid(size=512, mpp=MPP), annotation, ["stroma", "tumor"])
    stroma = 128 * 256 / 512**2  # the smaller region is on top
    np.testing.assert_allclose(table["area_tumor"].to_numpy()[:3], [1 - stroma, 1, 0])
    assert table["area_stroma"][0].as_py() == pytest.approx(stroma)


def test_rounded_areas_of_a_patch_sum_to_at_most_one():
    thirds = [(name, shapely.box(0, 512 * i / 3, 512, 512 * (i + 1) / 3)) for i, name in enumerate("abc")]
    sixths = [
        (name, shapely.box(512 + 512 * i / 6, 0, 512 + 512 * (i + 1) / 6, 512)) for i, name in enumerate("abcdef")
    ]
    table = make(Grid(size=512, mpp=MPP), Annotation(tuple("abcdef"), thirds + sixths), list("abcdef"))
    areas = np.stack([table[f"area_{name}"].to_numpy()[:2] for name in "abcdef"]).astype(np.float64)
    assert (areas.sum(axis=0) <= 1 + 1e-7).all()
    np.testing.assert_allclose(areas.sum(axis=0), 1, atol=2e-4)


def test_a_class_that_a_slide_lacks_is_zero_everywhere():
    table = make(annotation=Annotation(("tumor",), [("tumor", TUMOUR)]), class_names=["necrosis", "tumor"])
    assert not table["area_necrosis"].to_numpy().any()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(256, 0.5, None), (224, 1.0, 100), (300, 0.7, None), (64, 2.0, 48)]),
    st.sampled_from(["polygon", "mask"]),
)
def test_areas_agree_with_shapely_to_a_hundredth_of_a_patch(seed, walk, kind):
    size, mpp, stride = walk
    grid, rng = Grid(size=size, mpp=mpp, stride=stride), np.random.default_rng(seed)
    if kind == "polygon":
        points = rng.uniform(0, [4096, 2048], (rng.integers(3, 12), 2))
        truth = shapely.MultiPoint(points).convex_hull.buffer(50).intersection(shapely.box(0, 0, 4096, 2048))
        annotation = Annotation(("tumor",), [("tumor", truth)])
    else:
        values = (rng.random((16, 32)) > 0.6).astype(np.uint8)
        truth = shapely.union_all(
            [shapely.box(x * 128, y * 128, x * 128 + 128, y * 128 + 128) for y, x in np.argwhere(values)]
        )
        annotation = Annotation(("tumor",), [], LabelImage(values, 128))
    table = make(grid, annotation, ["tumor"])
    length = SlideGrid(4096, 2048, MPP, grid).span
    for row in rng.choice(table.num_rows, min(25, table.num_rows), replace=False):
        x, y = table["x"][row].as_py(), table["y"][row].as_py()
        expected = truth.intersection(shapely.box(x, y, x + length, y + length)).area / length**2
        assert table["area_tumor"][row].as_py() == pytest.approx(expected, abs=1e-4)


def test_bands_of_a_large_grid_join_without_a_seam(monkeypatch):
    annotation = Annotation(("tumor",), [("tumor", shapely.box(100, 100, 3000, 1500))])
    whole = make(annotation=annotation, class_names=["tumor"], tissue=slice(10, 200))
    monkeypatch.setattr("histomake.patch.tabulate.BAND_CELLS", 20)
    assert make(annotation=annotation, class_names=["tumor"], tissue=slice(10, 200)).equals(whole)


def test_the_file_carries_slide_grid_and_fingerprint(tmp_path):
    table = make(class_names=["tumor"], blur=slice(0, 16))
    write_patch_table(table, tmp_path / "s1.parquet")
    read, record = read_table(tmp_path / "s1.parquet")
    assert read.equals(table)
    assert reasons(read)[0] == "blur"
    for key in ("slide_id", "sha256", "width", "height", "mpp"):
        assert getattr(record, key) == getattr(MANIFEST, key)
    assert (record.grid, record.grid_name) == (PLAIN.dump(), "x20")


def test_a_quarantined_slide_has_an_empty_table_of_the_same_schema(tmp_path):
    outcome = sample_records.lost(reason=Reason.NO_TISSUE)
    write_patch_table(empty_table(outcome, ["tumor"]), tmp_path / "s1.parquet")
    table, record = read_table(tmp_path / "s1.parquet")
    assert table.num_rows == 0
    assert table.schema.remove_metadata() == make(class_names=["tumor"]).schema.remove_metadata()
    assert record == outcome


def square(x, y, edge, name="tumor"):
    return Annotation(("box", "tumor"), [(name, shapely.box(x, y, x + edge, y + edge))], None, RECORD)


RECORD = sample_records.annotation(class_names=("box", "tumor"), roi=("box",))


def warnings(annotation, manifest=MANIFEST, **columns):
    tissue, artefacts = masks(**columns)
    table = tabulate(manifest, tissue, artefacts, annotation, PLAIN, ["box", "tumor"], grid_name="x20", max_share=0.5)
    return PatchTableRecord.decode(table.schema.metadata[METADATA_KEY], "table").warnings


def test_an_annotation_on_tissue_needs_no_warning_and_a_box_may_lie_on_glass():
    assert warnings(square(0, 0, 512)) == ()
    assert warnings(square(256, 0, 512), tissue=slice(24, 256)) == ()  # three quarters of it on tissue
    assert warnings(square(0, 0, 512, "box"), tissue=slice(128, 256)) == ()
    assert warnings(Annotation((), [])) == ()


def test_an_annotation_on_glass_is_reported_with_the_shares():
    (said,) = warnings(square(0, 0, 512), tissue=slice(128, 256))
    assert "At most 0% of the annotated area lies on tissue, which covers 50% of the slide" in said
    assert "would" not in said


def test_the_unit_or_level_that_puts_an_annotation_on_tissue_is_reported():
    (said,) = warnings(square(1100, 100, 500), tissue=slice(128, 256))
    assert said.endswith("Read as µm, at 0.5 µm per pixel, 100% would.")
    finest = MANIFEST.levels[0]
    levels = (finest, msgspec.structs.replace(finest, path="1", downsample=16.0))
    (said,) = warnings(square(140, 10, 60), msgspec.structs.replace(MANIFEST, levels=levels), tissue=slice(128, 256))
    assert said.endswith("Read as pixels of level 1, 100% would.")


def test_a_mask_on_glass_is_reported():
    values = np.zeros((128, 256), np.uint8)
    values[:, :100] = 2
    (said,) = warnings(Annotation(("box", "tumor"), [], LabelImage(values, 16), RECORD), tissue=slice(90, 256))
    assert "At most 10% of the annotated area lies on tissue" in said
