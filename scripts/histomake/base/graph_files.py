"""Columns of a file of a graph, and its size, which are known without the code that makes and reads graphs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from histomake.base.records.cohort import GraphSize
from histomake.base.vector_files import map_table, whole

LINKS = ("neighbours", "lengths_um")
"""Columns of the edges: rows of the connected nodes that come later, and lengths."""


def graph_size(path: Path | str) -> GraphSize | None:
    """How large the graph in a file is; None of a file of features. Raises HistomakeError if the file is damaged."""
    table = map_table(path, "a graph or features")
    if LINKS[0] not in table.column_names:
        return None
    values = sum(field.type.list_size for field in table.schema if pa.types.is_fixed_size_list(field.type))
    return GraphSize(nodes=table.num_rows, edges=len(whole(table[LINKS[0]]).flatten()), values=values)
