"""Typed errors: what is wrong, with which slide and file, and the remedy."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any


class HistomakeError(Exception):
    """An error that the user can act on. Its message is complete and needs no traceback."""


class ConfigError(HistomakeError):
    """The configuration or the slide sheet is invalid. The message lists all problems, not only the first."""


class Reason(StrEnum):
    """Why a slide is in quarantine. The values are stored in records and tables: never rename one."""

    UNREADABLE = "unreadable"
    UNSUPPORTED = "unsupported"
    """The file is whole, but uses a feature that is not read."""
    DAMAGED = "damaged"
    """The file contradicts itself or cannot be parsed."""
    TRUNCATED = "truncated"
    DAMAGED_TILES = "damaged_tiles"
    NO_MPP = "no_mpp"
    IMPLAUSIBLE_SIZE = "implausible_size"
    CHECKSUM = "checksum"
    NO_TISSUE = "no_tissue"
    NO_CORES = "no_cores"
    """The tissue of a microarray is no regular grid of cores."""
    FLUORESCENCE = "fluorescence"
    BAD_ANNOTATION = "bad_annotation"
    OUT_OF_MEMORY = "out_of_memory"
    """The slide needs more memory than its job may have."""
    TOO_COARSE = "too_coarse"
    """The pixels of the slide are larger than a model expects."""


class SlideError(HistomakeError):
    """One slide cannot be used. The workflow records the error and processes all other slides."""

    def __init__(self, reason: Reason, *, slide_id: str, path: Path | str, detail: str, remedy: str) -> None:
        self.reason = reason
        self.slide_id = slide_id
        self.path = str(path)
        self.detail = detail
        self.remedy = remedy
        super().__init__(f"slide {slide_id} ({path}): {detail}. {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its fields, because loader processes send it."""
        fields = {name: getattr(self, name) for name in ("slide_id", "path", "detail", "remedy")}
        return partial(SlideError, self.reason, **fields), ()

    def at(self, place: str) -> SlideError:
        """The same error, whose detail begins with the place at which it was met."""
        return SlideError(
            self.reason,
            slide_id=self.slide_id,
            path=self.path,
            detail=f"{place}: {self.detail}",
            remedy=self.remedy,
        )
