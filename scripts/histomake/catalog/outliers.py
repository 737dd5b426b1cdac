"""Table of the catalog with the measures of quality of each slide beside median and spread of the cohort."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import Quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.cohort.outliers import deviations, quality_values

SCHEMA = pa.schema(
    [("slide_id", pa.string()), ("measure", pa.string())]
    + [(name, pa.float64()) for name in ("value", "median", "spread", "z", "oddness")]
    + [("odd", pa.bool_())]
)


def outlier_table(
    quality: Mapping[str, QualityRecord | Quarantined], tissue: Mapping[str, TissueRecord | Quarantined]
) -> pa.Table:
    """Table ``outliers``, a row per slide and measure. Slides in quarantine have none and are not compared with."""
    usable = {
        slide: quality_values(record, found)
        for slide, record in sorted(quality.items())
        if isinstance(record, QualityRecord) and isinstance(found := tissue.get(slide), TissueRecord)
    }
    rows = [found._asdict() | {"odd": found.odd} for found in deviations(usable)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
