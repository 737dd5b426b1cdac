"""Metrics of subgroups of the test set, and whether they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import chi2

from histomake.base.records.metrics import Heterogeneity, Subgroup, SubgroupTable
from histomake.evaluate.items import SlidePrediction
from histomake.evaluate.measuring import Measuring
from histomake.evaluate.slide_rates import EVERY_CLASS

LEAST_PATIENTS = 10
"""Patients below which the standard error of a group is not reliable enough for a test."""

LEAST_DEFINED = 0.9
"""Share of the bootstrap samples in which a metric must be defined: a standard error of fewer is that of lucky ones."""


def subgroup_tables(
    predictions: Sequence[SlidePrediction], values: Sequence[str], measuring: Measuring, levels: Sequence[str]
) -> dict[str, SubgroupTable]:
    """Metrics of the slides of each value of a column by level, with tests of heterogeneity.

    ``values``: of each prediction, empty where the cell is empty; ``levels``: which are measured. A patient with slides
    of several values is a patient of each of them, represented by its own slides. The groups are then not independent,
    and there is no test.
    """
    names = sorted(set(values), key=lambda value: (not value, value))
    members = {name: [one for one, value in zip(predictions, values, strict=True) if value == name] for name in names}
    measured = {name: measuring.levels(own, levels, calibrated=True) for name, own in members.items()}
    # Items refer to positions among the patients of their group.
    owners = {name: sorted({one.patient_id for one in own}) for name, own in members.items()}
    tables = {}
    for level in levels:
        groups, patients = dict[str, Subgroup](), dict[str, set[str]]()
        for name in names:
            if level not in measured[name]:
                groups[name], patients[name] = Subgroup(count=0, patients=0, metrics={}), set()
                continue
            items, found = measured[name][level]
            groups[name] = Subgroup(
                count=found.count, patients=found.patients, metrics=found.metrics.get(EVERY_CLASS, {})
            )
            patients[name] = {owners[name][number] for number in np.unique(items.patient)}
        of_all = dict.fromkeys(metric for group in groups.values() for metric in group.metrics)
        tests = {
            metric: heterogeneity(groups, metric, patients=patients, bootstraps=measuring.bootstraps)
            for metric in of_all
        }
        tables[level] = SubgroupTable(groups=groups, tests=tests)
    return tables


def heterogeneity(
    groups: Mapping[str, Subgroup], metric: str, *, patients: Mapping[str, set[str]], bootstraps: int
) -> Heterogeneity:
    """Cochran's Q test (Cochran 1954) of a metric of independent groups, weighted by their bootstrap variances.

    Groups without a value of the column, of few patients or without the metric are left out. ``patients``: ids by
    group; ``bootstraps``: number of bootstrap samples.
    """
    reasons = {name: _why_left_out(name, group, metric, bootstraps) for name, group in groups.items()}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    compared = [name for name in groups if name not in left_out]
    values, errors = (
        np.array([getattr(groups[name].metrics[metric], key) or 0.0 for name in compared], float)
        for key in ("value", "se")
    )
    degrees = max(len(compared) - 1, 0)
    undefined = _why_no_test(compared, errors, patients)
    found: dict[str, float | None] = dict.fromkeys(("q", "p", "i_squared"))
    if undefined is None:
        weight = errors**-2
        q = float((weight * (values - np.average(values, weights=weight)) ** 2).sum())
        found = {"q": q, "p": float(chi2.sf(q, degrees)), "i_squared": max(0.0, 1 - degrees / q) if q else 0.0}
    return Heterogeneity(compared=compared, left_out=left_out, degrees=degrees, undefined=undefined, **found)


def _why_left_out(name: str, group: Subgroup, metric: str, bootstraps: int) -> str | None:
    """Why a group is not compared, or None."""
    if not name:
        return "the cell of the sheet is empty"
    if group.patients < LEAST_PATIENTS:
        return f"{group.patients} patients, fewer than {LEAST_PATIENTS}"
    found = group.metrics.get(metric)
    if found is None or found.value is None:
        return "the metric is not defined, for instance because only one class occurs"
    if found.samples < LEAST_DEFINED * bootstraps:
        return f"the metric is defined in {found.samples} of {bootstraps} bootstrap samples only"
    return None


def _why_no_test(compared: Sequence[str], errors: np.ndarray, patients: Mapping[str, set[str]]) -> str | None:
    """Why groups cannot be compared, or None."""
    if len(compared) < 2:
        return "fewer than two groups can be compared"
    if len(set().union(*(patients[name] for name in compared))) < sum(len(patients[name]) for name in compared):
        return "patients are in several groups, which are therefore not independent"
    if constant := [name for name, error in zip(compared, errors, strict=True) if not error > 0]:
        return f"the standard error is zero in {', '.join(constant)}, whose weight would be infinite"
    return None
