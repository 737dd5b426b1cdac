"""Owns what is generated from the configuration models: the JSON schema and the key tables of config/README.md."""

from __future__ import annotations

import json
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from histomake.config import Config, Section
from histomake.config.kinds import ACCEPTED

BEGIN = "<!-- keys: begin, made by `make docs` -->"
END = "<!-- keys: end -->"
SCHEMA = "schemas/config.schema.yaml"
SCHEMA_HEADER = "# Made by `make docs` from the configuration models; do not edit.\n"


def schema() -> str:
    """The JSON schema of config.yaml, as YAML: for editors and for the Snakemake Workflow Catalog."""
    written = Config.model_json_schema()
    definitions = written.pop("$defs")
    return SCHEMA_HEADER + yaml.safe_dump(_inlined(written, definitions), width=120, allow_unicode=True)


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """``node`` with every reference replaced by what it refers to: the Workflow Catalog reads nested sections only."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    referred = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else {}
    return {key: _inlined(value, definitions) for key, value in {**referred, **node}.items() if key != "$ref"}


def key_tables() -> str:
    """One Markdown table per section: key, type, default, what and why."""
    lines: list[str] = []
    pending: list[tuple[str, type[Section]]] = [("", Config)]
    while pending:
        prefix, section = pending.pop(0)
        lines += [f"### {prefix.rstrip('.') or 'Top level'}", ""]
        if section is not Config:
            lines += [(section.__doc__ or "").strip(), ""]
        lines += ["| key | values | default | what and why |", "|---|---|---|---|"]
        for name, field in section.model_fields.items():
            inner = _section_of(field.annotation)
            if inner is not None:
                mapping = typing.get_origin(field.annotation) is dict
                pending.append((f"{prefix}{name}.{'<name>.' if mapping else ''}", inner))
            lines.append(f"| `{name}` | {_values(field)} | {_default(field)} | {field.description} |")
        lines.append("")
    return "\n".join(lines)


def kind_table() -> str:
    """One Markdown table row per kind of task: its output, the values that fit it, and its smallest settings."""
    lines = [
        "### Kinds of tasks",
        "",
        "| `kind` | output | `target.source` | `train.loss` | `train.select` | smallest settings besides the grid |",
        "|---|---|---|---|---|---|",
    ]
    for kind, accepted in ACCEPTED.items():
        values = (", ".join(names) for names in (accepted.sources, accepted.losses, accepted.figures))
        example = yaml.safe_dump({"kind": kind.value, **accepted.example}, default_flow_style=True, width=1000).strip()
        lines.append(f"| {' | '.join([f'`{kind}`', accepted.meaning, *values, f'`{example}`'])} |")
    return "\n".join([*lines, ""])


def _section_of(annotation: Any) -> type[Section] | None:
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _values(field: FieldInfo) -> str:
    """What may stand there, in a user's words."""
    annotation = field.annotation
    if _section_of(annotation) is not None:
        return "by name" if typing.get_origin(annotation) is dict else "section"
    return _type_words(annotation).replace("|", "\\|")


def _type_words(annotation: Any) -> str:
    if isinstance(annotation, typing.NewType):
        return _type_words(annotation.__supertype__)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(map(str, args))
    if origin is typing.Annotated:
        return _type_words(args[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_words(a) for a in args if a is not type(None))
    if origin in (list, tuple):
        return f"list of {_type_words(args[0])}"
    if origin is dict:
        return f"{_type_words(args[0])}: {_type_words(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(str(member.value) for member in annotation)
    return {str: "text", int: "integer", float: "number", bool: "true, false"}.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if _section_of(field.annotation) is not None:
        return "see below"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def with_tables(readme: str) -> str:
    """``readme`` with the key tables between its two marks renewed."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{key_tables()}\n{kind_table()}\n{END}{tail}"


def write_documents(folder: Path) -> None:
    """Renew ``schemas/config.schema.yaml`` and ``README.md`` in the config folder."""
    (folder / SCHEMA).write_text(schema())
    readme = folder / "README.md"
    readme.write_text(with_tables(readme.read_text()))
