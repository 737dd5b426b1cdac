"""Features of other programs: every layout is read, files that do not fit are refused, and ours open elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.base.units import Mpp
from histomake.cli import main
from histomake.config import Encoder
from histomake.features.h5_files import PatchFile, read_h5, write_trident
from histomake.features.imported import import_slide, match
from histomake.features.store import read_features
from histomake.learn.data.patch_index import usable_patches
from histomake.patch.grid import SlideGrid
from small_cohort import CLASSES, GRID_NAME, build_cohort, build_quarantined
from small_cohort import MPP as SLIDE_MPP

DIMENSIONS = 6


@pytest.fixture
def cohort(tmp_path):
    """Two slides and one in quarantine; no features yet."""
    entries = build_cohort(tmp_path / "results", 2)
    layout = Layout(tmp_path / "results")
    return layout, [*entries, build_quarantined(layout, "lost", grid=grid_of(entries[0]).grid)]


def grid_of(entry) -> SlideGrid:
    return SlideGrid.of_table(usable_patches(entry)[1])


def places_of(entry) -> np.ndarray:
    table, _ = usable_patches(entry)
    return np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1).astype(np.int64)


def vectors_of(entry, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(places_of(entry)), DIMENSIONS)).astype(np.float32)


def imported(entry, folder: Path, **keys):
    encoder = Encoder(grid=GRID_NAME, name=f"h5:{folder}", **{"dtype": "float32", **keys})
    import_slide(encoder, entry, folder / "out.arrow", name="e", code="c", made_of="m")
    return read_features(folder / "out.arrow")


def write_h5(path: Path, names: tuple[str, str], vectors, coords, *, file_attrs=None, coords_attrs=None) -> None:
    """A file of another program, row by row in another order than the grid's."""
    order = np.random.default_rng(9).permutation(len(coords))
    with h5py.File(path, "w") as file:
        file[names[0]], file[names[1]] = vectors[order], np.asarray(coords)[order]
        file.attrs.update(file_attrs or {})
        file["coords"].attrs.update(coords_attrs or {})


def trident(path, entry, vectors, **changes):
    attrs = {"patch_size": 64, "patch_size_level0": 64, "level0_magnification": 10, "target_magnification": 10}
    write_h5(path, ("features", "coords"), vectors, places_of(entry), coords_attrs={**attrs, **changes})


def clam(path, entry, vectors):
    write_h5(path, ("features", "coords"), vectors, places_of(entry))


def stamp(path, entry, vectors, size="tile_size_um", **attrs):
    said = {"unit": "um", size: 64 * SLIDE_MPP, "extractor": "ctranspath", **attrs}
    um = (places_of(entry) * SLIDE_MPP).astype(np.float32)
    write_h5(path, ("feats", "coords"), vectors.astype(np.float16), um, file_attrs=said)


LAYOUTS = {
    "TRIDENT": trident,
    "CLAM": clam,
    "STAMP 2.1": stamp,
    "STAMP 2.0": lambda *given: stamp(*given, size="tile_size"),
}


@pytest.mark.parametrize("written", LAYOUTS.values(), ids=LAYOUTS)
def test_every_patch_gets_the_vector_at_its_place(written, cohort, tmp_path):
    entry = cohort[1][0]
    vectors = vectors_of(entry)
    written(tmp_path / "s0.h5", entry, vectors)
    found = imported(entry, tmp_path)
    assert (found.patch_id == usable_patches(entry)[0]["patch_id"].to_numpy()).all()
    assert np.allclose(found.vectors("e"), vectors, atol=2e-3 if "STAMP" in str(found.column("e").card) else 0)


def test_coordinates_of_stamp_1_have_no_unit_and_are_told_by_their_stride(tmp_path):
    coords = np.array([[0, 0], [224, 0], [0, 224], [448, 224]])
    write_h5(tmp_path / "s.h5", ("feats", "coords"), np.zeros((4, 2), np.float16), coords)
    found = read_h5(tmp_path / "s.h5")
    assert (found.layout, found.span, found.micrometres) == ("STAMP 1", 256.0, True)
    assert sorted(map(tuple, found.coords)) == [(0, 0), (0, 256), (256, 0), (512, 256)]


def test_a_stated_size_tells_files_of_stamp_whose_patches_are_far_apart(tmp_path):
    coords = np.array([[0, 0], [448, 448]])
    write_h5(
        tmp_path / "s.h5", ("feats", "coords"), np.zeros((2, 2), np.float16), coords, file_attrs={"tile_size": 224}
    )
    assert read_h5(tmp_path / "s.h5").layout == "STAMP 1"
    write_h5(tmp_path / "t.h5", ("feats", "coords"), np.zeros((2, 2)), coords, file_attrs={"tile_size_um": 448.0})
    assert (read_h5(tmp_path / "t.h5").layout, read_h5(tmp_path / "t.h5").span) == ("STAMP", 448.0)


