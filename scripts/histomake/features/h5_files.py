"""HDF5 files of features as TRIDENT, CLAM and STAMP write them, one per slide.

TRIDENT and CLAM: datasets ``features`` (n, d) and ``coords`` (n, 2), top-left corners in level-0 pixels; TRIDENT states
the size of a patch in the attributes of ``coords``. STAMP: ``feats`` and ``coords`` in µm, with the attributes ``unit``
and ``tile_size_um`` (2.1 and later) or ``tile_size``; STAMP 1 wrote pixels of 256 µm / 224, without a unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file
from histomake.patch.grid import SlideGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAMP_1_STRIDE, STAMP_1_UM = 224, 256.0
"""Distance of neighbours in files of STAMP 1, in its pixels and in µm."""

MAGNIFIED = 10.0
"""Magnification times µm per pixel, as objectives are named: 40x has 0.25 µm per pixel."""


@dataclass(frozen=True)
class PatchFile:
    """Contents of a file.

    layout: who writes such files. vectors: (n, d) float16 or float32. coords: (n, 2) top-left x, y. micrometres:
    whether coords and span are in µm instead of level-0 pixels. span: edge of a patch; None if the file does not say.
    extractor: name of the encoder, if the file says.
    """

    layout: str
    vectors: NDArray[np.floating]
    coords: NDArray[np.float64]
    micrometres: bool
    span: float | None
    extractor: str = ""


def read_h5(path: Path) -> PatchFile:
    """Read a file. Raises HistomakeError if it is damaged, of another layout, or says nothing of its coordinates."""
    if not path.is_file():
        raise HistomakeError(f"there is no {path}; put the file of the slide there, named as in the sheet")
    try:
        with h5py.File(path, "r") as file:
            return _stamp(file, path) if "feats" in file else _trident(file, path)
    except OSError as error:
        raise HistomakeError(f"{path} is no HDF5 file, or a damaged one ({error}); copy it again") from error


def _trident(file: h5py.File, path: Path) -> PatchFile:
    vectors, coords = _arrays(file, "features", path)
    said = {**file["features"].attrs, **file["coords"].attrs}
    if "patch_size_level0" in said:
        return PatchFile("TRIDENT", vectors, coords, micrometres=False, span=float(said["patch_size_level0"]))
    size, reduced = said.get("patch_size"), np.ravel(said.get("downsample", said.get("custom_downsample", 1)))
    span = None
    if size is not None and int(said.get("patch_level", 0)) == 0:
        span = float(np.ravel(size)[0]) * float(reduced[0])
    return PatchFile("CLAM", vectors, coords, micrometres=False, span=span)


def _stamp(file: h5py.File, path: Path) -> PatchFile:
    vectors, coords = _arrays(file, "feats", path)
    extractor, size = str(file.attrs.get("extractor", "")), file.attrs.get("tile_size_um", file.attrs.get("tile_size"))
    if file.attrs.get("unit") == "um" or "tile_size_um" in file.attrs:
        span = None if size is None else float(size)
        return PatchFile("STAMP", vectors, coords, micrometres=True, span=span, extractor=extractor)
    if round(_stride(coords) if size is None else float(size)) == STAMP_1_STRIDE:
        scaled = coords * (STAMP_1_UM / STAMP_1_STRIDE)
        return PatchFile("STAMP 1", vectors, scaled, micrometres=True, span=STAMP_1_UM, extractor=extractor)
    raise HistomakeError(
        f"{path} does not say the unit of its coordinates (STAMP's attribute `unit` is missing); make it again with "
        "STAMP 2 or later"
    )


def _arrays(file: h5py.File, name: str, path: Path) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    missing = [key for key in (name, "coords") if key not in file]
    if missing:
        found = ", ".join(sorted(file)) or "nothing"
        raise HistomakeError(
            f"{path} has no dataset {' and no '.join(missing)}, but {found}; files of TRIDENT, CLAM (features, coords) "
            "and STAMP (feats, coords) are read"
        )
    vectors, coords = np.asarray(file[name]), np.asarray(file["coords"], np.float64)
    if vectors.ndim == 3 and len(vectors) == 1:  # older programs wrote a batch of one slide
        vectors = vectors[0]
    if vectors.ndim != 2 or coords.shape != (len(vectors), 2) or not np.issubdtype(vectors.dtype, np.floating):
        raise HistomakeError(
            f"{path} has {name} {vectors.shape} {vectors.dtype} and coords {coords.shape}; (n, d) of floats and (n, 2) "
            "are needed"
        )
    return vectors, coords


def _stride(coords: NDArray[np.float64]) -> float:
    """Smallest distance of two different coordinates of an axis; 0 if there is none."""
    steps = [np.diff(np.unique(axis)) for axis in coords.T]
    return float(min((step.min() for step in steps if len(step)), default=0.0))


def write_trident(
    path: Path, coords: NDArray[np.int64], grid: SlideGrid, *, name: str, vectors: NDArray[np.floating] | None = None
) -> None:
    """Write features as TRIDENT does, or, without ``vectors``, a file of coordinates from which it extracts features.

    Args:
        path: The file.
        coords: (n, 2) top-left corners in level-0 pixels.
        grid: Grid of the patches on the slide.
        name: Of the slide.
        vectors: (n, d).
    """
    attributes: Mapping[str, object] = {
        "patch_size": int(grid.grid.size),
        "patch_size_level0": round(grid.span),
        "level0_magnification": round(MAGNIFIED / grid.mpp),
        "target_magnification": round(MAGNIFIED / grid.grid.mpp),
        "overlap": max(0, grid.grid.size - (grid.grid.stride or grid.grid.size)),
        "level0_width": int(grid.width),
        "level0_height": int(grid.height),
        "name": name,
        "savetodir": "",
    }
    with atomic_file(path) as aside, h5py.File(aside, "w") as file:
        if vectors is not None:
            file["features"] = vectors
            file["features"].attrs["name"] = name
        file["coords"] = coords
        file["coords"].attrs.update(attributes)
