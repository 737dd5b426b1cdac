"""Owns decoding stored JPEG tiles where they are used: on the GPU by nvJPEG, or on the CPU where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.io import ImageReadMode, decode_jpeg

from histomake.errors import Reason, SlideError
from histomake.slide.jpeg import read_frame
from histomake.slide.reader import SlideReader
from histomake.slide.store import FILL


def decode_tiles(
    reader: SlideReader, level: int, tiles: Sequence[tuple[int, int]], device: torch.device | str
) -> torch.Tensor:
    """Tiles (row, column) of a level: uint8 RGB (n, 3, tile_height, tile_width) on ``device``; empty ones are white.

    On a CUDA device the encoded bytes cross the bus and nvJPEG decodes them, JPEG levels only. Its chroma
    interpolation differs from libjpeg's: subsampled tiles differ by a few grey levels from the CPU's.
    SlideError when a tile is damaged.
    """
    device = torch.device(device)
    layout = reader.levels[level]
    shape = (len(tiles), 3, layout.tile_height, layout.tile_width)
    out = torch.full(shape, FILL, dtype=torch.uint8, device=device)
    if device.type == "cuda" and layout.coding.codec == "jpeg":
        files = reader.encoded_tiles(level, tiles)
        present = [i for i, file in enumerate(files) if file is not None]
        encoded = [files[i] for i in present]
        if not encoded:
            return out
        if layout.coding.colour == "YCBCR" or not read_frame(encoded[0]).subsampled:
            out[present] = _on_gpu(reader, encoded, layout.coding.colour, device)
            return out
    for i, (row, column) in enumerate(tiles):
        tile = reader.tile(level, row, column)
        if tile is not None:
            out[i] = torch.tensor(tile, device=device).permute(2, 0, 1)
    return out


def _on_gpu(reader: SlideReader, files: list[bytes], colour: str, device: torch.device) -> torch.Tensor:
    # RGB components are taken as they are: asked for RGB, nvJPEG would convert them once more.
    mode = ImageReadMode.UNCHANGED if colour == "RGB" else ImageReadMode.RGB
    try:
        buffers = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        return torch.stack(decode_jpeg(buffers, mode=mode, device=device))
    except RuntimeError as error:
        raise SlideError(
            Reason.DAMAGED_TILES,
            slide_id=reader.slide_id,
            path=reader.path,
            detail=f"nvJPEG cannot decode one of {len(files)} tiles: {error}",
            remedy="Run histomake verify on the slide; if it finds nothing, the slide file itself is damaged",
        ) from error
