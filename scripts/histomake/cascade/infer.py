"""Inference with a trained cascade on one slide: labels, probabilities, states and objects."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from histomake.base.errors import ConfigError
from histomake.base.files import atomic_directory
from histomake.base.records.cascade_cost import LevelShares, MultiplyAdds
from histomake.base.records.cascade_thresholds import Thresholds
from histomake.base.records.manifest import Manifest
from histomake.base.records.nuclei import NucleiRecord, SegmentationSeconds
from histomake.base.windows import Window
from histomake.cascade.answers import NetworkAnswers, best_device
from histomake.cascade.levels import Level, require_resolution, slide_levels
from histomake.cascade.net import PixelNetwork, load_network, multiply_adds
from histomake.cascade.objects import (
    NUCLEI,
    TILE_PX,
    Nucleus,
    Pieces,
    find_pieces,
    nuclei_of,
    without_holes,
    write_objects,
)
from histomake.cascade.run import ACCEPTED, LevelCost, LevelMap, costs, nuclei, pixel_evaluations, run_cascade
from histomake.cells.files import write_numbers
from histomake.cells.parting import depth_px, parted
from histomake.config import CascadeThresholds, Radhical
from histomake.slide.reader import SlideReader, open_slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 512
DENSE_BLOCK_PX = 512
"""Block size of the dense baseline. It is larger than that of the cascade, because less is lost to margins."""


def load_networks(weights: Sequence[Path | str], config: Radhical, *, threads: int) -> dict[int, PixelNetwork]:
    """Load the networks of all levels on the best device, keyed by level number; weight files finest level first.

    Raises:
        ConfigError: The number of models differs from the number of levels.
        HistomakeError: A level has not been trained.
    """
    if len(weights) != len(config.scales):
        raise ConfigError(f"a cascade of {len(config.scales)} levels needs as many models, but got {len(weights)}")
    device = best_device(threads)
    return {number: load_network(Path(path).parent, device) for number, path in enumerate(weights, start=1)}


def answers_of(reader: SlideReader, networks: dict[int, PixelNetwork], config: Radhical) -> NetworkAnswers:
    """Return the source of the networks' probabilities on a slide."""
    return NetworkAnswers(reader, networks, config.block_px, networks[1].mean.device)


def open_answers(
    manifest: Path | str, weights: Sequence[Path | str], config: Radhical, *, threads: int
) -> tuple[list[Level], NetworkAnswers]:
    """Return a slide's levels, finest first, and the trained networks on it.

    Raises SlideError if the slide cannot be used or is too coarse for the cascade.
    """
    content = Manifest.read_usable(manifest)
    require_resolution(content, config)
    networks = load_networks(weights, config, threads=threads)
    return slide_levels(content, config), answers_of(open_slide(manifest), networks, config)


def whole_maps(answers: NetworkAnswers, levels: Sequence[Level]) -> dict[int, NDArray[np.float32]]:
    """Compute p1 and p2 of every pixel of every level, keyed by level number, for the threshold search."""
    everything = CascadeThresholds(cut=0.5, lower=[], upper=[])
    return {level.number: run_cascade([level], answers, everything, block=answers.block)[0].p for level in levels}


def mask_pieces(finest: LevelMap, *, cut: float, tile: int = TILE_PX) -> Pieces:
    """Return nuclei as connected components: thresholded or accepted pixels, with holes filled."""
    level = finest.level
    filled = without_holes(lambda window: nuclei(finest, window, cut=cut), level, tile=tile)
    return find_pieces(filled, level, connectivity=NUCLEI, tile=tile)


def whole_labels(finest: LevelMap, *, cut: float) -> NDArray[np.int32]:
    """Return the result of `mask_pieces` as one array (height, width), for slides small enough for a comparison."""
    level = finest.level
    edge = max(level.height, level.width)
    return mask_pieces(finest, cut=cut, tile=edge).labels(Window(0, 0, level.height, level.width))


def deployed(
    levels: Sequence[Level], answers: NetworkAnswers, thresholds: CascadeThresholds
) -> tuple[Sequence[Level], NetworkAnswers]:
    """Return the levels that thresholds use, and the answers in blocks that fit them.

    Thresholds for level 1 alone mean the dense network, which is computed in larger blocks.
    """
    used = levels[: len(thresholds.lower) + 1]
    return used, answers if len(used) > 1 else replace(answers, block=dense_block(answers.block))


def dense_block(block: int) -> int:
    """Return the block size of dense evaluation, for a cascade with blocks of ``block`` pixels."""
    return max(block, DENSE_BLOCK_PX)


