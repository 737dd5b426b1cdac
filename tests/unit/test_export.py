"""Tests of the OME-Zarr image of a slide with its masks in the labels group."""

from __future__ import annotations

import os

import numpy as np
import pytest
import zarr
from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_tree, store_of
from histomake.base.layout import Layout
from histomake.cli import main
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.viewer.export import export_slide
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import Image, ImageLabel

from tests.marked_slide import MARKED, MPP, SIZE, SLIDE, SPAN, make_results, patch_positions


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    return make_results(tmp_path_factory.mktemp("results"), codec="zstd")


@pytest.fixture(scope="module")
def exported(layout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "slide.ome.zarr"
    return export_slide(layout, SLIDE, folder), folder


def test_the_image_and_every_label_image_are_valid_ome_zarr(exported):
    names, folder = exported
    assert set(names) == {"annotation", "pixel_map_fold0"}
    Image.from_zarr(zarr.open_group(folder, mode="r"))
    for name in names:
        ImageLabel.from_zarr(zarr.open_group(folder / "labels" / name, mode="r"))


def test_a_reader_of_ome_zarr_finds_the_labels(exported):
    nodes = list(Reader(parse_url(exported[1]))())
    shown = {node.zarr.basename() for node in nodes}
    assert {"annotation", "pixel_map_fold0"} <= shown


@pytest.mark.parametrize("name", ["annotation", "pixel_map_fold0"])
def test_labels_lie_on_the_pixels_that_they_mark(name, exported):
    group = zarr.open_group(exported[1] / "labels" / name, mode="r")
    x, y = patch_positions()[MARKED]
    for dataset in group.attrs["ome"]["multiscales"][0]["datasets"]:
        scale, shift = (t[t["type"]] for t in dataset["coordinateTransformations"])
        rows, columns = np.nonzero(np.asarray(group[dataset["path"]]))
        first = np.array([rows.min(), columns.min()])
        corner = first * scale + np.array(shift) - np.array(scale) / 2 + MPP / 2
        assert corner == pytest.approx([y * MPP, x * MPP], abs=scale[0])
        assert (rows.max() + 1 - rows.min()) * scale[0] == pytest.approx(SPAN * MPP, abs=2 * scale[0])


def test_classes_have_names_and_colours(exported):
    group = zarr.open_group(exported[1] / "labels" / "annotation", mode="r")
    label = group.attrs["ome"]["image-label"]
    assert [entry["class"] for entry in label["properties"]] == ["nuclei", "skin"]
    assert len({tuple(entry["rgba"]) for entry in label["colors"]}) == 2


def test_the_store_of_the_slide_is_linked_and_unchanged(layout, exported):
    store = store_of(layout.store(SLIDE))
    before = sha256_tree(store)
    shards = [path for path in (store / "0").rglob("*") if path.is_file()]
    assert shards
    assert all(os.path.samefile(path, exported[1] / path.relative_to(store)) for path in shards)
    assert not (store / "labels").exists()
    assert sha256_tree(store) == before
    assert zarr.open_group(exported[1], mode="r")["0"].shape == (3, SIZE, SIZE)


def test_an_existing_folder_is_not_replaced(layout, tmp_path):
    with pytest.raises(HistomakeError, match="exists"):
        export_slide(layout, SLIDE, tmp_path)


def test_the_command_names_the_labels(layout, tmp_path, capsys):
    target = tmp_path / "a.ome.zarr"
    assert main(["export-ome-zarr", SLIDE, str(target), "--results", str(layout.results)]) == 0
    assert "labels annotation, pixel_map_fold0" in capsys.readouterr().out
    assert main(["export-ome-zarr", "lost", str(tmp_path / "b"), "--results", str(layout.results)]) == 1


def test_a_zipped_store_is_unpacked(tmp_path):
    layout = Layout(tmp_path / "results")
    layout.manifest(SLIDE).parent.mkdir(parents=True)
    np.save(tmp_path / "a.npy", np.zeros((300, 400, 3), np.uint8))
    config, store = Convert(codec="zstd", store="zip"), store_of(layout.store(SLIDE))
    convert(tmp_path / "a.npy", store, slide_id=SLIDE, config=config, mpp=0.5).write(layout.manifest(SLIDE))
    assert export_slide(layout, SLIDE, tmp_path / "a.ome.zarr") == []
    assert zarr.open_group(tmp_path / "a.ome.zarr", mode="r")["0"].shape == (3, 300, 400)
