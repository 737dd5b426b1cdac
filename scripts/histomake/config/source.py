"""Configuration files as they are written: repeated keys, numbers that are not read as they look, lines of values.

YAML 1.1, which Snakemake reads, keeps the last of two equal keys without a warning. It reads ``no`` and ``on`` as false
and true, ``010`` as the octal number 8, ``1:30`` as 90 and ``2024-01-02`` as a date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from histomake.base.errors import ConfigError

UNCLEAR_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?)")
"""Numbers that YAML 1.1 does not read as decimal ones: octal ones, and those of base 60."""

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
MERGE = "tag:yaml.org,2002:merge"
KEY = "[key]"
"""Last part of the place of a key, in the errors of pydantic."""


@dataclass(frozen=True)
class Written:
    """A value as it is written: the line of its key, its text, and what YAML reads; ``plain``: it has no quotes."""

    line: int
    text: str
    value: Any
    plain: bool

    @property
    def reading(self) -> str:
        """What YAML reads, if it looks different."""
        return f". YAML reads {self.text} as {_kind(self.value)}" if self.plain and self.text else ""

    @property
    def cure(self) -> str:
        """The remedy if text is expected."""
        return f'{self.reading}; put it in quotes: "{self.text}"' if self.reading else ""


class ConfigFile:
    """A configuration file. Raises ConfigError if it is not valid YAML or JSON."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        try:
            self._text = _without_tabs(Path(path).read_text(encoding="utf-8"))
            self._root = yaml.compose(self._text, Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from None

    def values(self) -> dict[str, Any]:
        """The content; empty for an empty file. Raises ConfigError for values that cannot be read."""
        try:
            found = yaml.safe_load(self._text) if self._root else {}
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{self.path} is not valid YAML: {error}") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{self.path} does not consist of keys with values (key: value)")
        return found

    def problems(self) -> list[str]:
        """Keys that are given twice, and numbers that are not read as they look, with their lines."""
        return list(_problems(self._root, "", set())) if self._root else []

    def find(self, place: Sequence[Any], value: Any) -> Written | None:
        """The value, or the key, at a place of an error of pydantic; of what is not written, the nearest one above.

        None if the file has another value there: then it was given on the command line, or in another file.
        """
        node, key = self._root, None
        for step in place:
            if step == KEY and key is not None:
                return _written(key, key)
            found = _child(node, step)
            if found is None:
                break
            key, node = found
        if key is None or node is None:
            return None
        written = _written(key, node)
        return written if not isinstance(node, yaml.ScalarNode) or repr(written.value) == repr(value) else None


def _without_tabs(text: str) -> str:
    """The text; of JSON without tabs, which YAML does not allow. In JSON they are never part of a value."""
    try:
        json.loads(text)
    except ValueError:
        return text
    return text.replace("\t", " ")


def _read(node: yaml.ScalarNode) -> Any:
    return yaml.constructor.SafeConstructor().construct_document(node)


def _written(key: yaml.Node, node: yaml.Node) -> Written:
    line = key.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode):
        return Written(line, "", None, plain=False)
    return Written(line, node.value, _read(node), plain=node.style is None)


def _child(node: yaml.Node | None, step: Any) -> tuple[yaml.Node, yaml.Node] | None:
    """Key and value of an item of a mapping or a list; the item of a list is its own key."""
    if isinstance(node, yaml.MappingNode):
        scalars = ((k, v, _read(k)) for k, v in node.value if isinstance(k, yaml.ScalarNode))
        return next(((k, v) for k, v, name in scalars if step in (name, str(name))), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None


def _problems(node: yaml.Node, place: str, seen: set[int]) -> Iterator[str]:
    """Problems of a value and of what it contains; ``seen``: visited nodes, since aliases can form a circle."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        if node.style is None and node.tag in NUMBERS and UNCLEAR_NUMBER.fullmatch(node.value):
            value = _read(node)
            yield (
                f"line {node.start_mark.line + 1}: YAML reads {node.value} as the number {value}; write {value}, or "
                f'"{node.value}" in quotes if it is text'
            )
        return
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _problems(item, place, seen)
        return
    lines: dict[Any, int] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "?"
        inner = f"{place}.{name}" if place else name
        if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
            line, read = key.start_mark.line + 1, _read(key)
            if read in lines:
                yield f"line {line}: {inner} is given twice, first in line {lines[read]}; keep one of them"
            lines.setdefault(read, line)
            yield from _problems(key, inner, seen)
        yield from _problems(value, inner, seen)


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", False: "false", True: "true"}[value]
    return f"the number {value}" if isinstance(value, int | float) else f"a {type(value).__name__}"
