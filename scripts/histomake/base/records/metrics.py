"""The record of a task's metrics."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from histomake.base.kinds import Kind
from histomake.base.records.record import Count, Json, Part, Record, Upgrade

CLASS_OF_PATIENT_0 = {"classification": "any"}
"""How histomake 0.1 chose the class of a patient, by the kind of the task."""


def complete(content: Json) -> Json:
    """A task with several labels has ``kind`` ``classification``, and no ``confusion``. Of a patient's classes, the \
last counts."""
    truth = CLASS_OF_PATIENT_0.get(content.get("kind", ""))
    several = truth and not any(level.get("confusion") for level in content.get("levels", {}).values())
    added: Json = {"patient_truth": truth or "refuse", "patients_of_several_classes": []}
    return added | content | ({"kind": Kind.MULTI_LABEL.value} if several else {})


PatientTruth = Literal["refuse", "any", "all", "majority"]
"""How the class of a patient follows from the classes of the slides, as in ``predict.patient_truth``."""


class MetricValue(Part, frozen=True, kw_only=True):
    """A metric with its bootstrap interval. What is undefined is null, such as AUROC where only one class occurs."""

    value: float | None
    """Value on the data."""
    low: float | None
    """Lower end of the interval."""
    high: float | None
    """Upper end of the interval."""
    se: float | None
    """Standard deviation over the bootstrap samples."""
    samples: Count
    """Number of bootstrap samples in which the metric is defined."""


class RiskGroup(Part, frozen=True, kw_only=True):
    """Patients or slides of one group of risk."""

    count: Count
    """Number of them."""
    events: Count
    """Number of those with the event; the others are censored."""
    median_time: float | None
    """Time at which the Kaplan-Meier estimate reaches 0.5, in the unit of the sheet; null if it stays above."""


class RiskGroups(Part, frozen=True, kw_only=True):
    """Survival of two groups, divided at the median risk of the validation set of each model."""

    low: RiskGroup
    """Those at or below the median risk."""
    high: RiskGroup
    """Those above."""
    log_rank_p: float | None
    """Two-sided p of the log-rank test between the groups; null where it is not defined."""
    undefined: str | None
    """Why the test is not defined; null where it is."""


class AtPrevalence(Part, frozen=True, kw_only=True):
    """Predictive values that follow from sensitivity and specificity at another prevalence."""

    prevalence: float
    """Share of positives, as in ``evaluate.prevalences``."""
    ppv: MetricValue
    """Probability that an item called positive is."""
    npv: MetricValue
    """Probability that an item not called positive is negative."""


class OperatingPoint(Part, frozen=True, kw_only=True, omit_defaults=True):
    """What a threshold that was chosen on the validation set reaches on the test set. Intervals take it as fixed."""

    aim: str
    """What the threshold is to reach, as in ``evaluate.operating_points``: ``sensitivity`` or ``specificity``; or \
``model``, the decisions of the models themselves."""
    wanted: float | None = None
    """The value to reach on the validation set; null with ``model``."""
    thresholds: dict[str, float] = msgspec.field(default_factory=dict)
    """Threshold of the score, by fold; none with ``model``, whose thresholds are in the model cards."""
    reached: float | None = None
    """Value on the validation set with these thresholds, mean over the folds."""
    positives: Count | None = None
    """Number of positive validation items of all folds."""
    negatives: Count | None = None
    """Number of negative validation items of all folds."""
    metrics: dict[str, MetricValue] = msgspec.field(default_factory=dict)
    """Sensitivity, specificity, ``ppv`` and ``npv`` on the test set, with the prevalence of the test set."""
    at_prevalence: list[AtPrevalence] = msgspec.field(default_factory=list)
    """Predictive values at the prevalences of ``evaluate.prevalences``."""
    refused: str | None = None
    """Why there is no threshold."""


class CalibrationGroup(Part, frozen=True, kw_only=True):
    """Patients or slides of similar predictions at a time."""

    count: Count
    """Number of them."""
    predicted: float
    """Mean predicted share without the event."""
    observed: float
    """Kaplan-Meier estimate of the share without the event."""
    low: float | None
    """Lower end of its 95 % interval (Greenwood, on the scale of log(-log)); null where it is not defined."""
    high: float | None
    """Upper end."""


