"""Reading, checking, upgrading and writing of records.

A record is a JSON object on disk with an integer ``format``. Files of histomake 0.1 have none; they are format 0. In
memory a record always has the newest format: reading upgrades older ones.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import msgspec

from histomake.base.errors import HistomakeError, Reason, SlideError
from histomake.base.files import write_json
from histomake.base.units import Level0Pixels, Mpp

Json = dict[str, Any]
"""A decoded JSON object."""

Upgrade = Callable[[Json], Json]
"""Turns the content of one format into that of the next. The content is checked afterwards: fields may be missing."""

Positive = Annotated[float, msgspec.Meta(gt=0)]
PositiveMpp = Annotated[Mpp, msgspec.Meta(gt=0)]
SlideSize = Annotated[Level0Pixels, msgspec.Meta(gt=0)]
Size = Annotated[int, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


def same(content: Json) -> Json:
    """As format 1, without the key ``format``."""
    return content


MESSAGE = re.compile(r"^(?P<what>.*?)(?: - at `\$?\.?(?P<place>.*)`)?$", re.DOTALL)
"""A message of msgspec, and the JSON path at its end."""

MISSING = re.compile(r"^Object missing required field `(?P<field>.*)`$")


class RecordError(HistomakeError):
    """A record cannot be read or written. The message names the file, the field and the remedy."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object inside a record."""


class Versioned(Part, frozen=True, kw_only=True):
    """What all records share: a name, formats and how they are written.

    Unknown fields are ignored when reading, so that a newer version may add optional fields to a format. Removing or
    renaming a field, or changing its meaning, needs a new format: add an upgrade to ``UPGRADES``.
    """

    NAME: ClassVar[str] = "record"
    """What the record is, in messages."""

    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (same,)
    """The i-th function upgrades format i to i + 1. Their number is the newest format."""

    REMEDY: ClassVar[str] = "Delete it and run the workflow again, which writes a new one"
    """What to do about a damaged file."""

    @classmethod
    def newest(cls) -> int:
        """The format that is written."""
        return len(cls.UPGRADES)

    def dump(self) -> Json:
        """The content of the file as plain values."""
        return {"format": self.newest(), **msgspec.to_builtins(self)}

    def encode(self, path: Path | str) -> bytes:
        """The record as JSON text, for a file that holds more than it. Raises as `write` does, naming ``path``."""
        return json.dumps(_checked(self, path), sort_keys=True).encode()

    def write(self, path: Path | str) -> None:
        """Write the record atomically, as UTF-8 with sorted keys.

        Raises:
            RecordError: a value has a wrong type or is not finite, so that the file could not be read again.
        """
        write_json(path, _checked(self, path))


class Record(Versioned, frozen=True, kw_only=True):
    """A JSON object that fills a file or is an entry of a list."""

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a file.

        Raises:
            RecordError: it is not JSON, lacks a field, has a value of a wrong type, or has a newer format.
            FileNotFoundError: it does not exist.
        """
        return cls.decode(Path(path).read_bytes(), path)

    @classmethod
    def decode(cls, text: bytes | str, path: Path | str) -> Self:
        """Check and upgrade the content of a file; ``path`` is named in errors. Raises RecordError."""
        return _decode(text, cls, _head(text, cls, path), path)

    @classmethod
    def read_list(cls, path: Path | str) -> list[Self]:
        """Read a file that holds a list of records. Raises as `read` does."""
        try:
            entries = msgspec.json.decode(Path(path).read_bytes(), type=list[msgspec.Raw])
        except msgspec.MsgspecError as error:
            raise _invalid(cls, path, error) from error
        return [cls.decode(bytes(entry), f"{path}, entry {i}") for i, entry in enumerate(entries)]


class WeightsCard(Record, frozen=True, kw_only=True):
    """The description of the weights that lie beside it in ``model.safetensors``."""

    weights_sha256: str | None = None
    """sha256 of the file of the weights, which is compared when they are loaded; null in models of histomake 0.1."""


def complete(content: Json) -> Json:
    """In patch tables, entries have only ``slide_id``, ``reason`` and ``detail``."""
    return {"stage": "unknown", "path": "", "detail": "", "remedy": ""} | content


class Quarantined(Record, frozen=True, kw_only=True, tag_field="status", tag="quarantined"):
    """The record of a stage whose slide cannot be used, and the entries of ``quarantine.json``.

    Later stages of the slide repeat it.
    """

    NAME: ClassVar[str] = "quarantine entry"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (complete,)

    slide_id: str
    """Slide."""
    stage: str
    """Stage that found the problem: ``convert``, ``annotate``, ``presegment``, ``quality``, ``radhical``, \
