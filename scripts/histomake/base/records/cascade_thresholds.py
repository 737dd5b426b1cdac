"""The record of a nucleus cascade's thresholds."""

from __future__ import annotations

from typing import ClassVar, Literal

from histomake.base.records.record import Count, Json, Part, Record, Upgrade, same

Rule = Literal["max_loss", "min_saving", "cheapest", "dense", "given"]
"""Why thresholds were chosen."""

SearchMethod = Literal["coordinate", "joint", "given"]
"""How thresholds were found."""


DENSE = (
    "The dense network is used and no cascade: on the validation slides, no thresholds within search.max_loss need "
    "fewer multiply-adds."
)
"""What the rule ``dense`` means for the results."""


def rename_rule(content: Json) -> Json:
    """The rule ``max_loss`` is named ``max_f_loss``, like the key of the configuration then."""
    return content | {"rule": "max_loss"} if content.get("rule") == "max_f_loss" else content


class Thresholds(Part, frozen=True, kw_only=True):
    """Thresholds of a cascade, as in the section ``thresholds`` of its configuration."""

    cut: float
    """A pixel of level 1 is nucleus if its p1 is above this."""
    lower: list[float]
    """One value for each of levels 2, 3, …: the next finer level is computed where p1 + p2 is at least this. None of \
them for the dense network."""
    upper: list[float]
    """One value for each of the same levels: pixels are accepted as nucleus where p2 is at least this."""


class ScoredThresholds(Part, frozen=True, kw_only=True, omit_defaults=True):
    """Thresholds that were tried, with their means over the validation slides."""

    thresholds: Thresholds
    """The thresholds."""
    method: SearchMethod
    """How they were found: one after the other, all jointly, or in the configuration."""
    pixel_f: float
    """F of pixels."""
    nucleus_f: float
    """F of nuclei, as RADHicaL defines it."""
    evaluated: float
    """Pixels that a network must evaluate, of all levels, as a share of the pixels of level 1."""
    computed: float
    """Pixels of the blocks that contain them, in the same unit."""
    multiply_adds: float | None = None
    """Multiply-adds of the networks, as a share of those of the dense network. Version 0.1 did not count them."""
    cost: float
    """What the search minimised."""
    saved: float
    """1 - ``evaluated``."""


class DenseScores(Part, frozen=True, kw_only=True):
    """The network of level 1 alone, with its best threshold on the validation slides."""

    pixel_f: float
    """F of pixels."""
    nucleus_f: float
    """F of nuclei."""


class ThresholdSearch(Part, frozen=True, kw_only=True):
    """Scores of a cascade on the validation slides."""

    dense: DenseScores
    """The network of level 1 alone."""
    cascade: ScoredThresholds
    """The chosen thresholds."""
    trials: Count
    """Number of thresholds that were tried."""
    front: list[ScoredThresholds]
    """Pareto front of cost and F, cheapest first."""


class ScoredNeck(Part, frozen=True, kw_only=True):
    """A way to part touching nuclei, with means over the validation patients."""

    neck_um: float | None
    """How much narrower than the nuclei, in half width, the necks are at which they are parted; null: not parted."""
    object_f1: float
    """F of objects that match at IoU 0.5."""
    pq: float
    """Panoptic quality."""
    f: float
    """F of nuclei, as RADHicaL defines it."""
    count_error: float
    """Difference of the numbers of found and annotated nuclei, as a share of the latter."""


class Parting(Part, frozen=True, kw_only=True):
    """How touching nuclei are parted."""

    neck_um: float | None = None
    """See `ScoredNeck`."""
    tried: tuple[ScoredNeck, ...] = ()
    """What was tried on validation patients; one entry if the configuration says it."""


class ThresholdsRecord(Record, frozen=True, kw_only=True):
    """Thresholds of a nucleus cascade, and how they were chosen on validation patients."""

    NAME: ClassVar[str] = "thresholds of a cascade"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (same, rename_rule)

    thresholds: Thresholds
    """The chosen thresholds."""
    dense_cut: float
    """Threshold on p1 of the network of level 1 alone."""
    rule: Rule
    """Why these were chosen: they are the cheapest within ``max_loss``; the best that save ``min_saving``; the \
cheapest, because none saves that; those of the dense network, because none costs less; or given ones."""
    validation: ThresholdSearch
    """Scores on the validation slides."""
    parting: Parting = Parting()
    """How touching nuclei are parted. Version 0.1 did not part them."""

    @property
    def remark(self) -> str | None:
        """What readers of the results should know about the choice, if anything."""
        return DENSE if self.rule == "dense" else None
