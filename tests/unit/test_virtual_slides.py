"""Virtual slides: windows without seams, copied glass, and marks that they are in silico."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest, VirtualStain
from histomake.base.units import Mpp
from histomake.config import Convert, StainTransfer
from histomake.generate.apply import transfer_slide
from histomake.generate.lattice import SlideLattice, resampling
from histomake.generate.networks import StainGenerator
from histomake.generate.signed import from_signed, to_signed
from histomake.generate.store import sampled_windows, stain_share, stained, tissue_on
from histomake.generate.training import train_transfer
from histomake.generate.translate import SlideTranslator
from histomake.learn.engine.runtime import choose_runtime
from histomake.pictures.virtual_view import virtual_view
from histomake.slide.reader import open_slide
from small_cohort import build_cohort
from test_transfer_training import SMALL

from tests import sample_records


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return build_cohort(tmp_path_factory.mktemp("cohort"), 4)


@pytest.fixture(scope="module")
def model(slides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    transfer = StainTransfer.model_validate(SMALL)
    places = {"output": folder / "model", "state": folder / "state", "seed": 1, "threads": 1}
    train_transfer(transfer, source=slides[:2], target=slides[2:], **places)
    return folder / "model"


def tissue():
    """The left quarter of the slide of 512 px has none."""
    mask = np.ones((32, 32), bool)
    mask[:, :8] = False
    return sample_records.tissue_mask(mask, 16)


def translator_of(lattice, *, windows=4) -> SlideTranslator:
    torch.manual_seed(0)
    generator = StainGenerator(blocks=1, filters=4).eval()
    translator = SlideTranslator(generator, lattice.read, runtime=choose_runtime("fp32", threads=1))
    translator.measure(sampled_windows(lattice, tissue(), size=64, count=windows))
    return translator


def whole(translator, lattice):
    """The slide as one image, with the margin of white around it that windows see."""
    margin = translator.generator.margin
    pixels = lattice.read(-margin, -margin, lattice.width + 2 * margin, lattice.height + 2 * margin)
    with torch.inference_mode():
        found = translator.generator(to_signed(torch.from_numpy(pixels[None]), torch.device("cpu")))
    return from_signed(found)[0, margin:-margin, margin:-margin]


@pytest.mark.parametrize("edge", [64, 100, 256])
def test_windows_of_any_size_give_the_slide_as_one_image(slides, edge):
    with open_slide(slides[0].manifest) as reader:
        lattice = SlideLattice(reader, Mpp(1.0))
        translator = translator_of(lattice)
        expected = whole(translator, lattice).astype(int)
        for y in range(0, 512, edge):
            for x in range(0, 512, edge):
                width, height = min(edge, 512 - x), min(edge, 512 - y)
                part = translator.translate(x, y, width, height)
                assert np.abs(part - expected[y : y + height, x : x + width]).max() <= 1


def test_a_window_beside_the_lattice_of_the_network_is_refused(slides):
    with open_slide(slides[0].manifest) as reader:
        translator = translator_of(SlideLattice(reader, Mpp(1.0)))
        with pytest.raises(ValueError, match="no multiple of 4"):
            translator.translate(2, 0, 64, 64)


def test_glass_is_copied_and_tissue_is_translated(slides):
    with open_slide(slides[0].manifest) as reader:
        lattice = SlideLattice(reader, Mpp(1.0))
        translator = translator_of(lattice)
        found, before = stained(translator, tissue(), lattice)(0, 0, 512, 512), lattice.read(0, 0, 512, 512)
        assert np.array_equal(found[:, :128], before[:, :128])
        assert np.array_equal(found[:, 128:], whole(translator, lattice)[:, 128:]) or (
            np.abs(found[:, 128:].astype(int) - whole(translator, lattice)[:, 128:]).max() <= 1
        )


@pytest.mark.parametrize("mpp", [1.0, 1.005, 1.7, 2.0, 0.6])
def test_boxes_beside_each_other_are_parts_of_one_image(slides, mpp):
    with open_slide(slides[0].manifest) as reader:
        lattice = SlideLattice(reader, Mpp(mpp))
        one = lattice.read(-8, -8, 200, 200)
        parts = [np.hstack([lattice.read(x, y, 50, 50) for x in range(-8, 192, 50)]) for y in range(-8, 192, 50)]
        assert np.array_equal(np.vstack(parts), one)
        assert lattice.width == int(512 * reader.mpp / lattice.mpp + 1e-9)


def test_a_pixel_of_a_coarser_lattice_is_the_mean_of_what_it_covers():
    first, weights = resampling(1, 2, 1.5)
    assert first == 1
    np.testing.assert_allclose(weights[:, :4] * 1.5, [[0.5, 1, 0, 0], [0, 0, 1, 0.5]], atol=1e-6)


def test_a_pixel_of_a_finer_lattice_lies_between_two():
    first, weights = resampling(0, 2, 0.5)
    assert first == -1
    np.testing.assert_allclose(weights[:, :3], [[0.25, 0.75, 0], [0, 0.75, 0.25]], atol=1e-6)


def test_tissue_is_found_by_its_place_on_the_slide(slides):
    with open_slide(slides[0].manifest) as reader:
        lattice = SlideLattice(reader, Mpp(2.0))
        found = tissue_on(tissue(), lattice, (0, 0, 256, 256))
        assert not found[:, :64].any()
        assert found[:, 64:].all()


@pytest.mark.parametrize(("side", "stains"), [(0, ("HE", "PAS")), (1, ("PAS", "HE"))])
def test_a_virtual_slide_is_marked_in_store_and_manifest_and_can_be_read_as_a_slide(
    slides, model, tmp_path, side, stains
):
    layout = Layout(tmp_path)
    files = layout.transfer("he_pas")
    store = files.store("s0").parent
    manifest = transfer_slide(
        slides[0].manifest,
        tissue(),
        model,
        name="he_pas",
        side=side,
        store=store,
        config=Convert(codec="zstd", shard_px=512),
        threads=1,
    )
    manifest.write(files.manifest("s0"))
    read, scanned = Manifest.read(files.manifest("s0")), Manifest.read(slides[0].manifest)
    assert read.virtual.stains == stains
    assert "in silico" in read.warnings[0]
    assert read.sha256 == scanned.sha256
    assert scanned.virtual is None
    attributes = json.loads((store / "zarr.json").read_text())["attributes"]
    assert attributes["histomake"]["virtual"] == f"in silico: {stains[0]} to {stains[1]} by he_pas"
    assert "in silico" in attributes["ome"]["multiscales"][0]["name"]
    with open_slide(files.manifest("s0")) as virtual, open_slide(slides[0].manifest) as reader:
        assert (virtual.width, virtual.height, virtual.mpp) == (512, 512, 1.0)
        assert np.array_equal(virtual.read(0, 0, 128, Mpp(1.0)), reader.read(0, 0, 128, Mpp(1.0)))
        assert not np.array_equal(virtual.read(256, 0, 128, Mpp(1.0)), reader.read(256, 0, 128, Mpp(1.0)))
    assert set(read.checksums) == {str(p.relative_to(store)) for p in store.rglob("*") if p.is_file()}
    picture = virtual_view(slides[0].manifest, files.manifest("s0"), read.virtual)
    assert picture.shape[1] > 2 * 512


def test_the_mark_says_that_a_slide_is_in_silico():
    mark = VirtualStain(transfer="t", stains=("HE", "PAS"), weights_sha256=None)
    assert mark.label == "in silico: HE to PAS by t"


def test_glass_inside_the_tissue_stays_as_scanned_and_stained_pixels_do_not():
    levels = np.array([255, 240, 235, 225, 215, 100], np.uint8)
    pixels = np.repeat(levels[None, :, None], 3, axis=2)
    np.testing.assert_allclose(stain_share(pixels)[0, :, 0], [0, 0, 0, 0.5, 1, 1])
