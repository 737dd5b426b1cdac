"""Hypothesis strategies for records, made from the types of their fields."""

from __future__ import annotations

from typing import Any

import msgspec.inspect
from histomake.base.records.record import Versioned
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


def records(kind: type[Versioned]) -> st.SearchStrategy[Any]:
    """Records of a class, every field filled within its bounds."""
    return _of(msgspec.inspect.type_info(kind))


def _of(kind: Any) -> st.SearchStrategy[Any]:
    match kind:
        case msgspec.inspect.StructType():
            return st.builds(kind.cls, **{field.name: _of(field.type) for field in kind.fields})
        case msgspec.inspect.UnionType():
            return st.one_of(map(_of, kind.types))
        case msgspec.inspect.DictType():
            return st.dictionaries(_of(kind.key_type), _of(kind.value_type), max_size=3)
        case msgspec.inspect.ListType():
            return st.lists(_of(kind.item_type), max_size=3)
        case msgspec.inspect.VarTupleType():
            return st.lists(_of(kind.item_type), max_size=3).map(tuple)
        case msgspec.inspect.TupleType():
            return st.tuples(*map(_of, kind.item_types))
        case msgspec.inspect.LiteralType():
            return st.sampled_from(kind.values)
        case msgspec.inspect.EnumType():
            return st.sampled_from(list(kind.cls))
        case msgspec.inspect.IntType():
            return st.integers(0 if kind.ge == 0 else 1 if kind.gt == 0 else -(2**40), 2**53)
        case msgspec.inspect.FloatType():
            return NUMBERS.map(abs).filter(bool) if kind.gt == 0 else NUMBERS
    scalars = {
        msgspec.inspect.AnyType: PLAIN,
        msgspec.inspect.BoolType: st.booleans(),
        msgspec.inspect.NoneType: st.none(),
        msgspec.inspect.StrType: TEXT,
    }
    return scalars[type(kind)]
