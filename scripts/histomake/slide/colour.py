"""What the samples of a slide mean: one table for TIFF and DICOM, from what a header and a stream state to RGB.

Two statements describe colour, that of the header (photometric interpretation) and that of the encoded stream (markers,
component transform). Where a format says which of them holds, the table does too. Where they contradict each other, or
one has no known meaning, the slide is refused: false colours look plausible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

import cv2
import numpy as np

from histomake.slide.jpeg import Colour
from histomake.slide.sources.base import UnsupportedSlideError, over_white


class Photometric(StrEnum):
    """What a header states about the samples. The values are used in messages."""

    WHITE_IS_ZERO = "inverted grey"
    GREY = "grey"
    RGB = "RGB"
    YCBCR = "YCbCr"
    APERIO_YCBCR = "Aperio's YCbCr (compression 33003)"
    YBR_ICT = "YBR_ICT"
    YBR_RCT = "YBR_RCT"
    PALETTE = "palette"
    OTHER = "an interpretation other than grey, RGB and YCbCr"


class Coder(StrEnum):
    """Kinds of encoding, by who knows about colour: the header only, the stream as well, or the stream only."""

    PLAIN = "samples"
    JPEG = "JPEG"
    JPEG2000 = "JPEG 2000"
    PICTURE = "a picture format"


class Stated(StrEnum):
    """What a stream states about its components."""

    NOTHING = "no colour space"
    RGB = "RGB"
    YCBCR = "YCbCr"
    TRANSFORMED = "a component transform, which the decoder undoes"
    CONVERTED = "YCbCr, which the decoder converts"


class Meaning(StrEnum):
    """What decoded samples are, and so what is left to do."""

    GREY = "grey"
    WHITE_IS_ZERO = "inverted grey"
    RGB = "RGB"
    YCBCR = "YCbCr"


class Alpha(StrEnum):
    """What a sample beyond the colours is. Unspecified samples are left out (TIFF 6.0, ExtraSamples)."""

    NONE = "none"
    UNSPECIFIED = "unspecified"
    PREMULTIPLIED = "associated alpha"
    STRAIGHT = "unassociated alpha"


_GREYS = {Photometric.GREY: Meaning.GREY, Photometric.WHITE_IS_ZERO: Meaning.WHITE_IS_ZERO}
_P, _S, _M = Photometric, Stated, Meaning

MEANINGS: Mapping[tuple[Coder, Stated, Photometric], Meaning] = {
    # Samples that no codec transformed are what the header states. So is a grey stream.
    **{(Coder.PLAIN, _S.NOTHING, photometric): meaning for photometric, meaning in _GREYS.items()},
    **{(coder, _S.NOTHING, photometric): _GREYS[photometric] for coder, photometric in product(Coder, _GREYS)},
    (Coder.PLAIN, _S.NOTHING, _P.RGB): _M.RGB,
    (Coder.PLAIN, _S.NOTHING, _P.YCBCR): _M.YCBCR,
    # The decoder of a JPEG converts to RGB; `JPEG_COLOURS` says from what.
    **{(Coder.JPEG, stated, p): _M.RGB for stated in (_S.NOTHING, _S.RGB, _S.YCBCR) for p in (_P.RGB, _P.YCBCR)},
    # JPEG 2000 without a transform has the components that the header states. YBR_ICT states the transform that the
    # codec would apply, and the components are the same as those of YCbCr.
    (Coder.JPEG2000, _S.NOTHING, _P.RGB): _M.RGB,
    **{(Coder.JPEG2000, _S.NOTHING, p): _M.YCBCR for p in (_P.YCBCR, _P.APERIO_YCBCR, _P.YBR_ICT)},
    **{(Coder.JPEG2000, _S.TRANSFORMED, p): _M.RGB for p in (_P.RGB, _P.YBR_ICT, _P.YBR_RCT)},
    **{(Coder.JPEG2000, _S.CONVERTED, p): _M.RGB for p in (_P.YCBCR, _P.APERIO_YCBCR)},
    (Coder.JPEG2000, _S.RGB, _P.RGB): _M.RGB,
    # WebP, PNG, JPEG XL and JPEG XR yield RGB.
    (Coder.PICTURE, _S.NOTHING, _P.RGB): _M.RGB,
}
"""Meaning of the decoded samples. What is not listed is refused."""

COLOURS = {Meaning.GREY: 1, Meaning.WHITE_IS_ZERO: 1, Meaning.RGB: 3, Meaning.YCBCR: 3}
"""Number of samples of a colour."""

_JPEG_BY_HEADER: Mapping[Photometric, Colour] = {_P.RGB: "RGB", _P.YCBCR: "YCBCR"}
_JPEG_BY_STREAM: Mapping[Stated, Colour] = {_S.RGB: "RGB", _S.YCBCR: "YCBCR"}


@dataclass(frozen=True)
class Samples:
    """What header and stream state about the samples of an image.

    Attributes:
        photometric: Statement of the header.
        coder: Kind of encoding.
        stated: Statement of the stream.
        count: Samples per pixel, with those beyond the colours.
        extra: What the samples beyond the colours are.
        bits: Bits per sample.
        integer: Whether samples are unsigned integers.
        subsampled: Whether the header of plain samples states that chroma has fewer samples.
    """

    photometric: Photometric
    coder: Coder
    stated: Stated = Stated.NOTHING
    count: int = 3
    extra: tuple[Alpha, ...] = ()
    bits: int = 8
    integer: bool = True
    subsampled: bool = False


@dataclass(frozen=True)
class Treatment:
    """How encoded samples become RGB.

    Attributes:
        meaning: What the decoder yields.
        alpha: What its last sample is.
        jpeg: Colour space of the components of a colour JPEG, for the decoder.
        copyable: Whether every reader that knows the codec shows the stream as RGB, so that it can be copied.
    """

    meaning: Meaning
    alpha: Alpha = Alpha.NONE
    jpeg: Colour | None = None
    copyable: bool = False

    def to_rgb(self, decoded: np.ndarray) -> np.ndarray:
        """Return decoded samples, uint8 (h, w, c), as RGB (h, w, 3) over white."""
        colour = decoded[:, :, : COLOURS[self.meaning]]
        rgb = np.ascontiguousarray(_TO_RGB[self.meaning](colour))
        if self.alpha in (Alpha.NONE, Alpha.UNSPECIFIED):
            return rgb
        rgba = np.concatenate([rgb, decoded[:, :, -1:]], axis=2)
        return over_white(rgba, premultiplied=self.alpha is Alpha.PREMULTIPLIED)


def treatment(samples: Samples) -> Treatment:
    """Look up how samples become RGB. Raises UnsupportedSlideError, with the feature, if that is not known."""
    if samples.bits != 8 or not samples.integer:
        kind = "" if samples.integer else " that are signed or not integer"
        raise UnsupportedSlideError(f"samples of {samples.bits} bits{kind}; only unsigned samples of 8 bits are read")
    meaning = MEANINGS.get((samples.coder, samples.stated, samples.photometric))
    if meaning is None:
        raise UnsupportedSlideError(
            f"the header states {samples.photometric} for {samples.coder} whose stream states {samples.stated}: "
            "its colours are not known"
        )
    if samples.subsampled:
        raise UnsupportedSlideError("chroma of unencoded YCbCr has fewer samples than luma, which is not read")
    alpha = _alpha(samples, meaning)
    jpeg = None
    if samples.coder is Coder.JPEG and meaning is Meaning.RGB:
        jpeg = _JPEG_BY_STREAM.get(samples.stated) or _JPEG_BY_HEADER[samples.photometric]
    encoded = samples.coder in (Coder.JPEG, Coder.JPEG2000)
    return Treatment(meaning, alpha, jpeg, copyable=encoded and meaning is Meaning.RGB and alpha is Alpha.NONE)


def _alpha(samples: Samples, meaning: Meaning) -> Alpha:
    beyond = samples.count - COLOURS[meaning]
    if beyond == 0 and not samples.extra:
        return Alpha.NONE
    if beyond == 1 and len(samples.extra) == 1 and samples.coder is not Coder.JPEG:
        return samples.extra[0]
    raise UnsupportedSlideError(
        f"{samples.count} samples per pixel, of which {COLOURS[meaning]} are {meaning} and "
        f"{len(samples.extra)} explained: the others have no known meaning"
    )


def _from_ycbcr(ycbcr: np.ndarray) -> np.ndarray:
    """Convert full-range BT.601 Y, Cb, Cr, as in JFIF, TIFF 6.0 and DICOM's YBR_FULL."""
    return cv2.cvtColor(np.ascontiguousarray(ycbcr[:, :, [0, 2, 1]]), cv2.COLOR_YCrCb2RGB)


_TO_RGB = {
    Meaning.GREY: lambda grey: np.repeat(grey, 3, axis=2),
    Meaning.WHITE_IS_ZERO: lambda grey: np.repeat(255 - grey, 3, axis=2),
    Meaning.RGB: lambda rgb: rgb,
    Meaning.YCBCR: _from_ycbcr,
}
