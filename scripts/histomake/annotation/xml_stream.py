"""Streams of XML events, safe against entities, and independent of the encodings that expat knows."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast
from xml.etree.ElementTree import ParseError, TreeBuilder

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from histomake.annotation.drawn import AnnotationError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

Events = Iterator[tuple[str, "Element"]]

DECLARED = re.compile(rb"""^(?:\xef\xbb\xbf)?<\?xml[^>]*\sencoding\s*=\s*["']([^"']+)["']""")
HEAD = 200
"""Bytes in which the XML declaration is looked for."""
KNOWN_TO_EXPAT = ("utf-8", "utf-16", "iso8859-1", "ascii")


@contextmanager
def open_events(path: Path) -> Iterator[tuple[Element, Events]]:
    """Yield the root element and the stream of (event, element) of an XML file, "start" and "end" of each element.

    Raises:
        AnnotationError: The file is not XML, is unsafe XML, or declares an encoding that Python does not know.
    """
    try:
        with path.open("rb") as stream:
            source, encoding = _as_utf8(stream)
            parser = ElementTree.DefusedXMLParser(target=TreeBuilder(), encoding=encoding, forbid_dtd=True)
            events = ElementTree.iterparse(source, events=("start", "end"), parser=parser)
            _, root = next(events)
            yield root, events
    except DefusedXmlException as error:
        raise AnnotationError(
            f"XML with a DTD or entities is refused because it can exhaust memory or read other files ({error!r})",
            "Export the annotation again; annotation programs do not write DTDs",
        ) from None
    except (ParseError, StopIteration, UnicodeDecodeError) as error:
        raise AnnotationError(f"not well-formed XML ({error})") from None


def _as_utf8(stream: IO[bytes]) -> tuple[IO[bytes], str | None]:
    """The stream, and the encoding that overrides its declaration. Encodings that expat lacks are decoded to UTF-8."""
    declared = DECLARED.match(stream.read(HEAD))
    stream.seek(0)
    if declared is None:
        return stream, None
    name = declared[1].decode("ascii", "replace")
    try:
        encoding = codecs.lookup(name)
    except LookupError:
        raise AnnotationError(f"the XML declares the unknown encoding {name!r}", "Save it as UTF-8") from None
    if encoding.name in KNOWN_TO_EXPAT:
        return stream, None
    return cast("IO[bytes]", codecs.EncodedFile(stream, "utf-8", encoding.name)), "utf-8"


def number(element: Element, name: str) -> float:
    """An attribute that must be a finite number. Some programs use the decimal comma of the locale."""
    text = element.get(name)
    try:
        value = float(text or "")
    except ValueError:
        raise AnnotationError(
            f"{name} of a <{element.tag}> is {'missing' if text is None else repr(text)}, not a number (decimal comma?)"
        ) from None
    if not math.isfinite(value):
        raise AnnotationError(f"{name} of a <{element.tag}> is {text!r}, which is not finite")
    return value


def points(elements: list[Element]) -> np.ndarray:
    """Vertices with attributes X and Y, float64 (n, 2)."""
    return np.array([(number(e, "X"), number(e, "Y")) for e in elements]).reshape(-1, 2)
