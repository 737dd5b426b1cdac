"""Files of features: their content, that a row depends only on its patch, and which job encodes a slide."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined
from histomake.config import Encoder, Grid
from histomake.features import sharing
from histomake.features.encoders import load_group
from histomake.features.extract import extract
from histomake.features.sharing import Work
from histomake.features.store import PLACES, read_features, rows_of
from histomake.learn.data.images import to_unit
from histomake.patch.blocks import block_order
from small_cohort import GRID_NAME, MPP, build_cohort, build_quarantined
from torch import nn

GRID = Grid(size=64, mpp=MPP)
CPU = torch.device("cpu")
NETWORK = {"grid": GRID_NAME, "name": "resnet10t", "weights": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def slides(root):
    return build_cohort(root, 3)


def group(**encoders):
    found = {name: Encoder(**NETWORK | values) for name, values in encoders.items()}
    return load_group(found, GRID, models={}, threads=1)


def encoded(encoders, entry, path, *, batch=16, threads=1):
    extract(encoders, entry, path, batch=batch, threads=threads, code="c", made_of="m")
    return read_features(path)


def test_every_kept_patch_has_a_row_in_the_order_of_the_table(slides, tmp_path):
    found = encoded(group(a={}), slides[0], tmp_path / "a.arrow")
    table = pq.read_table(slides[0].table)
    kept = table.filter([excluded == "" for excluded in table["excluded"].to_pylist()])
    assert 0 < len(found) < table.num_rows
    for name, _ in PLACES:
        assert np.array_equal(found.table[name].to_numpy(), kept[name].to_numpy())
    assert found.vectors("a").shape == (len(found), 512)
    assert found.vectors("a").dtype == np.float16


def test_the_header_says_what_the_features_are_made_of(slides, tmp_path):
    encoder = group(a={"pool": "mean"})[0]
    record = encoded([encoder], slides[0], tmp_path / "a.arrow").record
    assert record.sha256 == Manifest.read(slides[0].manifest).sha256
    assert (record.grid_name, record.mpp, record.code, record.made_of) == (GRID_NAME, MPP, "c", "m")
    (column,) = record.columns
    assert (column.encoder, column.fold, column.dimensions, column.dtype) == ("a", None, 512, "float16")
    assert column.card["pool"] == "mean"
    assert column.weights == encoder.column.weights
    assert len(column.identity) == 64


def test_vectors_are_those_of_the_patch_at_their_place(slides, tmp_path):
    from histomake.slide.reader import open_slide

    (encoder,) = group(a={"dtype": "float32"})
    found = encoded([encoder], slides[0], tmp_path / "a.arrow")
    row = len(found) // 2
    with open_slide(slides[0].manifest) as reader:
        pixels = reader.read(int(found.table["x"][row].as_py()), int(found.table["y"][row].as_py()), 64, MPP)
    assert np.array_equal(
        encoder.encode(to_unit(torch.from_numpy(pixels[None]), CPU)).numpy()[0], found.vectors("a")[row]
    )


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (7, 1), (64, 1), (16, 3)])
def test_rows_do_not_depend_on_batches_and_processes(batch, threads, slides, tmp_path):
    encoders = group(a={"dtype": "float32"}, b={"dtype": "float16"})
    expected = encoded(encoders, slides[0], tmp_path / "a.arrow")
    found = encoded(encoders, slides[0], tmp_path / "b.arrow", batch=batch, threads=threads)
    assert np.array_equal(found.vectors("a"), expected.vectors("a"))
    assert np.array_equal(found.vectors("b"), expected.vectors("b"))


def test_two_encoders_in_one_job_give_what_each_gives_alone(slides, tmp_path):
    both = {"a": {"dtype": "float32"}, "b": {"dtype": "float32", "stain": "macenko"}}
    together = encoded(group(**both), slides[0], tmp_path / "both.arrow")
    for name, values in both.items():
        alone = encoded(group(**{name: values}), slides[0], tmp_path / f"{name}.arrow")
        assert np.array_equal(alone.vectors(name), together.vectors(name))
    assert not np.allclose(together.vectors("a"), together.vectors("b"))


def test_the_mean_of_views_does_not_depend_on_the_orientation_of_the_patch(slides):
    (encoder,) = group(a={"views": "mean"})
    images = torch.rand(2, 3, 64, 64)
    turned = torch.rot90(images, 1, (2, 3)).flip(3)
    torch.testing.assert_close(encoder.encode(images), encoder.encode(turned), rtol=1e-4, atol=1e-4)


def test_patches_are_resized_to_the_size_of_the_encoder(slides):
    (encoder,) = group(a={"name": "vit_tiny_patch16_224", "size": 32})
    assert encoder.card.px == 32
    assert encoder.encode(torch.zeros(1, 3, 64, 64)).shape == (1, 192)


def test_a_slide_in_quarantine_has_a_file_with_the_same_columns_and_no_rows(root, slides, tmp_path):
    lost = build_quarantined(Layout(root), "lost", grid=GRID)
    encoders = group(a={})
    found = encoded(encoders, lost, tmp_path / "lost.arrow")
    assert isinstance(found.record, Quarantined)
    assert len(found) == 0
    assert found.table.schema.equals(encoded(encoders, slides[0], tmp_path / "a.arrow").table.schema)
    assert found.vectors("a").shape == (0, 512)


class Broken(nn.Module):
    """Features that are not finite for the sixth patch of a batch."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x):
        found = torch.zeros(len(x), 512)
        found[5] = self.value
        return found


