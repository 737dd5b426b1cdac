"""Tables of the catalog about slides with several readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined

CONSENSUS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("slide_id", "method", "readers")),
        *((name, pa.float64()) for name in ("fleiss_kappa", "compared_mm2", "undecided_mm2")),
    ]
)
PAIR_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("slide_id", "reader", "other", "class", "other_class")),
        ("area_mm2", pa.float64()),
    ]
)


def reader_tables(
    annotations: Mapping[str, AnnotationRecord | Quarantined], manifests: Mapping[str, Manifest | Quarantined]
) -> dict[str, pa.Table]:
    """Tables ``consensus``, a row per slide with several readers, and ``reader_pairs``, of areas by two labels.

    Labels are empty where a reader has no class. All measures of agreement follow from ``reader_pairs``.
    """
    found = list(_usable(annotations, manifests))
    slides = [
        {
            "slide_id": record.slide_id,
            "method": consensus.method,
            "readers": ", ".join(one.reader for one in consensus.readers),
            "fleiss_kappa": consensus.fleiss_kappa,
            "compared_mm2": consensus.compared_px * mm2,
            "undecided_mm2": consensus.undecided_px * mm2,
        }
        for record, mm2 in found
        if (consensus := record.consensus)
    ]
    pairs = [
        {
            "slide_id": record.slide_id,
            "reader": pair.first,
            "other": pair.second,
            "class": count.first,
            "other_class": count.second,
            "area_mm2": count.area_px * mm2,
        }
        for record, mm2 in found
        if record.consensus
        for pair in record.consensus.pairs
        for count in pair.counts
    ]
    return {
        "consensus": pa.Table.from_pylist(slides, schema=CONSENSUS_SCHEMA),
        "reader_pairs": pa.Table.from_pylist(pairs, schema=PAIR_SCHEMA),
    }


def _usable(
    annotations: Mapping[str, AnnotationRecord | Quarantined], manifests: Mapping[str, Manifest | Quarantined]
) -> Iterator[tuple[AnnotationRecord, float]]:
    """Records of slides with several readers, and mm² per square level-0 pixel."""
    for slide, record in annotations.items():
        manifest = manifests.get(slide)
        if isinstance(record, AnnotationRecord) and record.consensus and isinstance(manifest, Manifest):
            yield record, (manifest.mpp / 1000) ** 2