class AtHorizon(Part, frozen=True, kw_only=True, omit_defaults=True):
    """Predictions of survival at one time. The metrics are ``auc_at_horizon`` and ``calibration_at_horizon``."""

    time: float
    """The time, in the unit of the sheet."""
    groups: list[CalibrationGroup] = msgspec.field(default_factory=list)
    """Calibration in groups of equal size, from the smallest predicted share without the event to the largest."""
    no_auc: str | None = None
    """Why there is no AUC; null where there is one."""
    no_calibration: str | None = None
    """Why there is no calibration; null where there is one."""


class Subgroup(Part, frozen=True, kw_only=True):
    """Metrics of the test items of one value of a column."""

    count: Count
    """Number of items of known truth."""
    patients: Count
    """Number of their patients."""
    metrics: dict[str, MetricValue]
    """Metrics over all classes, by name; none without an item."""


class Heterogeneity(Part, frozen=True, kw_only=True):
    """Cochran's Q test of the hypothesis that a metric is the same in all subgroups."""

    compared: list[str]
    """Values of the column whose items are compared."""
    left_out: dict[str, str]
    """Why items of other values are not compared, by value."""
    q: float | None
    """Sum of squared differences from the weighted mean, in units of the standard errors."""
    degrees: Count
    """Degrees of freedom: number of values compared, less one."""
    p: float | None
    """P value of the chi-square distribution; null where the test is not defined."""
    i_squared: float | None
    """Share of the variation that is beyond chance (Higgins & Thompson 2002)."""
    undefined: str | None
    """Why the test is not defined; null where it is."""


class SubgroupTable(Part, frozen=True, kw_only=True):
    """Metrics by the values of a column of the sheet."""

    groups: dict[str, Subgroup]
    """Metrics by value; an empty text for the items whose cell is empty, which are not compared."""
    tests: dict[str, Heterogeneity]
    """Test of heterogeneity by metric."""