@pytest.mark.parametrize(("value", "remedy"), [(float("nan"), "precision: fp32"), (1e6, "dtype: float32")])
def test_features_that_are_not_finite_stop_and_name_the_patch(value, remedy, slides, tmp_path):
    (encoder,) = group(a={})
    table = pq.read_table(slides[0].table, filters=[("excluded", "=", "")])
    sixth = int(block_order(table["x"].to_numpy(), table["y"].to_numpy(), 32)[5])
    x, y = table["x"][sixth].as_py(), table["y"][sixth].as_py()
    with pytest.raises(HistomakeError, match=rf"slide s0 patch at x={x} y={y}: .*encoders.a .*{remedy}"):
        encoded([replace(encoder, network=Broken(value))], slides[0], tmp_path / "a.arrow", batch=32)
    assert not (tmp_path / "a.arrow").exists()


def test_a_patch_that_cannot_be_read_stops_and_is_named(root, slides, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(root, broken)
    store = broken / "slides" / "s1.zarr"
    shard = max((p for p in store.rglob("*") if p.is_file() and p.suffix != ".json"), key=lambda p: p.stat().st_size)
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    entry = replace(slides[1], manifest=broken / "slides" / "s1.json")
    with pytest.raises(HistomakeError, match=r"slide s1 .*patch at x=\d+ y=\d+"):
        encoded(group(a={}), entry, tmp_path / "a.arrow")


def test_a_gpu_without_memory_is_an_error_that_names_the_batch_to_halve(slides, tmp_path):
    class Large(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    (encoder,) = group(a={})
    with pytest.raises(HistomakeError, match=r"batches of 16 patches: halve encoders.<name>.batch"):
        encoded([replace(encoder, network=Large())], slides[0], tmp_path / "a.arrow")


def test_vectors_are_views_of_the_mapped_file(slides, tmp_path):
    before = pa.total_allocated_bytes()
    found = encoded(group(a={}), slides[0], tmp_path / "a.arrow")
    vectors = found.vectors("a")
    assert not vectors.flags.owndata
    assert not vectors.flags.writeable
    assert pa.total_allocated_bytes() - before < vectors.nbytes


def test_duckdb_joins_features_with_the_patch_table(slides, tmp_path):
    found = encoded(group(a={}), slides[0], tmp_path / "a.arrow")
    features, patches = found.joinable(), str(slides[0].table)  # noqa: F841
    query = "SELECT count(*), avg(a[1]) FROM features JOIN read_parquet(?) USING (patch_id) WHERE tissue > 0.5"
    count, mean = duckdb.execute(query, [patches]).fetchone()
    assert count == len(found)
    assert mean == pytest.approx(found.vectors("a")[:, 0].astype(np.float64).mean(), abs=1e-5)


def test_rows_are_found_by_patch_and_a_patch_without_features_is_an_error(slides, tmp_path):
    found = encoded(group(a={}), slides[0], tmp_path / "a.arrow")
    chosen = found.patch_id[[4, 2]]
    assert rows_of(found, chosen, path="a").tolist() == [4, 2]
    with pytest.raises(HistomakeError, match="lacks patches of the patch table"):
        rows_of(found, np.array([found.patch_id.max() + 1], np.uint32), path="a")


def test_a_file_that_does_not_hold_features_is_an_error(tmp_path):
    (tmp_path / "a.arrow").write_bytes(b"nothing")
    with pytest.raises(HistomakeError, match="not a file of features"):
        read_features(tmp_path / "a.arrow")


def test_the_identity_follows_what_shapes_the_features_and_nothing_else():
    plain = group(a={})[0].column.identity
    assert group(b={"batch": 2, "group": "g"})[0].column.identity == plain
    changes = ({"pool": "mean"}, {"stain": "macenko"}, {"views": "mean"}, {"dtype": "float32"}, {"size": 96})
    others = {group(a=change)[0].column.identity for change in changes}
    assert len(others | {plain}) == len(changes) + 1


# --- several slides in one job ----------------------------------------------------------------------------------------

SHEET = ["s0", "s1", "s2"]


@pytest.fixture
def work(root, slides, tmp_path):
    for name in ("slides", "patches"):
        (tmp_path / name).symlink_to(root / name)
    return Work(Layout(tmp_path), "g", GRID_NAME, {"code": "c"})


def wait(work, slide, encoder, entry):
    made_of = work.made_of(slide)
    extract([encoder], entry, work.waiting(slide, made_of), batch=16, threads=1, code="c", made_of=made_of)
    return made_of


def test_a_job_goes_on_with_the_next_slides_of_the_sheet(work):
    assert [slide for slide, _ in work.further("s1", SHEET)] == ["s2", "s0"]


def test_a_job_stops_when_its_slides_have_many_patches(work, monkeypatch):
    monkeypatch.setattr(sharing, "FEW_PATCHES", 150)
    assert [slide for slide, _ in work.further("s0", SHEET)] == ["s1"]
    monkeypatch.setattr(sharing, "FEW_PATCHES", 60)
    assert list(work.further("s0", SHEET)) == []


def test_a_slide_that_has_a_job_or_features_is_not_encoded_by_another(work, slides):
    (encoder,) = group(a={})
    with work.running("s1"):
        assert [slide for slide, _ in work.further("s0", SHEET)] == ["s2"]
    assert [slide for slide, _ in work.further("s0", SHEET)] == ["s1", "s2"]
    made_of = wait(work, "s2", encoder, slides[2])
    assert [slide for slide, _ in work.further("s0", SHEET)] == ["s1"]
    assert work.take("s2", made_of)
    assert [slide for slide, _ in work.further("s0", SHEET)] == ["s1"]
    assert read_features(work.output("s2")).record.made_of == made_of


def test_features_of_other_inputs_are_not_taken(work, slides):
    (encoder,) = group(a={})
    made_of = wait(work, "s2", encoder, slides[2])
    changed = replace(work, settings={"code": "d"})
    assert changed.made_of("s2") != made_of
    assert not changed.take("s2", changed.made_of("s2"))
    assert not work.waiting("s2", made_of).exists()
    assert not work.output("s2").exists()


def test_a_slide_without_a_patch_table_yet_is_left_to_its_job(work):
    assert work.made_of("s9") is None
    assert [slide for slide, _ in work.further("s0", [*SHEET, "s9"])] == ["s1", "s2"]
