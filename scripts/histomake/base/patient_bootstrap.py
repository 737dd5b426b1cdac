"""Bootstrap samples of patients (Efron & Tibshirani 1993, ch. 8: the unit that is independent is drawn)."""

from __future__ import annotations

import numpy as np

from histomake.base.rng import ORDER, counter_rng

BOOTSTRAPS = 1000

INTERVAL = (2.5, 97.5)
"""Percentiles of the samples that are the ends of an interval of 95 %."""


def patient_weights(patient: np.ndarray, patients: int, *, seed: int, bootstraps: int) -> np.ndarray:
    """How often each patient counts, float64 (1 + bootstraps, patients): row 0 is the data, the rest resamples.

    Only patients that have items are drawn.
    """
    present = np.unique(patient)
    weights = np.zeros((1 + bootstraps, patients))
    weights[0, present] = 1
    rng = counter_rng(seed, stream=ORDER)
    weights[1:, present] = rng.multinomial(len(present), np.full(len(present), 1 / len(present)), size=bootstraps)
    return weights