def segment_slide(
    reader: SlideReader,
    levels: Sequence[Level],
    answers: NetworkAnswers,
    thresholds: CascadeThresholds,
    *,
    neck_um: float | None,
    store: Path,
    geojson: Path,
) -> NucleiRecord:
    """Run the cascade on a slide of any size; write ``store`` (a Zarr group) and ``geojson``; return the record.

    Touching nuclei are parted, see `histomake.cells.parting`; ``neck_um``: as in the record of thresholds.

    The group contains ``labels`` (uint32, nucleus numbers), ``probability`` (uint8, 255 is 1; rejected pixels are 0,
    accepted ones 255) and ``state1``, ``state2`` … (uint8: 0 rejected, 1 computed, 2 accepted), all (y, x) of their
    level.
    """
    started = time.perf_counter()
    levels, answers = deployed(levels, answers, thresholds)
    # Maps of a large slide are sparse files next to the result, where there is enough disk space.
    store.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{store.name}.", dir=store.parent))
    try:
        maps = run_cascade(levels, answers, thresholds, block=answers.block, folder=folder)
        computed = time.perf_counter()
        mask = np.memmap(folder / "mask", bool, "w+", shape=(levels[0].height, levels[0].width))
        pieces = mask_pieces(maps[-1], cut=thresholds.cut)
        for tile in pieces.offsets:
            mask[tile.slices] = pieces.labels(tile) > 0
        scale = levels[0].mpp / reader.mpp
        with atomic_directory(store) as aside:
            group = _write_maps(aside, maps, scale)
            group.attrs["neck_um"] = neck_um
            found = _write_nuclei(group["labels"], mask, depth_px(neck_um, levels[0].mpp))
            write_objects(geojson, found, group["labels"], group["probability"], scale=scale, mpp=levels[0].mpp)
        shares = costs(maps)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return NucleiRecord(
        slide_id=reader.slide_id,
        store=store.name,
        thresholds=Thresholds(**thresholds.dump()),
        nuclei=len(found),
        seconds=SegmentationSeconds(cascade=computed - started, total=time.perf_counter() - started),
        levels=level_shares(levels, shares),
        pixel_evaluations=pixel_evaluations(shares),
        saved=saved(shares),
        multiply_adds=count_multiply_adds(levels, shares, answers),
    )


def level_shares(levels: Sequence[Level], shares: Sequence[LevelCost]) -> list[LevelShares]:
    """Return the shares of pixels that each level computed, accepted and rejected; all finest first."""
    return [
        LevelShares(
            level=c.number,
            mpp=level.mpp,
            pixels=c.pixels,
            computed=c.computed / c.pixels,
            accepted=c.accepted / c.pixels,
            rejected=c.rejected / c.pixels,
            blocks=c.blocks,
        )
        for level, c in zip(levels, shares, strict=True)
    ]


def saved(shares: Sequence[LevelCost]) -> float:
    """Return the share of pixel evaluations saved against the network of level 1 everywhere; levels finest first."""
    return 1 - pixel_evaluations(shares) / shares[0].pixels


def count_multiply_adds(levels: Sequence[Level], shares: Sequence[LevelCost], answers: NetworkAnswers) -> MultiplyAdds:
    """Return the multiply-adds of a run, and of naive and dense evaluation; levels and shares finest first."""
    per_block = block_multiply_adds(levels, answers.networks, answers.block)
    return MultiplyAdds(
        naive=multiply_adds(answers.networks[1]) * shares[0].pixels,
        dense=dense_multiply_adds(levels[0], answers.networks[1], answers.block),
        cascade=sum(per_block[c.number] * c.blocks for c in shares),
    )


def block_multiply_adds(levels: Sequence[Level], networks: Mapping[int, PixelNetwork], block: int) -> dict[int, int]:
    """Return the multiply-adds of one block of every level, by level number."""
    return {level.number: multiply_adds(networks[level.number], level.block_shape(block)) for level in levels}


def dense_multiply_adds(finest: Level, network: PixelNetwork, block: int) -> int:
    """Return the multiply-adds of the network of level 1 on the whole slide, in the blocks of dense evaluation."""
    shape = finest.block_shape(dense_block(block))
    return multiply_adds(network, shape) * len(list(finest.blocks(*shape)))


def _write_nuclei(labels: Any, mask: NDArray[np.bool_], depth: float) -> list[Nucleus]:
    """Part the nuclei of a mask and write their numbers to the label image; return them in this order."""
    nuclei: list[Nucleus] = []
    for tile in parted(lambda window: mask[window.slices], mask.shape, depth=depth):
        write_numbers(labels, tile, len(nuclei))
        nuclei += nuclei_of(tile, len(nuclei))
    return nuclei


def _write_maps(folder: Path, maps: Sequence[LevelMap], scale: float) -> zarr.Group:
    """Write an empty label image, the probabilities and the states of all levels to a new Zarr group."""
    group = zarr.open_group(folder, mode="w")
    finest = maps[-1]
    level = finest.level
    group.attrs.update({"mpp": level.mpp, "level0_pixels_per_pixel": scale, "axes": ["y", "x"]})
    shape = (level.height, level.width)
    group.create_array("labels", shape=shape, chunks=(CHUNK, CHUNK), dtype="uint32")
    probability = group.create_array("probability", shape=shape, chunks=(CHUNK, CHUNK), dtype="uint8")
    for tile in level.blocks(TILE_PX):
        here = tile.slices
        p = np.where(finest.state[here] == ACCEPTED, 1, finest.p[0][here])
        probability[here] = np.round(255 * p).astype(np.uint8)
    for m in maps:
        state = group.create_array(
            f"state{m.level.number}", shape=(m.level.height, m.level.width), chunks=(CHUNK, CHUNK), dtype="uint8"
        )
        for tile in m.level.blocks(TILE_PX):
            state[tile.slices] = m.state[tile.slices]
    return group
