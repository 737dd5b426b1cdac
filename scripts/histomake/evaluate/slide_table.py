"""Table of the test slides: how well the patches or pixels of each are predicted."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from histomake.base.files import atomic_file
from histomake.base.patient_bootstrap import patient_weights
from histomake.base.records.metrics import MetricValue
from histomake.base.rng import DRAW, counter_rng
from histomake.evaluate import statistics
from histomake.evaluate.items import SlidePrediction
from histomake.evaluate.kinds import EVALUATED
from histomake.evaluate.measuring import Measuring
from histomake.evaluate.sampling import summarise
from histomake.evaluate.slide_rates import ClassRates

RATES = ("accuracy", "sensitivity", "specificity", "auroc")

SCHEMA = pa.schema(
    [("slide_id", pa.string()), ("patient_id", pa.string()), ("fold", pa.int16()), ("class", pa.string())]
    + [("items", pa.int64()), ("positives", pa.int64())]
    + [(f"{rate}{end}", pa.float64()) for rate in RATES for end in ("", "_se")]
)
"""A row per slide, fold and class. Items are patches of known truth, or pixels of a segmentation."""


class SlideTable(NamedTuple):
    """``rows``: as SCHEMA says; ``means``: mean over the slides where a rate is defined, by class and rate."""

    rows: pa.Table
    means: dict[str, dict[str, MetricValue]]


def slide_table(predictions: Sequence[SlidePrediction], measuring: Measuring) -> SlideTable:
    """Rates of the patches or pixels of each slide of known truth, with standard errors by drawing patches.

    Means have intervals by drawing patients. Kinds without classes have no rows.
    """
    rates = EVALUATED[measuring.kind].slide_rates
    patients = sorted({prediction.patient_id for prediction in predictions})
    rows: list[dict[str, Any]] = []
    for prediction in predictions if rates is not None else ():
        # A slide's error must not depend on which others are tested.
        step = zlib.crc32(f"{prediction.fold} {prediction.slide_id}".encode())
        rng = counter_rng(measuring.seed, step=step, stream=DRAW)
        by_level = measuring.items([prediction], [prediction.patient_id])
        items = next(iter(by_level.values()))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = rates(prediction, items, measuring.classes, rng, measuring.bootstraps) if rates else []
        rows += [_row(prediction, one) for one in found]
    return SlideTable(pa.Table.from_pylist(rows, schema=SCHEMA), _means(rows, patients, measuring))


def write_slide_table(rows: pa.Table, path: Path | str) -> None:
    """Write the rows as CSV with a header, atomically. What is not defined is an empty cell."""
    with atomic_file(path) as aside:
        pyarrow.csv.write_csv(rows, aside, pyarrow.csv.WriteOptions(quoting_style="needed"))


def _row(prediction: SlidePrediction, found: ClassRates) -> dict[str, Any]:
    row: dict[str, Any] = {
        "slide_id": prediction.slide_id,
        "patient_id": prediction.patient_id,
        "fold": prediction.fold,
        "class": found.class_name,
        "items": found.items,
        "positives": found.positives,
    }
    for rate, values in found.values.items():
        one = summarise(values)
        row |= {rate: one.value, f"{rate}_se": one.se}
    return row


def _means(
    rows: Sequence[Mapping[str, Any]], patients: Sequence[str], measuring: Measuring
) -> dict[str, dict[str, MetricValue]]:
    means: dict[str, dict[str, MetricValue]] = {}
    for name in dict.fromkeys(row["class"] for row in rows):
        for rate in RATES:
            known = [row for row in rows if row["class"] == name and row.get(rate) is not None]
            if known:
                owner = np.array([patients.index(row["patient_id"]) for row in known])
                weights = patient_weights(owner, len(patients), seed=measuring.seed, bootstraps=measuring.bootstraps)
                values = statistics.mean_of(np.array([row[rate] for row in known]), owner, weights)
                means.setdefault(name, {})[rate] = summarise(values)
    return means
