"""Resolution and other metadata of a TIFF: Aperio's description, OME-XML, ImageJ's description, resolution tags."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import tifffile
from defusedxml import ElementTree

from histomake.slide.sources.base import DamagedSlideError

MICRONS_PER_INCH = 25_400.0
MICRONS_PER_UNIT = {
    "m": 1e6,
    "dm": 1e5,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "Å": 1e-4,
    "angstrom": 1e-4,
    "pm": 1e-6,
    "in": MICRONS_PER_INCH,
    "inch": MICRONS_PER_INCH,
    "thou": MICRONS_PER_INCH / 1000,
    "li": MICRONS_PER_INCH / 12,
    "pt": MICRONS_PER_INCH / 72,
    "ft": MICRONS_PER_INCH * 12,
}
"""Length units of OME (UnitsLength), and those that ImageJ writes."""

TAG_UNITS = {2: MICRONS_PER_INCH, 3: 10_000.0}
"""µm per unit of ResolutionUnit: inch and centimetre."""

# Other Aperio fields name the operator, the site, the barcode or the date, and may identify a patient.
APERIO_KEPT = ("AppMag", "MPP", "StripeWidth", "Parmset", "ICC Profile", "OriginalWidth", "OriginalHeight")

_NUMBER = re.compile(r"\s*([0-9]*[.,]?[0-9]+(?:[eE][-+]?\d+)?)\s*([^\W\d_]*)\s*")

Pair = tuple[float, float]


def microns(unit: str) -> float | None:
    """Return the number of µm in a unit of length, or None for a word that is none.

    The micro sign and the Greek letter, the Ångström sign and the letter, and escaped forms of either are the same.
    """
    text = re.sub(r"\\u([0-9A-Fa-f]{4})", lambda code: chr(int(code[1], 16)), unit.strip())
    return _BY_TEXT.get(_folded(text)) or _BY_WORD.get(_folded(text).lower())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


_BY_TEXT = {_folded(name): size for name, size in MICRONS_PER_UNIT.items()}
_BY_WORD = {_folded(name).lower(): size for name, size in MICRONS_PER_UNIT.items() if len(name) > 2}


def positive(text: str | None) -> float | None:
    """Return a positive number, with a decimal point or comma, perhaps in µm; None for any other text."""
    match = _NUMBER.fullmatch(text or "")
    if not match or (match[2] and microns(match[2]) != 1.0):
        return None
    value = float(match[1].replace(",", "."))
    return value if value > 0 else None


def aperio(description: str) -> tuple[Pair | None, dict[str, str]]:
    """Return µm per pixel and the technical fields of Aperio's description."""
    fields = dict(part.split("=", 1) for part in description.split("|")[1:] if "=" in part)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    mpp = positive(fields.get("MPP"))
    kept = {f"aperio.{key}": fields[key] for key in APERIO_KEPT if key in fields}
    return ((mpp, mpp) if mpp else None), kept


def check_aperio_size(description: str, width: int, height: int) -> None:
    """Raise DamagedSlideError if Aperio's description states sizes, but not that of the finest level.

    Its resolution holds for the size that it states. With a damaged header, a reduced level can seem to be the finest.
    """
    sizes = re.findall(r"(\d+)x(\d+)", description.partition("|")[0])
    if sizes and (str(width), str(height)) not in sizes:
        raise DamagedSlideError(f"the finest level has {width} x {height} px, but the description states other sizes")


def ome_images(xml: str) -> list[Any]:
    """Return the Image elements of OME-XML; none if it cannot be parsed, since the pixels may be intact."""
    try:
        return [element for element in ElementTree.fromstring(xml).iter() if _local(element) == "Image"]
    except ElementTree.ParseError:
        return []


def ome_pixels(image: Any) -> Any | None:
    """Return the Pixels element of an Image."""
    return next((element for element in image.iter() if _local(element) == "Pixels"), None)


def ome_channels(pixels: Any) -> list[Any]:
    """Return the Channel elements of Pixels."""
    return [element for element in pixels.iter() if _local(element) == "Channel"]


def _local(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def ome_mpp(pixels: Any) -> Pair | None:
    """Return µm per pixel of a Pixels element."""
    sizes = []
    for axis in "XY":
        size = positive(pixels.get(f"PhysicalSize{axis}"))
        unit = microns(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if size is None or unit is None:
            return None
        sizes.append(size * unit)
    return sizes[0], sizes[1]


def tag_mpp(page: tifffile.TiffPage, unit: str | None = None) -> Pair | None:
    """Return µm per pixel from the resolution tags. ``unit`` is ImageJ's, which counts where the tag states none."""
    size = TAG_UNITS.get(_tag(page, "ResolutionUnit")) or (microns(unit) if unit else None)
    sizes = []
    for name in ("XResolution", "YResolution"):
        value = _tag(page, name)
        if size is None or not isinstance(value, tuple) or len(value) != 2 or not value[0] or not value[1]:
            return None
        sizes.append(size * value[1] / value[0])
    return sizes[0], sizes[1]


def _tag(page: tifffile.TiffPage, name: str) -> Any:
    tag = page.tags.get(name)
    return None if tag is None else tag.value
