"""Which images of a TIFF are the slide, its levels and its thumbnail, and which are none of these.

An image is treated as part of the slide only if it is identified as such: first by the file (NewSubfileType, then
descriptions and names), then by its size; `tiff.TiffSource` compares the contents. All others are left out and listed,
because a label or a photograph of the glass contains the patient's name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tifffile

from histomake.slide.sources.base import UNKNOWN, TruncatedSlideError, UnsupportedSlideError, check_size
from histomake.slide.sources.tiff_metadata import Pair, ome_channels, ome_images, ome_mpp, ome_pixels

Page = tifffile.TiffPage

REDUCED, MASK = 1, 4
"""Bits of NewSubfileType."""
APERIO_ROLES = {1: "label", 9: "macro"}
"""NewSubfileType of the striped pages of an SVS."""

_ROLE = re.compile(r"^\W*(?:slide\W+)?(label|macro|overview|barcode|thumbnail)(?:\b|_)", re.IGNORECASE)
_ROLE_AT_END = re.compile(r"(?:[\W_])(label|macro|overview|barcode|thumbnail)(?:\W+image)?\W*$", re.IGNORECASE)
_ROLES = {"label": "label", "barcode": "label", "macro": "macro", "overview": "macro", "thumbnail": "thumbnail"}

PRIVATE = "left out: it may show the patient's name"

MAX_OTHER_SHARE = 0.25
"""Area, relative to the slide, from which another image of unknown content makes it doubtful which one is the slide."""


@dataclass
class Choice:
    """The images of a file. ``slide`` and every entry of ``reduced`` are one page, or one page per channel.

    Attributes:
        slide: The largest image.
        reduced: Candidates for its reduced levels, finest first, by the shape alone; each with its name.
        others: Images that nothing says anything about, by name.
        associated: Pages by role.
        left_out: Names of further images and why they are left out.
        mpp: Resolution of the slide if the metadata of the image itself states it.
    """

    slide: list[Page]
    reduced: list[tuple[str, list[Page]]] = field(default_factory=list)
    others: list[tuple[str, list[Page]]] = field(default_factory=list)
    associated: dict[str, Page] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    mpp: Pair | None = None


def choose(tiff: tifffile.TiffFile) -> Choice:
    """Choose the images of a file. Raises UnsupportedSlideError if several can be the slide."""
    if tiff.is_ome:
        return _choose_series(tiff)
    _refuse_hyperstacks(tiff)
    return _choose_pages(tiff)


def _refuse_hyperstacks(tiff: tifffile.TiffFile) -> None:
    """ImageJ writes one directory for all planes of a large stack, which then looks like a single grey image."""
    stack = (tiff.imagej_metadata or {}) if tiff.is_imagej else {}
    counts = {name: int(stack.get(name, 1)) for name in ("images", "channels", "slices", "frames")}
    if max(counts.values(), default=1) > 1:
        listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count > 1)
        raise UnsupportedSlideError(f"an ImageJ stack with {listed}; only one RGB or grey plane is read")


def _choose_pages(tiff: tifffile.TiffFile) -> Choice:
    pages = [page.aspage() for page in tiff.pages]
    names = [f"page {index}" for index in range(len(pages))]
    for index, page in enumerate(tuple(pages)):
        nested = [sub.aspage() for sub in page.pages or ()]
        pages += nested
        names += [f"page {index}, reduced image {i}" for i in range(len(nested))]
    choice, candidates = Choice([]), []
    for name, page in zip(names, pages, strict=True):
        role = _stated_role(page, aperio=tiff.is_svs)
        if role is None:
            candidates.append((name, page))
        elif role in choice.associated or role == "mask":
            choice.left_out[name] = UNKNOWN if role in ("mask", "thumbnail") else PRIVATE
        else:
            choice.associated[role] = page
    if not candidates:
        raise UnsupportedSlideError("every image of the file is a label, a photograph, a thumbnail or a mask")
    for _, page in candidates:
        check_size(int(page.imagewidth), int(page.imagelength))
    _split(choice, candidates)
    return choice


def _stated_role(page: Page, *, aperio: bool) -> str | None:
    """Return label, macro, thumbnail or mask if the page says so, or None."""
    kind = int(page.subfiletype)
    if kind & MASK:
        return "mask"
    named = next((_ROLES[match[1].lower()] for match in map(_ROLE.match, _titles(page)) if match), None)
    if aperio and not page.is_tiled:
        # In an SVS only tiled pages are levels: the thumbnail, which has the shape of the slide, is striped.
        return APERIO_ROLES.get(kind) or named or "thumbnail"
    if kind == 9:
        return APERIO_ROLES[kind]
    return named


def _titles(page: Page) -> list[str]:
    """Return the texts in which writers name an image: page name and the first two lines of the description."""
    name = page.tags.get("PageName")
    return [str(name.value) if name else "", *(page.description or "").splitlines()[:2]]


def _split(choice: Choice, candidates: list[tuple[str, Page]]) -> None:
    """Divide images by size into the slide, its possible levels and others."""
    whole = [(name, page) for name, page in candidates if not int(page.subfiletype) & REDUCED] or candidates
    finest = max(whole, key=lambda entry: _area(entry[1]))[1]
    larger = [page for _, page in candidates if _area(page) > _area(finest) and _is_smaller(finest, page)]
    finest = max(larger, key=_area, default=finest)
    choice.slide = [finest]
    for name, page in candidates:
        if page is finest:
            continue
        if page.shape == finest.shape:
            raise UnsupportedSlideError(
                "several pages have the full size; stacks of focal planes, channels or fields are not supported"
            )
        if page.dtype == finest.dtype and _is_smaller(page, finest):
            choice.reduced.append((name, [page]))
        else:
            choice.others.append((name, [page]))
    choice.reduced.sort(key=lambda entry: -_area(entry[1][0]))


def _area(page: Page) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _is_smaller(page: Page, finest: Page) -> bool:
    if not 0 < page.imagewidth < finest.imagewidth or page.samplesperpixel != finest.samplesperpixel:
        return False
    factor = finest.imagewidth / page.imagewidth
    return abs(finest.imagelength / factor - page.imagelength) <= 2


# OME-TIFF


def _choose_series(tiff: tifffile.TiffFile) -> Choice:
    """Choose the largest image that is not named as a label or photograph, with its own resolution and channels."""
    elements = ome_images(tiff.ome_metadata or "")
    if len(elements) != len(tiff.series):
        if len(tiff.series) > 1:
            raise UnsupportedSlideError(f"the OME-XML lists {len(elements)} images, the file has {len(tiff.series)}")
        elements = elements[:1] or [None]
    choice, candidates = Choice([]), []
    for index, (series, element) in enumerate(zip(tiff.series, elements, strict=True)):
        name = f"image {index}"
        title = str("" if element is None else element.get("Name", ""))
        match = _ROLE.match(title) or _ROLE_AT_END.search(title)
        if match:
            role = _ROLES[match[1].lower()]
            choice.left_out[name if role in choice.left_out else role] = UNKNOWN if role == "thumbnail" else PRIVATE
        else:
            candidates.append((name, series, element))
    if not candidates:
        raise UnsupportedSlideError("every image of the file is named as a label, a photograph or a thumbnail")
    candidates.sort(key=lambda entry: -_plane_area(entry[1]))
    (_, series, element), *others = candidates
    pixels = None if element is None else ome_pixels(element)
    if others and _plane_area(others[0][1]) == _plane_area(series):
        raise UnsupportedSlideError("several images of the file have the full size; each is a slide of its own")
    choice.mpp = None if pixels is None else ome_mpp(pixels)
    order = _channel_order(series, [] if pixels is None else ome_channels(pixels))
    levels = [[_pages_of(level, tiff)[i] for i in order or range(len(level.pages))] for level in series.levels]
    choice.slide = levels[0]
    choice.reduced = [(f"level {i}", pages) for i, pages in enumerate(levels[1:], start=1)]
    choice.others = [(name, _pages_of(other, tiff)[:1]) for name, other, _ in others]
    return choice


def _plane_area(series: Any) -> int:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return int(sizes.get("X", 0)) * int(sizes.get("Y", 0))


def _pages_of(level: Any, tiff: tifffile.TiffFile) -> list[Page]:
    pages = [page.aspage() for page in level.pages if page is not None]
    if not pages or len(pages) < len(level.pages):
        raise TruncatedSlideError("a level lacks pages")
    if any(page.parent is not tiff for page in pages):
        raise UnsupportedSlideError("the OME-XML distributes the image over several files, which is not supported")
    return pages


COLOURS = {"red": "R", "r": "R", "green": "G", "g": "G", "blue": "B", "b": "B"}
_RGBA = {0xFF0000: "R", 0x00FF00: "G", 0x0000FF: "B"}


def _channel_order(series: Any, channels: Sequence[Any]) -> tuple[int, ...] | None:
    """Return the places of red, green and blue among three planes, by name or colour; None for a single plane.

    Planes without any name and colour are red, green and blue, the default of OME readers.
    """
    if series.axes not in ("YX", "YXS", "SYX", "CYX") or (series.axes == "CYX" and series.shape[0] not in (1, 3)):
        raise UnsupportedSlideError(
            f"axes {series.axes} of shape {series.shape}: only one plane of grey, RGB or three channels is supported"
        )
    if series.axes != "CYX" or series.shape[0] == 1:
        return None
    names = [channel.get("Name") for channel in channels]
    colours = [channel.get("Color") for channel in channels]
    by_name = "".join(COLOURS.get(str(name).strip().lower(), "?") for name in names) if any(names) else ""
    by_colour = "".join(_colour(colour) for colour in colours) if any(colours) else ""
    stated = {letters for letters in (by_name, by_colour) if letters}
    if not stated or (stated == {"???"} and set(colours) <= {None, "-1"} and not any(names)):
        return (0, 1, 2)
    known = stated - {"???"} if by_name == "???" and _are_numbers(names) else stated
    if len(known) != 1 or set(order := known.pop()) != set("RGB") or len(order) != 3:
        raise UnsupportedSlideError(
            f"the three channels are named {', '.join(map(str, names))}: not red, green and blue, once each"
        )
    return order.index("R"), order.index("G"), order.index("B")


def _are_numbers(names: Sequence[str | None]) -> bool:
    """Return whether names only count the channels, such as "Channel 0"."""
    return all(re.fullmatch(r"(channel|ch|c)?[\W_]*\d+", str(name).strip(), re.IGNORECASE) for name in names)


def _colour(value: str | None) -> str:
    """Return R, G or B for OME's signed RGBA number, else a question mark."""
    try:
        return _RGBA.get((int(value or "-1") & 0xFFFFFFFF) >> 8, "?")
    except ValueError:
        return "?"
