"""Task kinds: what a network learns from and what it outputs.

Code that depends on the kind looks it up in its stage's table ``dict[Kind, ...]`` (`histomake.*.kinds`); it does not
compare values. So a new kind is one entry per table, and a test names each table that lacks it.
"""

from enum import StrEnum

BACKGROUND = "background"
"""Name of the output that learns unlabelled pixels. No class of the configuration may have it."""


class Kind(StrEnum):
    """Kind of a task: what its network learns from and outputs."""

    # The values are stored in model cards and configuration files: never rename one.
    CLASSIFICATION = "classification"
    """One class per patch."""

    MULTI_LABEL = "multi_label"
    """Any number of classes per patch, each decided on its own."""

    REGRESSION = "regression"
    """Numbers per patch."""

    SEGMENTATION = "segmentation"
    """One class per pixel."""

    SURVIVAL = "survival"
    """Risk of an event per slide or patient, learned from times to the event or to the end of observation."""
