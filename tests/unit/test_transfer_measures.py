"""Measures of stain transfers on held-out slides: reference rows, planted nuclei, records, pages and tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from histomake.base.errors import ConfigError
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest, VirtualStain
from histomake.base.records.transfer_measures import TransferMeasures
from histomake.base.units import Mpp
from histomake.catalog.transfers import transfer_tables
from histomake.config import Convert, Encoder, Grid, StainTransfer, parse_config
from histomake.features.encoders import load_group
from histomake.generate.held_out import HeldOut, OpenPair, shares
from histomake.generate.lattice import SlideLattice
from histomake.generate.measures import measure_transfer
from histomake.generate.realism_rows import ROWS, unrealistic
from histomake.generate.store import write_virtual_slide
from histomake.generate.training import train_transfer
from histomake.pictures.canvas import write_picture
from histomake.pictures.invented_map import invented_map
from histomake.report.transfers_section import transfers_section
from histomake.slide.reader import open_slide
from skimage.draw import disk
from small_cohort import build_cohort, build_quarantined
from test_transfer_training import SMALL

from tests import sample_records

EDGE = 512


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return build_cohort(tmp_path_factory.mktemp("cohort"), 6)


@pytest.fixture(scope="module")
def model(slides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    places = {"output": folder / "model", "state": folder / "state", "seed": 1, "threads": 1}
    train_transfer(StainTransfer.model_validate(SMALL), source=slides[:2], target=slides[2:4], **places)
    return folder / "model"


@pytest.fixture(scope="module")
def encoder():
    settings = Encoder(grid="tiny", name="resnet10t", weights=False, size=64)
    return load_group({"small": settings}, Grid(size=64, mpp=1.0), models={}, threads=1)[0]


def bluer(pixels: np.ndarray) -> np.ndarray:
    """The same tissue in other colours."""
    return (pixels * (0.85, 0.9, 1.0)).astype(np.uint8)


def planted(pixels: np.ndarray) -> np.ndarray:
    """Other colours, and dark nuclei 10 px wide in the pale part of the painted slide."""
    changed = pixels.copy()
    for y in range(16, EDGE, 24):
        for x in range(72, EDGE, 24):
            changed[disk((y, x), 5, shape=changed.shape[:2])] = (70, 40, 120)
    return bluer(changed)


def held_out(entry, change, folder) -> HeldOut:
    """A slide whose virtual slide is a function of its pixels."""
    files, mask = Layout(folder).transfer("he_pas"), np.ones((EDGE // 16,) * 2, bool)
    mask[:, : mask.shape[1] // 8] = False
    tissue = sample_records.tissue_mask(mask, 16)
    tissue.save(folder / f"{entry.slide_id}.png", folder / f"{entry.slide_id}.json")
    with open_slide(entry.manifest) as reader:
        lattice = SlideLattice(reader, Mpp(1.0))
        changed = change(lattice.read(0, 0, EDGE, EDGE))
        manifest = write_virtual_slide(
            lambda x, y, width, height: changed[y : y + height, x : x + width],
            lattice,
            Manifest.read_usable(entry.manifest),
            files.store(entry.slide_id).parent,
            config=Convert(codec="zstd", shard_px=512),
            virtual=VirtualStain(transfer="he_pas", stains=("HE", "PAS"), weights_sha256=None),
        )
    manifest.write(files.manifest(entry.slide_id))
    places = folder / f"{entry.slide_id}.png", folder / f"{entry.slide_id}.json"
    return HeldOut(entry, files.manifest(entry.slide_id), *places)


def measured(slides, model, held, encoder=None, **changes):
    given = {"held_out": held, "real": slides[5:], "reference": slides[2:4], "encoder": encoder}
    given |= {"name": "he_pas", "side": 0, "patches": 40, "seed": 1, "threads": 1}
    return measure_transfer(model, **given | changes)


def test_a_planted_hallucination_is_flagged_and_drawn(slides, model, tmp_path):
    held = [held_out(slides[4], planted, tmp_path)]
    found = measured(slides, model, held)
    assert found.record.invented_share > 0.1
    assert found.record.invented_per_mm2 > 100
    assert any("invents" in flag for flag in found.record.flags)
    picture = invented_map(found.record, held, found.invented)
    assert picture.shape[1] > 3 * EDGE


def test_a_change_of_colours_alone_is_not_flagged(slides, model, tmp_path):
    found = measured(slides, model, [held_out(slides[4], bluer, tmp_path)]).record
    assert found.invented_share < 0.05
    assert found.lost_share < 0.05
    assert found.flags == []
    assert found.structures[0].haematoxylin_correlation > 0.9


def test_lost_nuclei_are_flagged(slides, model, tmp_path):
    def emptied(pixels):
        changed = bluer(pixels)
        changed[: EDGE // 2] = (170, 135, 190)
        return changed

    found = measured(slides, model, [held_out(slides[4], emptied, tmp_path)]).record
    assert found.lost_share > 0.1
    assert any("loses" in flag for flag in found.flags)


def test_realism_has_all_reference_rows(slides, model, encoder, tmp_path):
    held = [held_out(slides[4], bluer, tmp_path)]
    found = measured(slides, model, held, encoder, real=slides[2:4]).record
    assert tuple(found.realism) == ROWS
    assert found.encoder.encoder == "small"
    assert {row.drawn for row in found.realism.values()} == {"patches"}
    untouched, real = found.realism["untouched"], found.realism["real"]
    assert untouched.kid_interval[0] <= untouched.kid <= untouched.kid_interval[1]
    assert found.realism["transfer"].kid > real.kid


def test_the_bootstrap_draws_patients_where_both_sides_have_several(slides, model, encoder, tmp_path):
    held = [held_out(slides[n], bluer, tmp_path) for n in (0, 4)]
    record = measured(slides, model, held, encoder, real=slides[2:4]).record
    assert (record.realism["transfer"].drawn, record.realism["real"].drawn) == ("patients", "patches")
    low, high = record.invented_interval
    assert low <= record.invented_share <= high


def test_without_an_encoder_realism_is_not_measured(slides, model, tmp_path):
    found = measured(slides, model, [held_out(slides[4], bluer, tmp_path)]).record
    assert (found.encoder, found.realism) == (None, {})
    assert found.cycle.patches > 0
    assert 0 < found.cycle.ssim <= 1


def test_a_slide_that_cannot_be_used_is_left_out_and_named(slides, model, tmp_path):
    lost = build_quarantined(Layout(tmp_path / "lost"), "gone", grid=Grid(size=64, mpp=1.0))
    held = held_out(slides[4], bluer, tmp_path)
    found = measured(slides, model, [replace(held, entry=lost), held]).record
    assert [entry.slide_id for entry in found.left_out] == ["gone"]
    assert found.slides[0] == ["s4"]


def test_without_a_usable_slide_nothing_is_claimed(slides, model, tmp_path):
    lost = build_quarantined(Layout(tmp_path / "lost"), "gone", grid=Grid(size=64, mpp=1.0))
    held = [replace(held_out(slides[4], bluer, tmp_path), entry=lost)]
    found = measured(slides, model, held)
    assert (found.record.invented_share, found.record.cycle, found.record.flags) == (None, None, [])
    assert invented_map(found.record, held, found.invented).shape[2] == 3


def test_patches_before_and_after_show_the_same_place(slides, tmp_path):
    pair = OpenPair(held_out(slides[4], lambda pixels: pixels, tmp_path), Mpp(1.0), size=64, most=10)
    for window in pair.windows():
        assert np.array_equal(window.before, window.after)
    assert len(pair.boxes) == 10


@pytest.mark.parametrize(("count", "slides_", "expected"), [(7, 3, [3, 2, 2]), (2, 3, [1, 1, 1]), (5, 0, [])])
def test_slides_share_the_patches(count, slides_, expected):
    assert shares(count, slides_) == expected


def test_a_transfer_no_better_than_a_normalisation_is_flagged(slides, model, encoder, tmp_path):
    rows = measured(slides, model, [held_out(slides[4], planted, tmp_path)], encoder).record.realism
    assert "learned nothing" in unrealistic(("HE", "PAS"), rows)[0]
    assert unrealistic(("HE", "PAS"), {}) == []


def test_page_and_tables_show_the_measures(slides, model, encoder, tmp_path):
    held = [held_out(slides[4], planted, tmp_path)]
    found = measured(slides, model, held, encoder)
    files = Layout(tmp_path).transfer("he_pas")
    found.record.write(files.measures("forward"))
    write_picture(invented_map(found.record, held, found.invented), files.invented("forward"))
    config = parse_config({"grids": {"tiny": {"size": 64}}, "stain_transfers": {"he_pas": SMALL}})
    page = transfers_section(config, Layout(tmp_path))
    assert page.count("in silico") >= 2
    assert found.record.flags[0].partition(":")[0] in page
    tables = transfer_tables([files.measures("forward")])
    (row,) = tables["transfers"].to_pylist()
    assert (row["transfer"], row["direction"], row["stain"], row["flags"]) == (
        "he_pas",
        "forward",
        "HE",
        len(found.record.flags),
    )
    assert (row["invented_share"], row["cycle_ssim"]) == (found.record.invented_share, found.record.cycle.ssim)
    assert (row["invented_low"], row["invented_high"]) == (None, None)
    assert tables["transfer_realism"]["patches_of"].to_pylist() == sorted(ROWS)
    (structure,) = found.record.structures
    counted = structure.transfer.invented
    assert f"{counted / structure.nuclei:.1%}" in page
    assert "one patient: no interval" in page
    assert tables["transfer_structures"]["transfer_invented"].to_pylist() == [counted]
    assert TransferMeasures.read(files.measures("forward")).structures == found.record.structures


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ({"grid": "other", "name": "resnet10t", "weights": False}, "has grid other; take an encoder of grid tiny"),
        ({"grid": "tiny", "name": "h5:features"}, "cannot encode virtual slides"),
        (None, "'small' is not under encoders"),
    ],
)
def test_an_encoder_that_cannot_measure_is_refused(encoder, told):
    raw = {"grids": {"tiny": {"size": 64}, "other": {"size": 64}}}
    raw |= {"encoders": {} if encoder is None else {"small": encoder}}
    raw["stain_transfers"] = {"t": SMALL | {"measure": {"encoder": "small"}}}
    with pytest.raises(ConfigError, match=told):
        parse_config(raw)