class LevelMetrics(Part, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics of one level: of pixels, patches, slides or patients."""

    count: Count
    """Number of items of known truth."""
    patients: Count
    """Number of their patients."""
    metrics: dict[str, dict[str, MetricValue]]
    """Metrics by name, for every class and, under ``all``, over all classes."""
    confusion: list[list[Count]] | None = None
    """Number of items by true class (rows) and predicted class; only where every item has one class."""
    per_class: dict[str, Count] | None = None
    """Number of items of each true class; only where every item has one class."""
    refused: str | None = None
    """Why the level is not evaluated."""
    risk_groups: RiskGroups | None = None
    """Survival by group of risk; only of survival."""
    operating_points: dict[str, list[OperatingPoint]] = msgspec.field(default_factory=dict)
    """Operating points by class, of two exclusive classes of the second one; only if ``evaluate`` asks for them."""
    at_horizon: AtHorizon | None = None
    """Predictions at one time; only of survival."""
    subgroups: dict[str, SubgroupTable] = msgspec.field(default_factory=dict)
    """Metrics by column and value of ``evaluate.subgroups``."""


class MetricDifference(Part, frozen=True, kw_only=True):
    """A metric of two predictions of the same items, and their difference: first minus second."""

    first: float | None
    """Value of the first; null where undefined."""
    second: float | None
    """Value of the second; null where undefined."""
    difference: MetricValue
    """First minus second, with its interval by paired resampling of patients."""
    p_bootstrap: float | None
    """Two-sided p of the hypothesis of no difference, from the bootstrap samples."""
    p_delong: float | None = None
    """The same from DeLong's test; only of AUROC at the level ``patient``, whose items are independent."""


class ComparedLevel(Part, frozen=True, kw_only=True):
    """A comparison at one level."""

    count: Count
    """Number of items that both have predicted and whose truth is known."""
    metrics: dict[str, dict[str, MetricDifference]]
    """Differences by metric, for every class and, under ``all``, over all classes."""


class FeatureImportance(Part, frozen=True, kw_only=True):
    """What a metric loses when a group of features is exchanged between nodes."""

    permuted: float
    """Mean of the metric over the permutations."""
    loss: float
    """Mean over the permutations of the metric as it is, less the metric with the features exchanged."""
    spread: float | None
    """Standard deviation over the permutations; null of a single one. The test slides are the same in all."""
    repeats: Count
    """Number of permutations in which the metric is defined."""


Importance = dict[str, dict[str, dict[str, dict[str, FeatureImportance]]]]
"""What groups of features are worth: by group, scope of the exchange, level and metric over all classes."""


Agreement = dict[str, dict[str, dict[str, MetricValue]]]
"""How well values of patches tell annotated patches from others: by value, annotated class and metric."""


class MetricsRecord(Record, frozen=True, kw_only=True):
    """Metrics of a task on its test slides. ``metrics/{task}.parquet`` has them as a table."""

    NAME: ClassVar[str] = "metrics record"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (complete,)

    kind: Kind
    """Kind of the task."""
    classes: list[str]
    """Names of the model's outputs, in order."""
    seed: int
    """Seed of the bootstrap."""
    bootstraps: Count
    """Number of bootstrap samples. Patients are drawn, not patches."""
    aggregate: str
    """How scores of patches are pooled to a score of the slide."""
    interval_percent: tuple[float, float]
    """Percentiles of the bootstrap samples that are the ends of the intervals."""
    patients: Count
    """Number of test patients."""
    slides: Count
    """Number of test slides."""
    patient_truth: PatientTruth
    """Class of a patient whose slides have several classes, as in ``predict.patient_truth`` of the task."""
    patients_of_several_classes: list[str]
    """Test patients whose slides have several classes. Version 0.1 did not list them."""
    levels: dict[str, LevelMetrics]
    """Metrics by level: ``patch``, ``slide`` and ``patient``; of a segmentation ``pixel`` in place of ``patch``."""
    level: str = "patch"
    """What the task predicts: ``patch``, ``slide`` or ``patient``."""
    slide_means: dict[str, dict[str, MetricValue]] = msgspec.field(default_factory=dict)
    """Mean over the test slides of the rates of the patches or pixels of each slide, by class and rate. Single slides \
are in ``metrics/{task}.slides.csv``. Only of tasks that predict classes of patches or pixels."""
    baselines: dict[str, dict[str, LevelMetrics]] = msgspec.field(default_factory=dict)
    """Metrics by level of baselines on the same slides, if slides or patients are predicted: ``mean_features``, a \
linear model of the mean of the features, and ``usual_target``, which knows no features; of graphs also networks for \
the same nodes ``without_edges`` and with ``rewired_edges``, exchanged at random."""
    baseline_differences: dict[str, dict[str, ComparedLevel]] = msgspec.field(default_factory=dict)
    """The task compared with each of its baselines on the same resamples of patients, by baseline and level."""
    bag_sizes: dict[str, dict[str, LevelMetrics]] = msgspec.field(default_factory=dict)
    """Metrics by level of predictions from random bags of some patches, by their number: mean scores of several."""
    removal: dict[str, MetricValue] = msgspec.field(default_factory=dict)
    """How far the scores of bags change without the patches of highest attention (``deletion``, larger is better) and \
with these alone (``insertion``, smaller is better), the same of random patches, and shares of the bags in which \
attention is better: means over the test bags."""
    removal_by_share: dict[str, dict[str, MetricValue]] = msgspec.field(default_factory=dict)
    """The same for each share of the patches that is taken away or kept alone, by the share."""
    attention: Agreement = msgspec.field(default_factory=dict)
    """AUROC and AUPRC with which attention and contributions tell annotated patches from others: mean over the test \
slides with annotation, by value, annotated class and metric."""
    importance: Importance = msgspec.field(default_factory=dict)
    """Of graphs: what metrics lose when features of nodes are exchanged ``among_slides`` or ``within_slides``, by \
group (``all``: all groups together), scope, level and metric."""
