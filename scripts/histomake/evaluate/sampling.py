"""Bootstrap samples of patients, and intervals from them."""

from __future__ import annotations

import numpy as np

from histomake.base.records.metrics import MetricValue
from histomake.base.rng import ORDER, counter_rng

BOOTSTRAPS = 1000
INTERVAL = (2.5, 97.5)


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


def summarise(values: np.ndarray) -> MetricValue:
    """Value and interval from ``values`` (1 + bootstraps,): the data's first. Undefined values are left out."""
    defined = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(defined, INTERVAL) if len(defined) else (np.nan, np.nan)
    spread = defined.std(ddof=1) if len(defined) > 1 else np.nan
    numbers = {"value": values[0], "low": low, "high": high, "se": spread}
    plain = {key: float(value) if np.isfinite(value) else None for key, value in numbers.items()}
    return MetricValue(**plain, samples=len(defined))