def test_what_we_write_as_trident_is_read_with_the_same_rows_and_coordinates(cohort, tmp_path):
    entry = cohort[1][0]
    vectors = vectors_of(entry).astype(np.float16)
    write_trident(tmp_path / "s0.h5", places_of(entry), grid_of(entry), name="s0", vectors=vectors)
    found = read_h5(tmp_path / "s0.h5")
    assert (found.layout, found.span) == ("TRIDENT", 64)
    assert (found.coords == places_of(entry)).all()
    assert (found.vectors == vectors).all()
    assert (imported(entry, tmp_path, dtype="float16").vectors("e") == vectors).all()


def test_a_slide_in_quarantine_has_no_rows_and_needs_no_file(cohort, tmp_path):
    assert len(imported(cohort[1][-1], tmp_path)) == 0


def test_folders_of_two_encoders_have_different_identities(cohort, tmp_path):
    entry, seen = cohort[1][0], set()
    for name in ("uni", "virchow"):
        folder = tmp_path / name
        folder.mkdir()
        clam(folder / "s0.h5", entry, vectors_of(entry))
        seen.add(imported(entry, folder).column("e").identity)
    assert len(seen) == 2


# --- bad input ------------------------------------------------------------------------------------------------------


def refused(entry, folder: Path) -> str:
    with pytest.raises(HistomakeError) as error:
        imported(entry, folder)
    return str(error.value)


def test_coordinates_off_the_slide_are_refused(cohort, tmp_path):
    entry = cohort[1][0]
    write_h5(tmp_path / "s0.h5", ("features", "coords"), vectors_of(entry), places_of(entry) + 9000)
    assert "patches lie off the slide, the first at x=9" in refused(entry, tmp_path)


