"""Owns decoding stored JPEG tiles where they are used: on the GPU by nvJPEG, or on the CPU where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.io import ImageReadMode, decode_jpeg

from histomake.base.errors import Reason, SlideError
from histomake.slide.reader import SlideReader
from histomake.slide.store import FILL


def decode_tiles(
    reader: SlideReader, level: int, tiles: Sequence[tuple[int, int]], device: torch.device | str
) -> torch.Tensor:
    """Tiles (row, column) of a level: uint8 RGB (n, 3, tile_height, tile_width) on ``device``; empty ones are white.

    On a CUDA device the encoded bytes cross the bus and nvJPEG decodes them, YCbCr-coded JPEG levels only: RGB-coded
    ones it would convert once more, in any of torchvision's modes (seen on an H200). Its chroma interpolation differs
    from libjpeg's: subsampled tiles differ by a few grey levels from the CPU's.
    SlideError when a tile is damaged.
    """
    device = torch.device(device)
    layout = reader.levels[level]
    shape = (len(tiles), 3, layout.tile_height, layout.tile_width)
    out = torch.full(shape, FILL, dtype=torch.uint8, device=device)
    if device.type == "cuda" and layout.coding.codec == "jpeg" and layout.coding.colour == "YCBCR":
        files = reader.encoded_tiles(level, tiles)
        present = [i for i, file in enumerate(files) if file is not None]
        if present:
            out[present] = _on_gpu(reader, [files[i] for i in present], device)
        return out
    for i, (row, column) in enumerate(tiles):
        tile = reader.tile(level, row, column)
        if tile is not None:
            out[i] = torch.tensor(tile, device=device).permute(2, 0, 1)
    return out


def _on_gpu(reader: SlideReader, files: list[bytes], device: torch.device) -> torch.Tensor:
    try:
        buffers = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        return torch.stack(decode_jpeg(buffers, mode=ImageReadMode.RGB, device=device))
    except RuntimeError as error:
        raise SlideError(
            Reason.DAMAGED_TILES,
            slide_id=reader.slide_id,
            path=reader.path,
            detail=f"nvJPEG cannot decode one of {len(files)} tiles: {error}",
            remedy="Run histomake verify on the slide; if it finds nothing, the slide file itself is damaged",
        ) from error
