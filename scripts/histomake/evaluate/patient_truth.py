"""Truth of a patient from the truth of the patient's slides, by the rule ``predict.patient_truth``.

Each rule gets the truth of at least one slide: int64 (slides,), the class of each, or float (slides, outputs), 1 for
every label that a slide has and 0 for the others. It returns the truth of the patient, int64 () or float (outputs,), or
unknown (UNLABELLED, NaN) if it cannot decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from histomake.base.records.metrics import PatientTruth
from histomake.target.targets import UNLABELLED

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rule = Callable[["NDArray[Any]"], "NDArray[Any]"]


def last_class(truth: NDArray[Any]) -> NDArray[Any]:
    """The last of the slides' classes in the order of target.classes; every label that any slide has."""
    return np.asarray(truth.max(axis=0))


def first_class(truth: NDArray[Any]) -> NDArray[Any]:
    """The first of the slides' classes in the order of target.classes; the labels that all slides have."""
    return np.asarray(truth.min(axis=0))


def majority(truth: NDArray[Any]) -> NDArray[Any]:
    """The most frequent truth among the slides; unknown if there is a tie."""
    if truth.ndim == 1:
        values, counts = np.unique(truth, return_counts=True)
        most = values[counts == counts.max()]
        return most[0] if len(most) == 1 else _unknown(truth)
    share = truth.mean(axis=0)
    return _unknown(truth) if (share == 0.5).any() else (share > 0.5).astype(truth.dtype)


def unanimous(truth: NDArray[Any]) -> NDArray[Any]:
    """The truth that all slides share; unknown if they differ."""
    return np.asarray(truth[0]) if (truth == truth[0]).all() else _unknown(truth)


def _unknown(truth: NDArray[Any]) -> NDArray[Any]:
    value = np.nan if np.issubdtype(truth.dtype, np.floating) else UNLABELLED
    return np.full(truth.shape[1:], value, truth.dtype)


def mean(truth: NDArray[np.floating]) -> NDArray[np.floating]:
    """Mean of the known values."""
    return np.nanmean(truth, axis=0)


REFUSE: PatientTruth = "refuse"
"""Rule with which the patient level is not evaluated at all if the slides of any patient differ."""

OF_CLASSES: dict[PatientTruth, Rule] = {REFUSE: unanimous, "any": last_class, "all": first_class, "majority": majority}
"""Rules for tasks with classes, by name."""

OF_SURVIVAL: dict[PatientTruth, Rule] = {REFUSE: unanimous}
"""A patient has one survival, which the sheet gives to all slides."""

OF_NUMBERS: dict[PatientTruth, Rule] = {REFUSE: mean}
"""Numbers are averaged as their predictions are, so that nothing has to be decided."""
