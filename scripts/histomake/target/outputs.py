"""Names and order of a network's outputs.

The order is written into every trained model: changing it changes results. So this module is counted by code digests,
which `histomake.config` is not.
"""

from __future__ import annotations

from histomake.base.kinds import BACKGROUND
from histomake.config import Target


def outputs_of(kind: str, target: Target) -> list[str]:
    """Names of a network's outputs, in order.

    These are the classes, preceded by `BACKGROUND` where a segmentation learns it. A regression without classes has one
    output, named after the sheet's column.
    """
    if kind == "segmentation" and target.unlabelled == "background":
        return [BACKGROUND, *target.classes]
    if kind == "regression" and not target.classes:
        return [target.column or ""]
    return list(target.classes)
