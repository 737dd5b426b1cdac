"""The page that documents every record, generated from the models: ``docs/records.md``."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec.inspect

from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.attribution_checks import AttributionChecks
from histomake.base.records.cascade_card import CascadeCard
from histomake.base.records.cascade_metrics import CascadeMetrics
from histomake.base.records.cascade_thresholds import ThresholdsRecord
from histomake.base.records.cell_table import CellTableRecord
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.comparison import ComparisonRecord
from histomake.base.records.core_table import CoreTableRecord
from histomake.base.records.encoder_card import EncoderCard
from histomake.base.records.features import FeatureRecord
from histomake.base.records.generator_card import GeneratorCard
from histomake.base.records.generator_measures import GeneratorMeasures
from histomake.base.records.graph import GraphRecord
from histomake.base.records.leakage import LeakageRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.metrics import MetricsRecord
from histomake.base.records.model_card import ModelCard
from histomake.base.records.nuclei import NucleiRecord
from histomake.base.records.patch_cascade import PatchCascadeRecord
from histomake.base.records.patch_cascade_metrics import PatchCascadeMetrics
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.patch_thresholds import PatchThresholdsRecord
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import Part, Quarantined, Versioned
from histomake.base.records.run import RunRecord
from histomake.base.records.segmenter_card import SegmenterCard
from histomake.base.records.separation import SeparationRecord
from histomake.base.records.sidecar import Sidecar
from histomake.base.records.stains import StainRecord
from histomake.base.records.tissue import TissueRecord
from histomake.base.records.transfer_card import TransferCard
from histomake.base.records.transfer_measures import TransferMeasures
from histomake.base.records.warning import SlideWarning

PLACES: dict[type[Versioned], str] = {
    Manifest: "`slides/{slide}.json`",
    AnnotationRecord: "`annotations/{slide}.json`",
    TissueRecord: "`tissue/{slide}.json`",
    QualityRecord: "`quality/{slide}.json`",
    PatchTableRecord: "in the Parquet metadata of `patches/{grid}/{slide}.parquet`, key `histomake`",
    EncoderCard: "`model.json` in the folder of an encoder",
    SegmenterCard: "`model.json` in the folder of a network that finds tissue",
    FeatureRecord: "in the Arrow metadata of `features/{group}/{slide}.arrow`, key `histomake`",
    ModelCard: "`models/{task}/fold{k}/model.json`",
    StainRecord: "`models/{task}/fold{k}/training/stains.json`",
    CohortSlide: "`models/{task}/fold{k}.cohort.json`, `transfers/{name}/model/cohort.json`, "
    "`generators/{name}/cohort.json` (lists)",
    LeakageRecord: "`splits/{task}.leakage.json`",
    MetricsRecord: "`metrics/{task}.json`",
    ComparisonRecord: "`comparisons/{first}/{second}.json`",
    SeparationRecord: "`embeddings/{task}/fold{k}/separation.json`, `maps/{encoder}/separation.json`",
    AttributionChecks: "`attributions/{task}/fold{k}/checks.json`",
    CascadeCard: "`radhical/{cascade}/level{n}/model.json`",
    ThresholdsRecord: "`radhical/{cascade}/thresholds.json`",
    NucleiRecord: "`radhical/{cascade}/slides/{slide}.json`",
    CascadeMetrics: "`radhical/{cascade}/metrics.json`",
    CellTableRecord: "in the Parquet metadata of `cells/{name}/{slide}.parquet`, key `histomake`",
    CoreTableRecord: "in the Parquet metadata of `cores/{slide}.parquet`, key `histomake`",
    GraphRecord: "in the Arrow metadata of `graphs/{name}/{slide}.arrow`, key `histomake`",
    GeneratorMeasures: "`generators/{name}/measures.json`",
    GeneratorCard: "`generators/{name}/model/model.json`",
    TransferCard: "`transfers/{name}/model/model.json`",
    TransferMeasures: "`transfers/{name}/measures/{direction}.json`",
    PatchThresholdsRecord: "`cascades/{cascade}/fold{k}.thresholds.json`",
    PatchCascadeRecord: "`cascades/{cascade}/fold{k}/{slide}.json`",
    PatchCascadeMetrics: "`cascades/{cascade}/metrics.json`",
    Sidecar: "`{output}.meta.json`",
    RunRecord: "`audit/runs/{time}/run.json`",
    Quarantined: "`quarantine.json` (a list), and in place of the record of a stage",
    SlideWarning: "`warnings.json` (a list)",
}
"""Every record, and where it lies under the results folder."""

INTRODUCTION = """# Records

The JSON files of a results folder, field by field. This page is generated from `scripts/histomake/base/records` by
`python -m histomake document`.

