"""The measures of a stain transfer on held-out slides."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from histomake.base.records.features import FeatureColumn
from histomake.base.records.record import Count, Part, Quarantined, Record


class Realism(Part, frozen=True, kw_only=True):
    """How far patches are from real ones with the wanted stain, by the features of an encoder."""

    images: Count
    """Number of patches, as many at most as real ones."""
    kid: float
    """Kernel inception distance; 0 on average for patches of one distribution, and then also negative."""
    kid_interval: tuple[float, float] | None
    """Interval of 95 % by a bootstrap."""
    drawn: Literal["patients", "patches"]
    """What the bootstrap draws. Where a set is of one patient it is patches: the interval is then too narrow, because \
it does not say what another patient would give."""
    fid: float
    """Fréchet distance, of equally many patches in all rows."""


class CycleMeasure(Part, frozen=True, kw_only=True):
    """How well patches come back when both generators are applied in turn."""

    patches: Count
    """Number of patches."""
    ssim: float
    """Mean structural similarity of patches and their returns."""
    l1: float
    """Mean absolute difference of patches and their returns, in grey levels."""


class NucleiMatch(Part, frozen=True, kw_only=True):
    """Nuclei of a changed image against those of the slide as scanned."""

    nuclei: Count
    """Nuclei that were found."""
    dice: float | None
    """Dice coefficient of the pixels of nuclei; null without nuclei."""
    invented: Count
    """Nuclei where the scanned slide has none."""
    lost: Count
    """Nuclei of the scanned slide where none was found."""


class SlideStructure(Part, frozen=True, kw_only=True):
    """What a transfer did to the structures of a held-out slide."""

    slide_id: str
    """Slide."""
    patient_id: str
    """Its patient."""
    patches: Count
    """Patches that were measured."""
    area_mm2: float
    """Area of their tissue."""
    haematoxylin_correlation: float | None
    """Correlation of the haematoxylin density of pixels before and after; null without variation."""
    nuclei: Count
    """Nuclei of the scanned slide; 0 if the grid is too coarse for nuclei."""
    transfer: NucleiMatch | None
    """Nuclei of the virtual slide; null if the grid is too coarse."""
    reinhard: NucleiMatch | None
    """The same of the slide under Reinhard's normalisation, which moves no structure: what the method of measuring \
invents and loses by itself. Null if the grid is too coarse, or the colours of a side are unknown."""
    macenko: NucleiMatch | None = None
    """The same under Macenko's normalisation."""
    seam_ratio: float | None
    """How much more pixels differ across borders of windows than where one window spans them; null without borders."""
    glass_change: float | None
    """Mean absolute change of pixels outside the tissue, in grey levels; null if there are none."""


class TransferMeasures(Record, frozen=True, kw_only=True):
    """Realism, structure and faults of the virtual slides of held-out patients, in one direction."""

    NAME: ClassVar[str] = "measures of a stain transfer"

    transfer: str
    """Name of the transfer."""
    direction: str
    """``forward``, from ``from`` to ``to``, or ``backward``."""
    stains: tuple[str, str]
    """Stain of the slides, and the stain they were given."""
    weights_sha256: str | None
    """sha256 of the weights of the generators."""
    slides: tuple[list[str], list[str]]
    """Held-out slides whose stain was changed, and real held-out slides with the wanted stain."""
    encoder: FeatureColumn | None
    """The encoder by whose features realism was measured; null without one."""
    realism: dict[str, Realism]
    """``untouched``, ``reinhard`` and ``macenko`` are the patches as scanned and normalised to the colours of a \
training slide, ``transfer`` those of virtual slides, ``real`` other real ones. Empty without an encoder."""
    cycle: CycleMeasure | None
    """The way there and back; null without a patch."""
    structures: list[SlideStructure]
    """By slide."""
    invented_per_mm2: float | None
    """Nuclei that the scanned slides do not have, per mm² of tissue; null if the grid is too coarse for nuclei."""
    invented_share: float | None
    """The same as a share of the nuclei of the scanned slides, less that under a normalisation: of each slide \
Reinhard's or Macenko's, whichever has the higher Dice coefficient. Null without nuclei."""
    invented_interval: tuple[float, float] | None = None
    """Interval of 95 % of this share by a bootstrap of patients; null if the nuclei are of one patient."""
    lost_share: float | None
    """Share of the nuclei of the scanned slides that is lost, less that under the same normalisation."""
    lost_interval: tuple[float, float] | None = None
    """Interval of 95 % of this share; null if the nuclei are of one patient."""
    flags: list[str]
    """What forbids to use the virtual slides without looking at them, in complete sentences."""
    left_out: list[Quarantined] = msgspec.field(default_factory=list)
    """Held-out slides that could not be measured."""