``cores``, ``cells`` or ``graph``; or, if the damage showed only when patches were decoded, ``features``, ``train``, \
``predict``, ``embed``, ``attribute``, ``draw_map``, ``transfer``, ``measure``, ``overview`` or ``views``."""
    reason: Reason
    """Kind of problem. Values are never renamed."""
    path: str
    """File that has the problem."""
    detail: str
    """What is wrong with the file."""
    remedy: str
    """What to do about it."""

    @classmethod
    def of(cls, error: SlideError, stage: str) -> Self:
        """The entry for an error."""
        fields = {name: getattr(error, name) for name in ("slide_id", "reason", "path", "detail", "remedy")}
        return cls(stage=stage, **fields)

    def error(self) -> SlideError:
        """The error that the entry describes."""
        return SlideError(self.reason, slide_id=self.slide_id, path=self.path, detail=self.detail, remedy=self.remedy)


class StageRecord(Versioned, frozen=True, kw_only=True, tag_field="status", tag="ok"):
    """The record of one stage of one slide. In the file, ``status`` distinguishes it from a quarantine entry."""

    slide_id: str
    """Slide."""
    warnings: tuple[str, ...] = ()
    """What was left out, doubtful or assumed, in complete sentences. Shown in the report and at the end of a run."""

    @classmethod
    def read(cls, path: Path | str) -> Self | Quarantined:
        """Read a file; raises as `Record.read` does."""
        return cls.decode(Path(path).read_bytes(), path)

    @classmethod
    def decode(cls, text: bytes | str, path: Path | str) -> Self | Quarantined:
        """Check and upgrade the content of a file; ``path`` is named in errors. Raises RecordError."""
        head = _head(text, cls, path)
        if head.status is msgspec.UNSET:
            raise RecordError(f"{path} is not a valid {cls.NAME}: status is missing. {cls.REMEDY}")
        if head.status == "quarantined":
            return _decode(text, Quarantined, head, path)
        return _decode(text, cls, head, path)

    @classmethod
    def read_usable(cls, path: Path | str) -> Self:
        """Read the record of a slide that must be usable; raises SlideError where it is in quarantine."""
        return usable(cls.read(path))


def usable[R: StageRecord](record: R | Quarantined) -> R:
    """The record itself; raises SlideError where the slide is in quarantine."""
    if isinstance(record, Quarantined):
        raise record.error()
    return record


def quarantined(*records: StageRecord | Quarantined) -> Quarantined | None:
    """The first quarantine entry among records of a slide's stages, if any."""
    return next((record for record in records if isinstance(record, Quarantined)), None)


def write_list(path: Path | str, records: Sequence[Record]) -> None:
    """Write records as a JSON list; as `Versioned.write`."""
    write_json(path, [_checked(record, path) for record in records])


class _Head(msgspec.Struct):
    """Fields that decide how an object is read. Of 0.1, slides and annotations have a text as ``format``."""

    format: Any = 0
    status: Any = msgspec.UNSET


def _head(text: bytes | str, kind: type[Versioned], path: Path | str) -> _Head:
    try:
        head = msgspec.json.decode(text, type=_Head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _invalid(kind, path, error) from error
    if not isinstance(head.format, int):
        head.format = 0
    return head


_OF_UPGRADES = (UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError)
"""What the upgrade of an older format raises on a damaged one, and the decoder on bytes that are no UTF-8."""


def _decode[V: Versioned](text: bytes | str, kind: type[V], head: _Head, path: Path | str) -> V:
    if head.format > kind.newest():
        raise RecordError(
            f"{path} is a {kind.NAME} of format {head.format}; this version of histomake reads formats up to "
            f"{kind.newest()}. Use the version of histomake that wrote it, or a newer one"
        )
    try:
        if head.format == kind.newest():
            return msgspec.json.decode(text, type=kind)
        content = msgspec.json.decode(text)
        for upgrade in kind.UPGRADES[max(0, head.format) :]:
            content = upgrade(content)
        return msgspec.convert(content, kind)
    except (msgspec.MsgspecError, *_OF_UPGRADES) as error:
        raise _invalid(kind, path, error) from error


def _checked(record: Versioned, path: Path | str) -> Json:
    """The content of a record, after checking that it can be read again."""
    try:
        content = record.dump()
        msgspec.convert(content, type(record))
    except (msgspec.ValidationError, TypeError) as error:
        raise RecordError(
            f"{path}: the {record.NAME} cannot be written: {_explain(error)}. This is a bug in histomake: report it"
        ) from error
    place = next(_not_finite(content, ""), None)
    if place is not None:
        raise RecordError(
            f"{path}: the {record.NAME} cannot be written: {place} is not a finite number, which JSON cannot hold. "
            "This is a bug in histomake: report it"
        )
    return content


def _not_finite(value: object, place: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _not_finite(item, f"{place}[{i}]")


def _invalid(kind: type[Versioned], path: Path | str, error: Exception) -> RecordError:
    return RecordError(f"{path} is not a valid {kind.NAME}: {_explain(error)}. {kind.REMEDY}")


def _explain(error: Exception) -> str:
    """An error of msgspec as ``field: what is wrong``."""
    found = MESSAGE.match(str(error))
    if found is None:
        return str(error)
    what, place = found["what"], (found["place"] or "").replace("`", "'")
    if missing := MISSING.match(what):
        return f"{place}.{missing['field']} is missing" if place else f"{missing['field']} is missing"
    what = what.replace("`", "'")
    return f"{place}: {what}" if place else what
