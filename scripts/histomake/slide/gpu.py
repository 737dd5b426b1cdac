"""Decoding of stored JPEG tiles on the GPU with nvJPEG, or on the CPU if there is no GPU."""

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
    """Decode tiles (row, column) of a level to uint8 RGB (n, 3, tile_height, tile_width) on ``device``.

    Empty tiles are white. On a CUDA device, encoded YCbCr JPEG tiles are transferred and decoded there by nvJPEG.
    RGB-coded JPEG tiles are decoded on the CPU, because nvJPEG converts their colours a second time in every mode of
    torchvision (observed on an H200). nvJPEG interpolates chroma differently from libjpeg: subsampled tiles differ
    by a few grey levels from tiles decoded on the CPU.

    Raises SlideError if a tile is damaged.
    """
    device = torch.device(device)
    layout = reader.levels[level]
    shape = (len(tiles), 3, layout.tile_height, layout.tile_width)
    out = torch.full(shape, FILL, dtype=torch.uint8, device=device)
    if device.type == "cuda" and layout.coding.codec == "jpeg" and layout.coding.colour == "YCBCR":
        files = reader.encoded_tiles(level, tiles)
        present = {i: file for i, file in enumerate(files) if file is not None}
        if present:
            out[list(present)] = _on_gpu(reader, list(present.values()), device)
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
            remedy="Run 'histomake verify' on the slide. If it finds no problem, the slide file itself is damaged",
        ) from error
