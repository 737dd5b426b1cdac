"""Stain normalisation: the colours of each slide are estimated once from its tissue and mapped to a reference slide.

Colours are estimated per slide, not per patch. A patch with only fat or only lymphocytes has neither both stains nor
the range of colours of the slide, and would be changed to look like an average patch.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import cv2
import msgspec
import numpy as np
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

from histomake.base.records.record import Positive

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method = Literal["macenko", "reinhard"]
Colours = dict[str, list[float] | list[list[float]]]
"""Colours of one slide as plain numbers. macenko: ``stains`` (3, 2), optical densities of haematoxylin and eosin in
R, G, B, and ``strong`` (2,), their 99th percentiles; reinhard: ``mean`` (3,) and ``std`` (3,) in CIELAB."""

TWO, THREE = msgspec.Meta(min_length=2, max_length=2), msgspec.Meta(min_length=3, max_length=3)


class Macenko(msgspec.Struct):
    """`Colours` of the method of Macenko."""

    stains: Annotated[list[Annotated[list[float], TWO]], THREE]
    strong: Annotated[list[Positive], TWO]


class Reinhard(msgspec.Struct):
    """`Colours` of the method of Reinhard."""

    mean: Annotated[list[float], THREE]
    std: Annotated[list[Positive], THREE]


REFERENCES: Mapping[Method, type[Macenko | Reinhard]] = {"macenko": Macenko, "reinhard": Reinhard}

GLASS = 200
"""Pixels whose darkest channel is at least this are glass and are not used to estimate colours."""

MIN_PIXELS = 2_000
"""Smallest number of stained pixels from which the colours of a slide can be estimated."""

LIGHT = 240.0
"""Grey level of unabsorbed light in torchstain's optical densities."""

CELLS = 64
CELL = 256 // CELLS
"""Number of adjacent levels of a channel that share a cell in a slide's colour table."""

PRIVATE_TABLES = 64
SHARED_TABLES = 1_024
"""Largest number of tables, of 1.5 MB each, kept by one process and shared by the processes of one training."""


def learn_colours(method: Method, pixels: NDArray[np.uint8]) -> Colours | None:
    """Estimate the colours of one slide from tissue ``pixels`` uint8 (…, 3); None if too few pixels are stained.

    Methods: Macenko et al. 2009 and Reinhard et al. 2001, as fitted by torchstain.
    """
    pixels = pixels.reshape(-1, 3)
    stained = pixels[pixels.min(axis=1) < GLASS]
    if len(stained) < MIN_PIXELS:
        return None
    normaliser = NumpyMacenkoNormalizer() if method == "macenko" else NumpyReinhardNormalizer()
    with np.errstate(all="ignore"):
        try:
            normaliser.fit(stained[None])
        except (np.linalg.LinAlgError, IndexError):
            return None
    names = ("HERef", "maxCRef") if method == "macenko" else ("target_means", "target_stds")
    values = [np.asarray(getattr(normaliser, name), np.float64) for name in names]
    spread = values[1]
    if not all(np.isfinite(value).all() for value in values) or (spread <= 0).any():
        return None
    return dict(zip(_keys(method), (value.tolist() for value in values), strict=True))


def _keys(method: Method) -> tuple[str, str]:
    return ("stains", "strong") if method == "macenko" else ("mean", "std")


def read_reference(method: Method, content: object) -> Colours:
    """The colours of a reference slide as a model's card states them. Raises ValueError if the method has others."""
    found = msgspec.to_builtins(msgspec.convert(content, REFERENCES[method]))
    return {key: found[key] for key in _keys(method)}


def choose_reference(method: Method, slides: Mapping[str, Colours | None]) -> str | None:
    """Choose the slide whose colours are nearest to the median of all slides; None if no colours are known.

    A real slide is chosen because the mean of stain vectors is not a stain.
    """
    known = {name: colours for name, colours in sorted(slides.items()) if colours is not None}
    if not known:
        return None
    vectors = np.stack([np.concatenate([np.ravel(c[key]) for key in _keys(method)]) for c in known.values()])
    distance = np.abs(vectors - np.median(vectors, axis=0)) / np.maximum(vectors.std(axis=0), 1e-6)
    return list(known)[int(distance.sum(axis=1).argmin())]


