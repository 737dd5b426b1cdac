"""Tissue detection on a low-resolution image of a slide (presegmentation)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import imagecodecs
import numpy as np
from PIL import Image

from histomake.base.errors import Reason, SlideError
from histomake.base.files import atomic_file
from histomake.base.records.record import Quarantined
from histomake.base.records.tissue import FIELD_OF_VIEW, TissueRecord
from histomake.base.units import Mpp
from histomake.config import Tissue
from histomake.tissue.faint import find_faint
from histomake.tissue.field_of_view import is_field_of_view
from histomake.tissue.ink import channel_extremes, chroma, find_glass, find_ink, find_padding, whiten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

    Bools = NDArray[np.bool_]

# Otsu splits any image, even an empty one: tissue must differ from glass by at least this, on the 0-255 scale.
MIN_CONTRAST = 4.0
# A larger difference is always tissue, also on a slide full of tissue, where Otsu would split nuclei from stroma.
MAX_CONTRAST = 30.0
# Upper limit of the signal of white-balanced glass, including the brightness steps of stitched scans.
GLASS_SIGNAL = 20
# Otsu is applied to the square root of the stain signal and to the logarithm of fluorescence. This moves dense and pale
# (bright and dim) tissue close together and far from glass. Without it, Otsu splits dense from pale tissue, and on a
# slide with a lymph node stroma and fat are lost.
ROOT = np.sqrt(np.arange(256) * 255.0).round().astype(np.uint8)
LOGARITHM = (np.log1p(np.arange(256)) * 255 / np.log(256)).round().astype(np.uint8)
# Pixels brighter than this in all channels are white; fluorescence images have none.
WHITE_MIN = 150
# A component thinner than this everywhere and longer than LINE_LENGTH_UM is a coverslip edge or a scratch, not tissue.
LINE_WIDTH_UM, LINE_LENGTH_UM = 60.0, 3000.0

# More pale colour than this, as a share of the tissue, is reported: most of the tissue may be missing. Fat around a
# lymph node, which is no loss, is about half as large as the node.
FAINT_SHARE = 1.0

WHOLE = "whole"
"""Method: the configuration takes everything as tissue."""


@dataclass(frozen=True)
class TissueMask:
    """A tissue mask.

    ``mask`` is bool (h, w); one of its pixels spans ``downsample_x`` x ``downsample_y`` level-0 pixels. ``record``
    describes the method and the result (area in mm², number of components, coverage of the slide).
    """

    mask: Bools
    record: TissueRecord

    @property
    def downsample_x(self) -> float:
        """Width of a mask pixel, in level-0 pixels."""
        return self.record.downsample_x

    @property
    def downsample_y(self) -> float:
        """Height of a mask pixel, in level-0 pixels."""
        return self.record.downsample_y

    def at(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> Bools:
        """Whether there is tissue, bool (rows, columns), at y (rows,) and x (columns,), level-0 pixels of the slide."""
        height, width = self.mask.shape
        rows = np.minimum((y / self.downsample_y).astype(np.int64), height - 1)
        columns = np.minimum((x / self.downsample_x).astype(np.int64), width - 1)
        return self.mask[np.ix_(rows, columns)]

    def save(self, png: Path | str, json: Path | str) -> None:
        """Write the mask as a 1-bit PNG, then the record."""
        save_bits(self.mask, png)
        self.record.write(json)

    @classmethod
    def load(cls, png: Path | str, json: Path | str) -> TissueMask:
        """Read the files written by `save`. Raises SlideError if the slide is in quarantine."""
        record = TissueRecord.read_usable(json)
        with Image.open(png) as image:
            return cls(np.asarray(image.convert("1"), bool), record)


def save_bits(mask: Bools, png: Path | str) -> None:
    """Write a bool image as a 1-bit PNG (ISO/IEC 15948).

    The file is written here because libdeflate compresses outlines 10 % better than the zlib of image libraries.
    """
    height, width = mask.shape
    unfiltered = np.zeros((height, 1), np.uint8)
    rows = np.hstack([unfiltered, np.packbits(mask, axis=1)])
    chunks = {
        b"IHDR": struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0),
        b"IDAT": imagecodecs.deflate_encode(rows.tobytes(), level=12, raw=False),
        b"IEND": b"",
    }
    with atomic_file(png) as aside, aside.open("wb") as stream:
        stream.write(b"\x89PNG\r\n\x1a\n")
        for kind, content in chunks.items():
            stream.write(struct.pack(">I", len(content)) + kind + content)
            stream.write(struct.pack(">I", zlib.crc32(kind + content)))


def save_no_tissue(outcome: Quarantined, png: Path | str, json: Path | str) -> None:
    """Write a quarantine entry as the record, and an empty mask in place of the slide's tissue."""
    save_bits(np.zeros((1, 1), bool), png)
    outcome.write(json)


