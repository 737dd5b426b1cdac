"""Names and order of a network's outputs.

The order is written into every trained model: changing it changes results. So this module is counted by code digests,
which `histomake.config` is not.
"""

from __future__ import annotations

from histomake.base.kinds import Kind
from histomake.config import Target
from histomake.target.kinds import LEARNED


def outputs_of(kind: Kind, target: Target) -> list[str]:
    """Names of a network's outputs, in order.

    These are the classes, preceded by `BACKGROUND` where a segmentation learns it. A regression without classes has an
    output for each of its columns of the sheet, named after it.
    """
    return LEARNED[kind].outputs(target)