class StainNormaliser:
    """Maps the colours of patches to ``reference``; ``slides`` holds the estimated colours of each slide by id."""

    def __init__(
        self, method: Method, *, reference: Colours, slides: Mapping[str, Colours | None] | None = None
    ) -> None:
        self.method, self.reference = method, reference
        self.slides: dict[str, Colours | None] = dict(slides or {})
        self._own: dict[str, NDArray[np.int16]] = {}
        self._shared: dict[str, tuple[NDArray[np.int16], NDArray[np.uint8]]] | None = None

    def share(self) -> None:
        """Allocate the tables of the known slides in memory that is shared with processes forked later.

        The first process that needs a slide fills its table. Two processes that do it at the same time write the same
        values. Sharing pays because in a shuffled batch every patch may be from another slide, and computing a table
        takes longer than computing the pixels of a patch.
        """
        known = [name for name, colours in sorted(self.slides.items()) if colours is not None][:SHARED_TABLES]
        cells = CELLS**3 * 3
        tables = np.frombuffer(mmap.mmap(-1, max(1, len(known)) * cells * 2), np.int16).reshape(-1, CELLS**3, 3)
        filled = np.frombuffer(mmap.mmap(-1, max(1, len(known))), np.uint8)
        self._shared = {name: (tables[i], filled[i : i + 1]) for i, name in enumerate(known)}

    def apply(self, patch: NDArray[np.uint8], slide_id: str) -> NDArray[np.uint8]:
        """Normalise one patch, uint8 (h, w, 3), of a slide in ``slides``.

        Pixels that are nearly glass are nearly unchanged, because neither method is defined for unstained pixels. A
        slide with unknown colours is unchanged. The change depends only on a pixel's colour, so it is looked up in a
        table at every CELLth level; the result is within about one grey level of the exact computation.
        """
        colours = self.slides[slide_id]
        if colours is None:
            return patch
        shifts = self._shifts(slide_id, colours)
        if shifts is None:
            exact = np.rint(self.normalise(patch.astype(np.float32), colours))
            return np.asarray(np.clip(exact, 0, 255), np.uint8)
        red, green, blue = (patch[..., channel] // CELL for channel in range(3))
        cell = (red.astype(np.int32) * CELLS + green) * CELLS + blue
        return np.asarray(np.clip(patch + shifts[cell], 0, 255), np.uint8)

    def _shifts(self, slide_id: str, colours: Colours) -> NDArray[np.int16] | None:
        """Return the table of a slide, or None if shared memory has no room for it, equally in all processes."""
        if self._shared is not None:
            if slide_id not in self._shared:
                return None
            table, filled = self._shared[slide_id]
            if not filled[0]:
                table[:] = self._table(colours)
                filled[0] = 1
            return table
        if slide_id not in self._own:
            if len(self._own) >= PRIVATE_TABLES:
                self._own.pop(next(iter(self._own)))
            self._own[slide_id] = self._table(colours)
        return self._own[slide_id]

    def _table(self, colours: Colours) -> NDArray[np.int16]:
        """Compute the shift of each cell of colours, int16 (CELLS³, 3)."""
        centres = (np.arange(CELLS) * CELL + (CELL - 1) / 2).astype(np.float32)
        cube = np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), axis=-1).reshape(1, -1, 3)
        return np.asarray(np.rint(self.normalise(cube, colours) - cube)[0], np.int16)

    def normalise(self, pixels: NDArray[np.float32], colours: Colours) -> NDArray[np.float32]:
        """Normalise pixels, float32 (h, w, 3) in 0 to 255, of a slide with ``colours``."""
        changed = (self._macenko if self.method == "macenko" else self._reinhard)(pixels, colours)
        stained = np.minimum((255 - pixels.min(axis=2, keepdims=True)) / np.float32(255 - GLASS), 1)
        return np.asarray(stained * changed + (1 - stained) * pixels, np.float32)

    def _macenko(self, pixels: NDArray[np.float32], colours: Colours) -> NDArray[np.float32]:
        """Scale the amounts of the slide's stains to the reference's strength, and mix them from its stain vectors."""
        gain = np.asarray(self.reference["strong"]) / np.asarray(colours["strong"])
        mixing = np.asarray(self.reference["stains"]) @ np.diag(gain) @ np.linalg.pinv(np.asarray(colours["stains"]))
        density = -np.log((pixels + 1) / LIGHT)
        return np.asarray(LIGHT * np.exp(-(density @ mixing.T.astype(np.float32))), np.float32)

    def _reinhard(self, pixels: NDArray[np.float32], colours: Colours) -> NDArray[np.float32]:
        """Match mean and standard deviation of each CIELAB axis."""
        lab = cv2.cvtColor(pixels / np.float32(255), cv2.COLOR_RGB2LAB)
        mean, std, to_mean, to_std = (
            np.asarray(values, np.float32)
            for values in (colours["mean"], colours["std"], self.reference["mean"], self.reference["std"])
        )
        changed = cv2.cvtColor((lab - mean) * (to_std / std) + to_mean, cv2.COLOR_LAB2RGB)
        return np.asarray(255 * changed, np.float32)
