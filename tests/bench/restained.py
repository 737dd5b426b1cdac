"""Slides of the same real tissue in two known stains, so that the truth of a stain transfer exists.

Tissue is taken apart into the amounts of two stains, and mixed again from other stain vectors. Slides with one stain
and slides with the other are made of different tissue, skin and nuclei-rich, and slides to test of a third.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from histomake.annotation.model import Annotation
from histomake.base.layout import Layout
from histomake.config import Convert, Grid
from histomake.features.encoders import REFERENCE
from histomake.learn.data.patch_index import SlideEntry
from histomake.patch.tabulate import tabulate, write_patch_table
from histomake.slide.convert import convert

from tests import sample_records
from tests.demo.cohort import DATA
from tests.demo.tissue import SOURCE_MPP, Sources, load_sources, nuclei_piece, nuclei_sheet

SEED = 22
EDGE, GLASS_PX = 1024, 128
"""Edge of a slide, and width of the glass around its tissue, in pixels."""

MPP, GRID = 1.0, "patches"
GLASS = (244, 243, 245)
NOISE = 1.2
MASK = 16
"""Edge of a pixel of the tissue mask, in pixels."""

FIRST = np.array(REFERENCE["stains"]).T
"""Optical densities of haematoxylin and eosin in R, G, B, float64 (2, 3)."""

SECOND = np.array([[0.7441, 0.6010, 0.2918], [0.2686, 0.5703, 0.7763]])
"""The same of a bluer haematoxylin and a brown counterstain, of the length 1."""

STRENGTH = np.array([0.9, 0.8])
"""Factors of the amounts of both stains in the second laboratory."""


def amounts(transmittance: np.ndarray) -> np.ndarray:
    """Amounts of haematoxylin and eosin float64 (h, w, 2) in tissue, uint8 (h, w, 3)."""
    density = -np.log(np.maximum(transmittance, 1) / 255)
    return np.maximum(density @ np.linalg.pinv(FIRST), 0)


def mixed(stains: np.ndarray, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The slide uint8 (h, w, 3) that amounts (h, w, 2) of stains give, on glass and with the noise of a sensor."""
    pixels = np.exp(-stains @ vectors) * GLASS + rng.normal(0, NOISE, (*stains.shape[:2], 1))
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def in_first(stains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The slide in the first stain."""
    return mixed(stains, FIRST, rng)


def in_second(stains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The slide in the second stain."""
    return mixed(stains * STRENGTH, SECOND, rng)


def parts_of_tissue(count: int) -> list[Sources]:
    """The real tissue in ``count`` parts without common pixels."""
    found = load_sources(DATA)
    skin = found.skin[: len(found.skin) // 2]  # the rest is its mirror image
    edges = np.linspace(0, skin.shape[1], count + 1).astype(int)
    return [
        Sources(skin=skin[:, left:right], nuclei=found.nuclei[part::count])
        for part, (left, right) in enumerate(pairwise(edges))
    ]


def tissue(number: int, sources: Sources) -> np.ndarray:
    """Amounts float64 (EDGE, EDGE, 2) of both stains of a slide: nuclei-rich tissue above, skin below."""
    rng, width = np.random.default_rng((SEED, number)), EDGE - 2 * GLASS_PX
    height, scale = width // 2, SOURCE_MPP / MPP
    sheet = nuclei_sheet(rng, sources.nuclei, int(width / scale) + 300)
    clear = np.full((EDGE, EDGE, 3), 255, np.uint8)
    inner = clear[GLASS_PX:-GLASS_PX, GLASS_PX:-GLASS_PX]
    inner[:height] = nuclei_piece(rng, sheet, size=(height, width), scale=scale)
    inner[height:] = _skin(rng, sources.skin, height, width)
    return amounts(clear)


def _skin(rng: np.random.Generator, skin: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pieces of a strip of skin beside each other, flipped at random, at MPP."""
    small = cv2.resize(skin, None, fx=SOURCE_MPP / MPP, fy=SOURCE_MPP / MPP, interpolation=cv2.INTER_AREA)
    found = np.full((height, width, 3), 255, np.uint8)
    for left in range(0, width, small.shape[1]):
        top = int(rng.integers(0, small.shape[0] - height))
        piece = small[top : top + height]
        piece = piece[:, ::-1] if rng.random() < 0.5 else piece
        found[:, left : left + piece.shape[1]] = piece[:, : width - left]
    return found


def write_slide(layout: Layout, name: str, pixels: np.ndarray, *, size: int) -> SlideEntry:
    """Convert and tabulate a slide; its tissue is where it is darker than glass."""
    source = layout.results / "source" / f"{name}.npy"
    source.parent.mkdir(parents=True, exist_ok=True)
    np.save(source, pixels)
    store = layout.results / "slides" / f"{name}.zarr"
    manifest = convert(source, store, slide_id=name, config=Convert(codec="zstd", shard_px=1024), mpp=MPP)
    manifest.write(layout.manifest(name))
    mask = tissue_mask(pixels)
    artefacts = sample_records.artefact_map(np.zeros_like(mask.mask, np.uint8))
    grid = Grid(size=size, mpp=MPP, stride=size // 2)
    record = sample_records.annotation(name, width=EDGE, height=EDGE)
    none = Annotation((), [], record=record)
    table = tabulate(manifest, mask, artefacts, none, grid, [], grid_name=GRID, max_share=0.5)
    write_patch_table(table, layout.table(GRID, name))
    return SlideEntry.at(layout, GRID, name, name, {})


def tissue_mask(pixels: np.ndarray):
    """The tissue of a slide, in pixels of MASK."""
    dark = pixels.min(axis=2).astype(np.float32).reshape(EDGE // MASK, MASK, EDGE // MASK, MASK).mean((1, 3)) < 225
    return sample_records.tissue_mask(dark, MASK)
