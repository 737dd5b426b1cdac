"""Values and intervals from bootstrap samples."""

from __future__ import annotations

import numpy as np

from histomake.base.patient_bootstrap import INTERVAL
from histomake.base.records.metrics import MetricValue


def summarise(values: np.ndarray) -> MetricValue:
    """Value and interval from ``values`` (1 + bootstraps,): the data's first. Undefined values are left out."""
    defined = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(defined, INTERVAL) if len(defined) else (np.nan, np.nan)
    spread = defined.std(ddof=1) if len(defined) > 1 else np.nan
    numbers = {"value": values[0], "low": low, "high": high, "se": spread}
    plain = {key: float(value) if np.isfinite(value) else None for key, value in numbers.items()}
    return MetricValue(**plain, samples=len(defined))
