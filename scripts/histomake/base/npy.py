"""NumPy array files (.npy), read through a memory map."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def map_npy(path: Path) -> np.memmap:
    """Map the array of a .npy file for reading.

    Raises ValueError for a file that is no such array, holds Python objects or is shorter than its header states, and
    also for a longer one: with a damaged header length, the values would be read from a wrong place.
    """
    array: np.memmap = np.load(path, mmap_mode="r", allow_pickle=False)
    end, size = array.offset + array.nbytes, path.stat().st_size
    if end != size:
        raise ValueError(f"the header states {end} bytes, but the file has {size}")
    return array