def test_coordinates_of_another_level_are_told(cohort, tmp_path):
    entry = cohort[1][0]
    write_h5(tmp_path / "s0.h5", ("features", "coords"), vectors_of(entry), places_of(entry) // 4)
    assert "its coordinates fit if multiplied by 4: they are of another level" in refused(entry, tmp_path)


def test_patches_of_another_size_are_refused(cohort, tmp_path):
    entry = cohort[1][0]
    trident(tmp_path / "s0.h5", entry, vectors_of(entry), patch_size_level0=128)
    assert "an edge of 128 level-0 pixels, those of the grid 64" in refused(entry, tmp_path)


def test_a_file_that_leaves_out_kept_patches_is_refused(cohort, tmp_path):
    entry = cohort[1][0]
    write_h5(tmp_path / "s0.h5", ("features", "coords"), vectors_of(entry)[:-3], places_of(entry)[:-3])
    assert "it has no vector for 3 of" in refused(entry, tmp_path)


def test_a_vector_that_is_not_finite_stops_with_its_patch(cohort, tmp_path):
    entry = cohort[1][0]
    vectors = vectors_of(entry)
    vectors[2, 1] = np.nan
    clam(tmp_path / "s0.h5", entry, vectors)
    x, y = places_of(entry)[2]
    assert f"slide s0 patch at x={x} y={y}: its vector in" in refused(entry, tmp_path)


def test_a_missing_file_is_named(cohort, tmp_path):
    assert "there is no" in refused(cohort[1][0], tmp_path)


def test_a_damaged_file_is_named(cohort, tmp_path):
    (tmp_path / "s0.h5").write_bytes(b"no hdf5")
    assert "s0.h5 is no HDF5 file" in refused(cohort[1][0], tmp_path)


def test_a_file_of_another_layout_is_refused_with_what_it_has(cohort, tmp_path):
    with h5py.File(tmp_path / "s0.h5", "w") as file:
        file["embeddings"] = np.zeros((3, 2))
    assert "has no dataset features and no coords, but embeddings" in refused(cohort[1][0], tmp_path)


def test_stamp_without_a_unit_is_refused(cohort, tmp_path):
    entry = cohort[1][0]
    write_h5(tmp_path / "s0.h5", ("feats", "coords"), vectors_of(entry), places_of(entry))
    assert "does not say the unit of its coordinates" in refused(entry, tmp_path)


def test_shapes_that_do_not_belong_together_are_refused(cohort, tmp_path):
    with h5py.File(tmp_path / "s0.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((3, 2)), np.zeros((4, 2))
    assert "features (3, 2) float64 and coords (4, 2)" in refused(cohort[1][0], tmp_path)


def test_keys_that_imported_features_ignore_are_refused():
    with pytest.raises(ValueError, match="pool, stain: h5: has features that are extracted already"):
        Encoder(grid="x20", name="h5:folder", pool="mean", stain="macenko")


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.fixture
def featured(cohort):
    """The cohort with features of an encoder `e`, and predictions of a task."""
    layout, entries = cohort
    for entry in entries:
        path = layout.features("e", entry.slide_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = layout.results / "given"
        folder.mkdir(exist_ok=True)
        if entry.slide_id != "lost":
            clam(folder / f"{entry.slide_id}.h5", entry, vectors_of(entry))
        encoder = Encoder(grid=GRID_NAME, name=f"h5:{folder}", dtype="float32")
        import_slide(encoder, entry, path, name="e", code="c", made_of="m")
    patches = usable_patches(entries[0])[0]["patch_id"][1:]
    count = len(patches)
    score = pa.array(np.linspace(0, 1, count).astype(np.float32))
    table = pa.table({"patch_id": patches, "score_speckled": score, "predicted": pa.array(["smooth"] * count)})
    path = layout.prediction("t", 0, "s0")
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)
    return layout, entries


def test_features_are_checked_by_command_and_the_exit_status_tells(cohort, tmp_path, capsys):
    layout, entries = cohort
    folder = tmp_path / "given"
    folder.mkdir()
    clam(folder / "s0.h5", entries[0], vectors_of(entries[0]))
    command = ["import-features", str(folder), "--grid", GRID_NAME, "--results", str(layout.results)]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "s0\tfits" in printed
    assert "s1\trefused\tthere is no" in printed
    clam(folder / "s1.h5", entries[1], vectors_of(entries[1]))
    assert main(command) == 0
    assert f'imported: {{grid: {GRID_NAME}, name: "h5:{folder}"}}' in capsys.readouterr().out


def test_exported_features_are_imported_again(featured, tmp_path, capsys):
    layout, entries = featured
    out = tmp_path / "exported"
    assert main(["export-features", str(out), "--encoder", "e", "--results", str(layout.results)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["s0.h5", "s1.h5"]
    assert (imported(entries[1], out).vectors("e") == vectors_of(entries[1])).all()


def test_exported_coordinates_are_the_kept_patches(featured, tmp_path, capsys):
    layout, entries = featured
    assert main(["export-features", str(tmp_path), "--coordinates", GRID_NAME, "--results", str(layout.results)]) == 0
    with h5py.File(tmp_path / "s0_patches.h5") as file:
        assert (file["coords"][:] == places_of(entries[0])).all()
        assert file["coords"].attrs["patch_size_level0"] == 64
        assert file["coords"].attrs["level0_magnification"] == file["coords"].attrs["target_magnification"] == 10
    assert "left out: " in capsys.readouterr().out  # the slide in quarantine


def test_anndata_opens_an_export_with_features_places_annotation_and_predictions(featured, tmp_path):
    layout, entries = featured
    options = ["--encoder", "e", "--format", "h5ad", "--slide", "s0", "--results", str(layout.results)]
    assert main(["export-features", str(tmp_path), *options]) == 0
    found = anndata.read_h5ad(tmp_path / "s0.h5ad")
    assert (vectors_of(entries[0]) == found.X).all()
    assert (found.obsm["spatial"] == places_of(entries[0]) + 32).all()
    table, _ = usable_patches(entries[0])
    for name in CLASSES:
        assert np.allclose(found.obs[f"area_{name}"], table[f"area_{name}"].to_numpy())
    scores = found.obs["t.fold0.score_speckled"].to_numpy()
    assert np.isnan(scores[0])
    assert np.allclose(scores[1:], np.linspace(0, 1, len(scores) - 1), atol=1e-6)
    assert found.uns["spatial"]["s0"]["scalefactors"]["spot_diameter_fullres"] == 64


def test_a_slide_without_features_is_not_exported(featured, tmp_path, capsys):
    layout, _ = featured
    options = ["--encoder", "e", "--slide", "nothing", "--results", str(layout.results)]
    assert main(["export-features", str(tmp_path), *options]) == 1
    assert "nothing to export of nothing" in capsys.readouterr().err


def test_patches_that_are_a_pixel_off_by_rounding_still_fit(cohort, tmp_path):
    entry = cohort[1][0]
    write_h5(tmp_path / "s0.h5", ("features", "coords"), vectors_of(entry), places_of(entry) + 1)
    assert (imported(entry, tmp_path).vectors("e") == vectors_of(entry)).all()


def test_micrometres_are_converted_with_the_slide_s_own_resolution(cohort, tmp_path):
    entry = cohort[1][0]
    fine = replace(grid_of(entry), mpp=Mpp(0.5), width=1024, height=1024)
    found = PatchFile("STAMP", vectors_of(entry), places_of(entry) * 1.0, micrometres=True, span=64.0)
    rows = match(found, fine, 2 * places_of(entry), path=tmp_path)
    assert (rows == np.arange(len(rows))).all()
