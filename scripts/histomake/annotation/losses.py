"""Parts of an annotation file that are not used, as sentences for the report."""

from __future__ import annotations

from collections.abc import Mapping

from histomake.base.records.annotation import AnnotationRecord

CLIPPED_SHARE = 0.001
"""Smaller shares of the area are lost wherever an outline is rounded at the edge of the slide."""


def losses(record: AnnotationRecord) -> list[str]:
    """One sentence for each kind of loss."""
    found = []
    if record.skipped:
        number = sum(record.skipped.values())
        found.append(f"{number} shapes of {record.source} have no area and are left out: {_listed(record.skipped)}.")
    if record.degenerate:
        found.append(f"{record.degenerate} outlines of {record.source} enclose nothing and are left out.")
    if record.cut_away:
        found.append(
            f"{record.cut_away} regions of {record.source} lie inside regions that annotations.cut_out names "
            f"({_listed(record.cut_out)}) and are left out."
        )
    if record.outside_share >= CLIPPED_SHARE:
        found.append(
            f"{record.outside_share:.1%} of the area annotated in {record.source} is outside the slide and left out."
        )
    return found


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
