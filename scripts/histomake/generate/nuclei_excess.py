"""Nuclei that virtual slides invent or lose beyond a normalisation: share, interval by patients, flags.

A threshold finds other nuclei in other colours even where no structure was moved. So the nuclei that are invented or
lost under a normalisation, which only moves colours, are subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histomake.base.patient_bootstrap import BOOTSTRAPS, INTERVAL, patient_weights
from histomake.base.records.transfer_measures import NucleiMatch, SlideStructure

FLOOR = 0.1
"""Share of the nuclei of the scanned slides above which invented or lost ones are flagged.

It is three times what the measure itself is wrong by: in tissue that is mixed again in a known second stain, up to 1 %
of the nuclei count as invented in the true image, and up to 3 % under the better normalisation
(``make bench BENCH=transfer``)."""


@dataclass(frozen=True)
class Excess:
    """Share of the nuclei of the scanned slides, None without nuclei.

    interval: of 95 %, None if the nuclei are of one patient; patients: those with nuclei.
    """

    share: float | None
    interval: tuple[float, float] | None
    patients: int

    @property
    def is_flagged(self) -> bool:
        """Whether the lower end of the interval, or the share of a single patient, is above the floor."""
        least = self.share if self.interval is None else self.interval[0]
        return least is not None and least > FLOOR


def excess(structures: Sequence[SlideStructure], what: str, *, seed: int) -> Excess:
    """Nuclei that are ``invented`` or ``lost`` in silico less those under the control, by the nuclei as scanned.

    Slides without known colours have no control and count in full. The interval is of percentiles of samples of
    patients, who are drawn with all their slides.
    """
    counted = [s for s in structures if s.transfer is not None and (s.nuclei or s.transfer.nuclei)]
    nuclei = np.array([s.nuclei for s in counted], float)
    if not nuclei.sum():
        return Excess(None, None, 0)
    names, patient = np.unique([s.patient_id for s in counted], return_inverse=True)
    weights = patient_weights(patient, len(names), seed=seed, bootstraps=BOOTSTRAPS)[:, patient]
    extra = np.array([_count(s.transfer, what) - _count(control(s), what) for s in counted], float)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (weights @ extra) / (weights @ nuclei)
    low, high = np.percentile(shares[np.isfinite(shares)], INTERVAL)
    return Excess(float(shares[0]), (float(low), float(high)) if len(names) > 1 else None, len(names))


def control(structure: SlideStructure) -> NucleiMatch | None:
    """Nuclei of the slide under Reinhard's or Macenko's normalisation: the one that agrees better with it as scanned.

    A normalisation can fail on a slide, and what it then invents would excuse a generator.
    """
    known = [match for match in (structure.reinhard, structure.macenko) if match is not None]
    return max(known, key=lambda match: match.dice or 0.0, default=None)


def excess_flags(stains: tuple[str, str], invented: Excess, lost: Excess) -> list[str]:
    """Sentences about invented and lost nuclei."""
    return [
        f"The transfer from {stains[0]} to {stains[1]} {verb} {found.share:.0%} of the number of nuclei "
        f"({_certainty(found)}), beyond what the measure finds where no structure was moved: look at its map, and "
        "count no cells on these slides."
        for verb, found in {"invents": invented, "loses": lost}.items()
        if found.is_flagged
    ]


def _certainty(found: Excess) -> str:
    if found.interval is None:
        return "one patient, so without an interval"
    low, high = found.interval
    return f"95 % interval by {found.patients} patients: {low:.0%} to {high:.0%}"


def _count(match: NucleiMatch | None, what: str) -> int:
    return 0 if match is None else int(getattr(match, what))
