"""Several readers of a slide: the cell of the sheet, agreement, consensus, and refusals."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from histomake.annotation.agreement import cohen_kappa, dice, fleiss_kappa
from histomake.annotation.consensus import majority, staple
from histomake.annotation.model import Annotation
from histomake.annotation.patterns import Patterns, combinations_in
from histomake.annotation.read import read_annotation
from histomake.annotation.readers import agreed
from histomake.annotation.write import write_annotation
from histomake.base.errors import ConfigError, SlideError
from histomake.catalog.readers import reader_tables
from histomake.cohort.readers import parse_annotation
from histomake.cohort.sheet import read_sheet
from histomake.config import Annotations, Readers, parse_config
from histomake.planning.misfits import misfits
from histomake.planning.plan import make_plan
from histomake.report.readers_section import readers_of_slide
from hypothesis import given
from hypothesis import strategies as st

from tests import sample_records

COUNTS = {
    **{(0, 0, 0): 500, (1, 1, 1): 200, (1, 1, 0): 60, (1, 0, 0): 40},
    **{(0, 1, 0): 25, (0, 0, 1): 30, (1, 0, 1): 20, (0, 1, 1): 15},
}
"""Pixels by the labels of three readers."""

SIZE = {"width": 400, "height": 200}
CONFIG = Annotations(classes={"T": "tumor", "S": "stroma", "1": "tumor"})


def patterns(counts: dict[tuple[int, ...], int], *names: str) -> Patterns:
    return Patterns.of(Counter(counts), names or ("tumor",), readers=len(next(iter(counts))))


def outlined(path: Path, *boxes: tuple[str, int, int, int, int]) -> Path:
    """A GeoJSON of boxes: class, left, top, right, bottom."""
    shapes = []
    for name, left, top, right, bottom in boxes:
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        shapes.append({"type": "Feature", "geometry": geometry, "properties": {"label": name}})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    return path


def no_tissue(y, x):
    return np.zeros((len(y), len(x)), bool)


def everywhere(y, x):
    return np.ones((len(y), len(x)), bool)


def consensus_of(paths: dict[str, Path], *, tissue=everywhere, roi=(), **settings) -> Annotation:
    found = {reader: read_annotation(path, CONFIG, slide_id="s1", roi=roi, **SIZE) for reader, path in paths.items()}
    return agreed(found, paths, Readers(**{"mpp": 1.0} | settings), mpp=1.0, tissue=tissue)


@pytest.mark.parametrize(
    ("cell", "annotation", "readers"),
    [
        ("", None, {}),
        ("a.xml", "a.xml", {}),
        ("b=b.xml; a=x=y/a.xml", None, {"a": "x=y/a.xml", "b": "b.xml"}),
        ("a=a.xml", "a.xml", {}),
        ("./run=3/a.xml", "./run=3/a.xml", {}),
    ],
)
def test_a_cell_is_a_file_or_a_list_of_readers(cell, annotation, readers):
    assert parse_annotation(cell) == (annotation, readers, [])


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        ("a=a.xml;b.xml", "'b.xml' in a list of readers"),
        ("a=a.xml;", "the item ''"),
        ("a=;b=b.xml", "the item 'a='"),
        ("a=a.xml;A=b.xml", "reader 'A' twice"),
        ("a=a.xml;b=a.xml", "the file 'a.xml' twice"),
        ("a=a.xml;Consensus=b.xml", "stands for all of them"),
    ],
)
def test_a_list_that_is_half_given_is_refused_with_its_line(tmp_path, cell, fault):
    sheet = tmp_path / "slides.tsv"
    sheet.write_text(f"slide_id\tpath\tpatient_id\tannotation\ns1\ts1.svs\tp1\t{cell}\n")
    with pytest.raises(ConfigError, match=r"line 2 \(s1\)") as caught:
        read_sheet(sheet, parse_config({}), check_files=False)
    assert fault in str(caught.value)


def test_the_missing_file_of_one_reader_is_named(tmp_path):
    slide, sheet = tmp_path / "s1.svs", tmp_path / "slides.tsv"
    slide.touch()
    there = outlined(tmp_path / "a.geojson", ("T", 0, 0, 9, 9))
    sheet.write_text(f"slide_id\tpath\tpatient_id\tannotation\ns1\t{slide}\tp1\ta={there};b=gone.xml\n")
    with pytest.raises(ConfigError, match=r"annotation file gone\.xml does not exist"):
        read_sheet(sheet, parse_config({}), check_files=True)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"annotations": {"mask_values": "cells"}}, "mask_values"), ({"radhical": {"n": {"objects": ["o"]}}}, "radhical")],
)
def test_readers_of_cells_are_refused_before_the_run(tmp_path, settings, reason):
    sheet = tmp_path / "slides.tsv"
    sheet.write_text("slide_id\tpath\tpatient_id\tannotation\ns1\ts1.svs\tp1\ta=a.xml;b=b.xml\n")
    config = parse_config({"annotations": {"classes": {"o": "o"}}, "sheet": str(sheet)} | settings)
    plan = make_plan(config, read_sheet(sheet, config, check_files=False))
    assert any("s1" in line and "several readers" in line and reason in line for line in misfits(plan))


def test_combinations_are_counted_where_asked():
    labels = np.array([[[0, 1], [1, 1]], [[0, 1], [2, 255]]], np.uint8)
    counted = np.array([[True, True], [True, False]])
    assert combinations_in(labels, counted) == {(0, 0): 1, (1, 1): 1, (1, 2): 1}


@pytest.mark.parametrize("most_counted", [0, 2**20])
def test_combinations_of_many_readers_and_labels_are_counted(monkeypatch, most_counted):
    monkeypatch.setattr("histomake.annotation.patterns.MOST_COUNTED", most_counted)
    labels = np.random.default_rng(1).integers(0, 256, (5, 20, 30)).astype(np.uint8)
    labels[:, :10] = labels[:, 10:]
    found = combinations_in(labels, np.ones((20, 30), bool))
    assert found == Counter(map(tuple, labels.reshape(5, -1).T.tolist()))


def test_cohens_kappa_of_cohens_form_by_hand():
    # 50 items: 20 both yes, 15 both no, 5 and 10 differ. Observed .7, expected .5 x .6 + .5 x .4 = .5.
    assert cohen_kappa(np.array([[15, 10], [5, 20]])) == pytest.approx(0.4)
    assert cohen_kappa(np.array([[9, 0], [0, 0]])) is None


def test_fleiss_kappa_by_hand():
    # Two items, three readers: (1, 1, 1) and (1, 0, 0). Observed (1 + 1/3) / 2, expected (2/3)^2 + (1/3)^2.
    found = fleiss_kappa(patterns({(1, 1, 1): 1, (1, 0, 0): 1}))
    assert found == pytest.approx((2 / 3 - 5 / 9) / (1 - 5 / 9))


def test_dice_by_hand():
    assert dice(np.array([[15, 10, 0], [5, 20, 0], [0, 0, 0]])).tolist()[:2] == [30 / 45, 40 / 55]
    assert np.isnan(dice(np.array([[15, 0], [0, 0]]))[1])


def test_the_majority_decides_and_a_tie_has_no_class():
    given = patterns({(1, 1, 2): 1, (1, 2, 0): 1, (0, 0, 2): 1}, "tumor", "stroma")
    found = {tuple(row): int(label) for row, label in zip(given.labels.tolist(), majority(given).labels, strict=True)}
    assert found == {(1, 1, 2): 1, (1, 2, 0): 0, (0, 0, 2): 0}
    assert majority(given).undecided.sum() == 1


def test_staple_has_the_values_of_simpleitk():
    """Of STAPLEImageFilter of SimpleITK 2.5.7 on an image with the same counts."""
    found = staple(patterns(COUNTS))
    assert found.sensitivity[:, 1] == pytest.approx([0.9366193932, 0.9188493304, 0.7748874021], abs=1e-5)
    assert found.sensitivity[:, 0] == pytest.approx([0.9342646018, 0.9591304621, 0.9451807388], abs=1e-5)
    assert found.labels.tolist() == [0, 0, 0, 1, 0, 1, 1, 1]


def test_staple_finds_how_often_simulated_readers_are_right():
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 20_000, p=[0.6, 0.3, 0.1])
    right = [0.95, 0.9, 0.7, 0.85]
    given = np.stack([np.where(rng.random(truth.size) < p, truth, rng.integers(0, 3, truth.size)) for p in right])
    counts = combinations_in(given[:, None].astype(np.uint8), np.ones((1, truth.size), bool))
    found = staple(patterns(counts, "tumor", "stroma"))
    expected = [p + (1 - p) / 3 for p in right]
    assert found.sensitivity == pytest.approx(np.repeat(expected, 3).reshape(4, 3), abs=0.04)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 99)), min_size=1, max_size=12))
def test_readers_who_agree_have_their_labels_as_consensus(rows):
    counts: Counter[tuple[int, ...]] = Counter()
    for a, b, n in rows:
        counts[a, a, b if a == b else a] += n
    given = patterns(counts, "tumor", "stroma")
    for made in (majority(given), staple(given)):
        assert made.labels.tolist() == given.labels[:, 0].tolist()
        assert not made.undecided.any()


def test_the_consensus_is_written_as_a_label_image_with_its_agreement(tmp_path):
    boxes = {"a": (0, 0, 100, 100), "b": (0, 0, 100, 60), "c": (50, 0, 100, 100)}
    paths = {reader: outlined(tmp_path / f"{reader}.geojson", ("T", *box)) for reader, box in boxes.items()}
    made = consensus_of(paths)
    record, labels = tmp_path / "s1.json", tmp_path / "s1.labels.zarr"
    write_annotation(made, record=record, geojson=tmp_path / "s1.geojson", labels=labels)
    read = Annotation.load(record)
    image = read.label_image.read(slice(0, 200), slice(0, 400))
    assert image.shape == (200, 400)
    assert (image[:60, :100] == 2).all()  # a and b; class_names are stroma, tumor
    assert (image[60:100, 50:100] == 2).all()  # a and c
    assert image.sum() == 2 * (60 * 100 + 40 * 50)
    agreement = read.record.consensus
    assert read.record.area_px == {"tumor": 8000.0}
    assert agreement.compared_px == 80_000
    by_pair = {(pair.first, pair.second): pair.dice["tumor"] for pair in agreement.pairs}
    assert by_pair["a", "b"] == pytest.approx(2 * 6000 / 16000)
    assert by_pair["a", "consensus"] == pytest.approx(2 * 8000 / 18000)


def test_agreement_is_compared_on_tissue_and_where_a_reader_has_a_class(tmp_path):
    paths = {reader: outlined(tmp_path / f"{reader}.geojson", ("T", 0, 0, 10, 10)) for reader in "ab"}
    assert consensus_of(paths, tissue=no_tissue).record.consensus.compared_px == 100
    assert consensus_of(paths).record.consensus.fleiss_kappa == 1


def test_a_mask_and_outlines_are_compared(tmp_path):
    mask = np.zeros((100, 200), np.uint8)
    mask[:50, :50] = 1
    np.save(tmp_path / "a.npy", mask)
    paths = {"a": tmp_path / "a.npy", "b": outlined(tmp_path / "b.geojson", ("T", 0, 0, 100, 100))}
    assert consensus_of(paths).record.consensus.pairs[0].dice == {"tumor": 1.0}


def test_a_class_that_one_reader_lacks_gives_a_warning(tmp_path):
    paths = {
        "a": outlined(tmp_path / "a.geojson", ("T", 0, 0, 90, 90), ("S", 100, 0, 190, 90)),
        "b": outlined(tmp_path / "b.geojson", ("T", 0, 0, 90, 90)),
    }
    assert "Class stroma is annotated by a, and not by b." in consensus_of(paths).record.warnings


@pytest.mark.parametrize(("box", "how"), [((25, 10, 45, 15), "enlarged 4 times"), ((40, 100, 60, 180), "exchanged")])
def test_a_file_of_another_frame_is_refused_with_its_name(tmp_path, box, how):
    paths = {
        "a": outlined(tmp_path / "a.geojson", ("T", 100, 40, 180, 60)),
        "b": outlined(tmp_path / "b.geojson", ("T", *box)),
    }
    with pytest.raises(SlideError, match=how) as caught:
        consensus_of(paths)
    assert caught.value.path == str(paths["b" if "4" in how else "a"])


def test_regions_of_interest_of_readers_are_refused(tmp_path):
    paths = {reader: outlined(tmp_path / f"{reader}.geojson", ("S", 0, 0, 90, 90)) for reader in "ab"}
    with pytest.raises(SlideError, match="regions of interest"):
        consensus_of(paths, roi=["stroma"])


def test_the_catalog_has_areas_by_two_labels_and_the_page_has_kappa(tmp_path):
    boxes = {"a": (0, 0, 100, 100), "b": (0, 0, 100, 60)}
    paths = {reader: outlined(tmp_path / f"{reader}.geojson", ("T", *box)) for reader, box in boxes.items()}
    record = consensus_of(paths).record
    tables = reader_tables({"s1": record}, {"s1": sample_records.manifest("s1")})
    found = {(r["reader"], r["other"], r["class"], r["other_class"]) for r in tables["reader_pairs"].to_pylist()}
    assert ("a", "b", "tumor", "") in found
    assert tables["consensus"].to_pylist()[0]["readers"] == "a, b"
    shown = readers_of_slide(record.consensus, mm2_per_px=1e-6)
    assert "Dice tumor" in shown
    assert "a (a.geojson)" in shown