def presegment(
    reader: SlideReader,
    config: Tissue,
    *,
    slide_id: str,
    segment: Callable[[NDArray[np.uint8]], Bools] | None = None,
) -> TissueMask:
    """Find tissue: blur, threshold, morphological closing, removal of specks, filling of holes, growing.

    Glass is first balanced to white, and ink and unscanned areas are excluded. The threshold (Otsu, 1979) is chosen
    afterwards, so that neither a tinted illumination nor pen marks shift it. A small image without glass is all tissue:
    Otsu would split it into dense and pale tissue.

    Args:
        reader: The slide.
        config: The ``tissue`` section of the configuration.
        slide_id: Identifier for error messages.
        segment: Function that replaces the threshold: maps the RGB image as scanned at ``config.mpp`` (h, w, 3) to
            tissue, bool (h, w). The steps after it are the same.

    Raises:
        SlideError: NO_TISSUE; FLUORESCENCE if the background is dark and ``mode`` is brightfield; UNSUPPORTED
            if the slide is too coarse for the model in ``segment``.
    """
    if segment is not None and reader.mpp > config.mpp:
        raise _too_coarse(slide_id, reader, config)
    mpp = max(config.mpp, reader.mpp)
    scanned = _read(reader, mpp)
    dark = is_fluorescence(scanned)
    if dark and config.mode == "brightfield":
        raise _fluorescence(slide_id, reader.path)
    image, padding, ink = _balance_and_exclude(scanned, config, mpp)
    method, threshold = _method(scanned, config, mpp, segment), None
    if method in (WHOLE, FIELD_OF_VIEW):
        mask, ink = ~padding, np.zeros_like(ink)  # pen on tissue is found as an artefact
    else:
        if segment is None:
            found, threshold = _threshold(image, padding | ink, config, mpp)
        else:
            found = segment(scanned)
        mask = _clean(found & ~padding & ~ink, config, mpp) & ~ink
    seeks = threshold is not None and config.threshold == "otsu" and config.mode == "brightfield"
    faint = area_mm2(find_faint(image, mask | padding | ink, mpp), mpp) if seeks else 0.0
    if not mask.any():
        raise _no_tissue(slide_id, reader.path, config, threshold, faint)
    downsample = mpp / reader.mpp
    record = TissueRecord(
        slide_id=slide_id,
        mpp=mpp,
        downsample_x=downsample,
        downsample_y=downsample,
        mode="fluorescence" if config.mode == "fluorescence" or dark else "brightfield",
        method=method,
        threshold=threshold,
        area_mm2=area_mm2(mask, mpp),
        coverage=round(float(mask.mean()), 6),
        components=int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1,
        ink_mm2=area_mm2(ink, mpp),
        faint_mm2=faint,
        warnings=_faint_warnings(faint, area_mm2(mask, mpp), threshold),
    )
    return TissueMask(mask, record)


def _balance_and_exclude(image: NDArray[np.uint8], config: Tissue, mpp: Mpp) -> tuple[NDArray[np.uint8], Bools, Bools]:
    """Return the image with glass balanced to white, unscanned padding and ink; in other modes unchanged and none."""
    nothing = np.zeros(image.shape[:2], bool)
    if config.mode != "brightfield":
        return image, nothing, nothing
    padding = find_padding(image)
    white = whiten(image, padding, find_glass(image, padding))
    return white, padding, find_ink(white, mpp) & ~padding if config.ink else nothing


