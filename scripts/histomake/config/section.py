"""Base class of the sections of the configuration: strict, immutable, and with a canonical dump."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=60)]
Share = Annotated[float, Field(ge=0, le=1)]
Decode = Literal["cpu", "auto"]
"""Where the tiles of slides are decoded; auto: on the GPU, if its pixels are like those of the CPU."""

NO_BOOLEAN = "no_boolean"
"""Type of pydantic's error for true or false in place of a number."""


class Section(BaseModel):
    """A section of the configuration. Unknown keys are errors, and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false for numbers: pydantic takes them for 1 and 0, and YAML reads yes, no, on, off so."""
        types = set(_types(cls.model_fields[str(info.field_name)].annotation))
        if types & {int, float} and bool not in types and _holds_boolean(value):
            raise PydanticCustomError(NO_BOOLEAN, "Input should be a number, not true or false")
        return value

    def dump(self, *keys: str) -> dict[str, Any]:
        """Return plain values with sorted keys, as used in the params of rules; with ``keys``, of those alone."""
        return _sorted(self.model_dump(mode="json", include=set(keys) or None))


def _holds_boolean(value: Any) -> bool:
    """Whether a value is true or false, or a list with such an item. Mappings are left to their own types."""
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_boolean, value)))


def _types(annotation: Any) -> Iterator[Any]:
    """The types that a type is made of."""
    yield annotation
    for inner in (*typing.get_args(annotation), getattr(annotation, "__supertype__", None)):
        if inner is not None:
            yield from _types(inner)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