- Files are UTF-8 JSON with sorted keys. They are written atomically and never hold NaN or infinity.
- `format` is an integer. Files without one, or with a text in its place, are format 0: histomake 0.1 wrote them.
- Older formats are upgraded when they are read; files on disk are not changed. A newer format is refused.
- Unknown fields are ignored. A field without a default must be present.
- Lengths and positions are level-0 pixels (pixels of the slide's finest level) unless stated otherwise.
- Digests are hexadecimal sha256.
- A type that is a link is an object. Its fields are described once, where it first appears.
"""

SCALARS = {
    msgspec.inspect.AnyType: "any JSON value",
    msgspec.inspect.BoolType: "true or false",
    msgspec.inspect.FloatType: "number",
    msgspec.inspect.IntType: "integer",
    msgspec.inspect.NoneType: "null",
    msgspec.inspect.StrType: "text",
}


def page() -> str:
    """The page as Markdown."""
    documented: set[type[Part]] = set(PLACES)
    lines = [INTRODUCTION]
    for kind in PLACES:
        parts = [part for part in _parts(kind) if part not in documented]
        documented |= set(parts)
        lines += _section(kind, parts)
    return "\n".join(lines)


def write_page(folder: Path) -> None:
    """Write ``records.md`` into the documentation folder."""
    folder.mkdir(exist_ok=True)
    (folder / "records.md").write_text(page())


def _section(kind: type[Versioned], parts: Sequence[type[Part]]) -> Iterator[str]:
    """A record and the parts that no section before it has."""
    yield f"## {_title(kind)}"
    yield ""
    yield f"{PLACES[kind]}, format {kind.newest()}. {_text(kind.__doc__)}"
    yield ""
    form = ("format", f"`{kind.newest()}`", "", "Format of the record.")
    yield from _table([form, *_rows(kind)])
    for part in parts:
        yield f"### {_title(part)}"
        yield ""
        yield _text(part.__doc__)
        yield ""
        yield from _table(list(_rows(part)))
    for old, upgrade in enumerate(kind.UPGRADES):
        yield f"Format {old}: {_text(upgrade.__doc__)}"
        yield ""


def _title(kind: type[msgspec.Struct]) -> str:
    """The heading of a record or of a part of records."""
    return kind.NAME.capitalize() if issubclass(kind, Versioned) else kind.__name__


def _link(kind: type[msgspec.Struct]) -> str:
    """A reference to the section of a record or a part."""
    return f"[{_title(kind)}](#{_title(kind).lower().replace(' ', '-')})"


def _table(rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, words, default, meaning in rows:
        yield f"| `{name}` | {words} | {default} | {meaning} |"
    yield ""


def _rows(kind: type[Part]) -> Iterator[tuple[str, str, str, str]]:
    if status := kind.__struct_config__.tag:
        yield "status", f"`{status}`", "", "`ok`, or `quarantined` for a slide that cannot be used."
    documented = field_texts(kind)
    for field in _fields(kind):
        yield field.encode_name, _words(field.type), _default(field), documented[field.name]


def _fields(kind: type[Part]) -> tuple[msgspec.inspect.Field, ...]:
    found = msgspec.inspect.type_info(kind)
    assert isinstance(found, msgspec.inspect.StructType)
    return found.fields


@cache
def field_texts(kind: type[Part]) -> dict[str, str]:
    """The string below every field of a model, base classes included; KeyError names a field without one."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base in (object, msgspec.Struct) or not issubclass(base, Part):
            continue
        body = ast.parse(dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                texts[field.target.id] = _text(text.value.value)
    return texts


def _text(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").split())


def _default(field: msgspec.inspect.Field) -> str:
    if field.required:
        return ""
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return f"`{msgspec.json.encode(default).decode()}`"


def _words(kind: msgspec.inspect.Type | Any) -> str:
    """A type in a reader's words."""
    match kind:
        case msgspec.inspect.StructType():
            return _link(kind.cls)
        case msgspec.inspect.UnionType():
            return " or ".join(_words(part) for part in kind.types)
        case msgspec.inspect.DictType(value_type=msgspec.inspect.AnyType()):
            return "object"
        case msgspec.inspect.DictType():
            return f"object of {_plural(kind.value_type)}"
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            return f"list of {_plural(kind.item_type)}"
        case msgspec.inspect.TupleType():
            return "list of " + ", ".join(map(_words, kind.item_types))
        case msgspec.inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case msgspec.inspect.EnumType():
            return ", ".join(f"`{member.value}`" for member in kind.cls)
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return SCALARS[type(kind)] + (" > 0" if kind.gt == 0 else " ≥ 0" if kind.ge == 0 else "")
    return SCALARS[type(kind)]


def _plural(kind: msgspec.inspect.Type) -> str:
    words = _words(kind)
    for noun in ("integer", "number", "text", "object", "list"):
        if words.startswith(noun):
            return words.replace(noun, f"{noun}s", 1)
    return words


def _parts(kind: type[Part]) -> list[type[Part]]:
    """The models inside a model, each once, in order of appearance."""
    found: dict[type[Part], None] = {}
    for field in _fields(kind):
        for inner in _structs(field.type):
            found |= {inner: None, **dict.fromkeys(_parts(inner))}
    return list(found)


def _structs(kind: msgspec.inspect.Type | Any) -> Iterator[type[Part]]:
    match kind:
        case msgspec.inspect.StructType() if issubclass(kind.cls, Part):
            yield kind.cls
        case msgspec.inspect.UnionType():
            for part in kind.types:
                yield from _structs(part)
        case msgspec.inspect.DictType():
            yield from _structs(kind.value_type)
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            yield from _structs(kind.item_type)