def _read(reader: SlideReader, mpp: Mpp) -> NDArray[np.uint8]:
    """Read the whole slide, and replace a last row or column that the reader padded with white beyond the slide."""
    image = reader.read_whole(mpp)
    if image.shape[0] * mpp > reader.height * reader.mpp and image.shape[0] > 1:
        image[-1] = image[-2]
    if image.shape[1] * mpp > reader.width * reader.mpp and image.shape[1] > 1:
        image[:, -1] = image[:, -2]
    return image


def area_mm2(mask: Bools, mpp: Mpp) -> float:
    """Return the area of a mask at ``mpp`` µm per pixel, in mm²."""
    return round(float(mask.sum()) * mpp**2 / 1e6, 4)


def _method(image: NDArray[np.uint8], config: Tissue, mpp: Mpp, segment: Callable[..., Any] | None) -> str:
    """Return how tissue is found, as in the record."""
    if segment is not None:
        return "model"
    if config.mode == "whole":
        return WHOLE
    chooses = config.mode == "brightfield" and config.threshold == "otsu"
    if chooses and is_field_of_view(image, mpp, max_hole_um2=config.max_hole_um2):
        return FIELD_OF_VIEW
    channel = "intensity" if config.mode == "fluorescence" else config.channel
    return f"{channel}, {'otsu' if config.threshold == 'otsu' else 'fixed'}"


def is_fluorescence(image: NDArray[np.uint8]) -> bool:
    """Return whether an image is dark without any white: a brightfield image has bright areas."""
    darkest, brightest = channel_extremes(image)
    white = (darkest > WHITE_MIN).mean()
    return bool(np.median(brightest) < 80 and white < 0.005)


def _too_coarse(slide_id: str, reader: SlideReader, config: Tissue) -> SlideError:
    return SlideError(
        Reason.UNSUPPORTED,
        slide_id=slide_id,
        path=reader.path,
        detail=f"the slide has {reader.mpp:g} µm/px, coarser than the tissue model ({config.mpp:g} µm/px)",
        remedy="Scan the slide at a finer resolution, or train the tissue model at a coarser mpp",
    )


def _faint_warnings(faint: float, tissue: float, threshold: float | None) -> tuple[str, ...]:
    if faint <= FAINT_SHARE * tissue:
        return ()
    return (
        f"{faint:.2g} mm² are coloured more than glass but too pale to be taken as tissue ({tissue:.2g} mm², threshold "
        f"{threshold:g}). If they are tissue, set a lower tissue.threshold, or use tissue.model.",
    )


def _no_tissue(slide_id: str, path: Path, config: Tissue, threshold: float | None, faint: float) -> SlideError:
    pale = f"; {faint:.2g} mm² are coloured more than glass but paler than that" if faint else ""
    return SlideError(
        Reason.NO_TISSUE,
        slide_id=slide_id,
        path=path,
        detail=f"found no tissue larger than {config.min_area_um2:g} µm² (threshold {threshold}){pale}",
        remedy="Check the slide. If it shows tissue, lower tissue.threshold or tissue.min_area_um2",
    )


def _fluorescence(slide_id: str, path: Path) -> SlideError:
    return SlideError(
        Reason.FLUORESCENCE,
        slide_id=slide_id,
        path=path,
        detail="the background is dark and no area is white, as in fluorescence images",
        remedy="Set tissue.mode: fluorescence for a cohort of fluorescence slides, or remove the slide",
    )


