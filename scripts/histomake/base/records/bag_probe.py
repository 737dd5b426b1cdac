"""What the prediction of a bag depends on, in the metadata of its table."""

from __future__ import annotations

import msgspec
import pyarrow as pa

KEY = b"bag_probe"
"""Key of the metadata."""

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of the patches that are taken away, or kept alone."""


class Removal(msgspec.Struct, frozen=True):
    """Changes of the scores of a bag when the first patches of an order are taken away, or kept alone.

    Mean absolute changes over the outputs, and over several shares of the patches (comprehensiveness and sufficiency of
    DeYoung et al. 2020). deletion: without the patches. insertion: with these alone. deletions, insertions: the same
    for each of SHARES.
    """

    deletion: float
    insertion: float
    deletions: list[float] = msgspec.field(default_factory=list)
    insertions: list[float] = msgspec.field(default_factory=list)


class BagProbe(msgspec.Struct, frozen=True):
    """Predictions of a bag with some of its patches.

    sizes: scores by number of patches, mean over several random bags; those of the whole bag where it is not larger.
    attention: removal of the patches of highest attention. random: of random ones. None: the bag has a single patch.
    """

    sizes: dict[str, list[float]]
    attention: Removal | None = None
    random: Removal | None = None


def with_probe(table: pa.Table, found: BagProbe) -> pa.Table:
    """The table with the record in its metadata."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: msgspec.json.encode(found)})


def probe_of(table: pa.Table) -> BagProbe | None:
    """The record in the metadata of a table; None if there is none, as of a slide without patches."""
    raw = (table.schema.metadata or {}).get(KEY)
    return None if raw is None else msgspec.json.decode(raw, type=BagProbe)
