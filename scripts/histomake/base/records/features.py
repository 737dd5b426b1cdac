"""The metadata of a file of features."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from histomake.base.records.record import Count, Part, PositiveMpp, Size, StageRecord


class PatchChooser(Part, frozen=True, kw_only=True):
    """What chose the patches that were encoded; the others have no vector in the column."""

    task: str
    """Task whose model of the column's fold scored the patches of a coarser grid."""
    weights: str
    """sha256 of the weights of that model."""
    class_name: str | None
    """Class whose score chose; null: the attention of the model did."""
    budget: float | None
    """Largest share of the usable patches; null: no such limit."""
    most: Size | None
    """Largest number of patches; null: no such limit."""
    least_score: float | None
    """Smallest score; null: no such limit."""


class FeatureColumn(Part, frozen=True, kw_only=True):
    """The features of one encoder, a column of the file."""

    encoder: str
    """Name of the encoder in the configuration."""
    fold: Count | None
    """Fold of the model that is the encoder or chose the patches, if there is one."""
    identity: str
    """Digest of the weights and of all settings that shape the features. Features with the same identity can be used \
together."""
    weights: str
    """sha256 of the weights."""
    dimensions: Size
    """Length of a vector."""
    dtype: Literal["float16", "float32"]
    """Type of its values."""
    settings: dict[str, Any]
    """Settings that shape the features."""
    card: dict[str, Any]
    """Card of the encoder."""
    made_with: list[str] = msgspec.field(default_factory=list)
    """First 20 digits of the sha256 of the slides that a model of this workflow was made with, if it is the encoder. \
None of them may test a model on these features."""
    chooser: PatchChooser | None = None
    """What chose the patches; null if all were encoded."""


class FeatureRecord(StageRecord, frozen=True, kw_only=True):
    """The slide, the grid and the encoders of a file of features, under the key ``histomake`` of its schema."""

    NAME: ClassVar[str] = "feature record"
    REMEDY: ClassVar[str] = "Delete the file and run the workflow again, which writes a new one"

    sha256: str
    """sha256 of the slide file, as in the manifest."""
    grid_name: str
    """Name of the grid in the configuration."""
    grid: dict[str, Any]
    """The grid's section of the configuration, ``grids.<name>``."""
    mpp: PositiveMpp
    """Resolution of the patches, in µm per pixel."""
    code: str
    """Digest of the code that computed the features."""
    made_of: str
    """Digest of all that the features were made of: slide, patch table, settings, weights and code."""
    columns: list[FeatureColumn]
    """The columns of features, in order."""
    kept_from: str | None = None
    """sha256 of the earlier file of features from which vectors of patches were taken; null if all were encoded."""
    decoder: Literal["cpu", "gpu"] | None = None
    """Where the tiles of the patches were decoded; null if none were read here."""


def column_name(encoder: str, fold: int | None) -> str:
    """Name of a column: the encoder's, with the fold of a model that is the encoder or chose the patches."""
    return encoder if fold is None else f"{encoder}.fold{fold}"