def _signal(image: NDArray[np.uint8], config: Tissue) -> NDArray[np.uint8]:
    """Return the channel to be thresholded, in which tissue has high values."""
    if config.mode == "fluorescence":
        return channel_extremes(image)[1]
    if config.channel == "saturation":
        return chroma(image)
    if config.channel == "red":
        return 255 - image[..., 0]
    return 255 - np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _threshold(image: NDArray[np.uint8], excluded: Bools, config: Tissue, mpp: Mpp) -> tuple[Bools, float]:
    # The image is blurred before the channel is computed, because max - min of noisy channels would look like colour.
    smooth = cv2.GaussianBlur(image, (0, 0), config.blur_um / mpp) if config.blur_um > 0 else image
    signal = _signal(np.asarray(smooth, np.uint8), config)
    if config.threshold != "otsu":
        fixed = float(config.threshold)
        return (signal >= fixed) & ~excluded, fixed
    usable = signal[~excluded]
    if usable.size == 0:
        return np.zeros_like(excluded), 0.0
    scale = LOGARITHM if config.mode == "fluorescence" else ROOT
    scaled = cv2.LUT(usable.reshape(-1, 1), scale)
    cut, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    otsu = float(np.flatnonzero(scale <= cut)[-1])
    empty = _empty_level(usable, config)
    highest = np.inf if config.mode == "fluorescence" else empty + MAX_CONTRAST
    threshold = min(max(otsu, empty + MIN_CONTRAST), highest)
    return (signal > threshold) & ~excluded, threshold


def _empty_level(signal: NDArray[np.uint8], config: Tissue) -> float:
    """Return the upper end of the signal without tissue: its mode plus three robust standard deviations of noise.

    After white balance, glass is near zero; a slide full of tissue has no glass. In fluorescence the background is
    the lowest signal.
    """
    if config.mode == "fluorescence":
        return float(np.percentile(signal, 1))
    glass = signal[signal <= GLASS_SIGNAL]
    if glass.size < 0.01 * signal.size:
        return 0.0
    glass = glass[glass <= np.median(glass)]  # the upper half may contain faint tissue
    mode = float(np.bincount(glass).argmax())
    return mode + 3 * 1.4826 * float(np.median(np.abs(glass - mode)))


def _clean(mask: Bools, config: Tissue, mpp: Mpp) -> Bools:
    """Close gaps, remove specks and lines, fill holes, and grow or shrink the mask."""
    cleaned = mask.astype(np.uint8)
    if radius := round(config.close_um / 2 / mpp):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        cleaned = np.asarray(cv2.morphologyEx(cleaned, cv2.MORPH_CLOSE, kernel), np.uint8)
    cleaned = _without_specks_and_lines(cleaned, config.min_area_um2, mpp)
    cleaned = _without_holes(cleaned, config.max_hole_um2 / mpp**2)
    if config.grow_um > 0:
        return cv2.distanceTransform(1 - cleaned, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= config.grow_um / mpp
    if config.grow_um < 0:
        return cv2.distanceTransform(cleaned, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > -config.grow_um / mpp
    return cleaned.astype(bool)


def _without_specks_and_lines(mask: NDArray[np.uint8], min_area_um2: float, mpp: Mpp) -> NDArray[np.uint8]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA] * mpp**2
    length = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) * mpp
    keep = area >= min_area_um2
    for piece in np.flatnonzero(keep & (length > LINE_LENGTH_UM)):
        x, y, w, h = stats[piece, :4]
        inside = np.pad((labels[y : y + h, x : x + w] == piece).astype(np.uint8), 1)
        keep[piece] = 2 * cv2.distanceTransform(inside, cv2.DIST_L2, 3).max() * mpp > LINE_WIDTH_UM
    keep[0] = False
    return keep[labels].astype(np.uint8) if count > 1 else np.zeros_like(mask)


def _without_holes(mask: NDArray[np.uint8], max_hole_px: float) -> NDArray[np.uint8]:
    """Fill holes up to a size. Background components that reach the image border are not holes."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    x, y, w, h, area = stats.T
    touches = (x == 0) | (y == 0) | (x + w == mask.shape[1]) | (y + h == mask.shape[0])
    fill = (area <= max_hole_px) & ~touches
    fill[0] = False
    return mask | fill[labels].astype(np.uint8)
