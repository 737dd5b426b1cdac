"""The model card: what is needed to use the weights of a model, and how they were trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import msgspec

from histomake.base.kinds import Kind
from histomake.base.records.features import FeatureColumn
from histomake.base.records.record import (
    Count,
    Json,
    Part,
    Positive,
    PositiveMpp,
    Quarantined,
    RecordError,
    Size,
    Upgrade,
    WeightsCard,
)


def make_multi_label_a_kind(content: Json) -> Json:
    """A task with several labels has ``kind`` ``classification`` and ``target.multi_label`` true."""
    if not isinstance(content.get("target"), dict):
        return content
    target = dict(content["target"])
    several = target.pop("multi_label", False)
    return content | {"target": target} | ({"kind": Kind.MULTI_LABEL.value} if several else {})


class ModelGrid(Part, frozen=True, kw_only=True):
    """The patches of a model."""

    name: str
    """Name of the grid in the configuration."""
    size: Size
    """Edge of a patch, in pixels at ``mpp``."""
    mpp: PositiveMpp
    """Resolution of the patches, in µm per pixel."""


class Normalisation(Part, frozen=True, kw_only=True):
    """Channel statistics of RGB in [0, 1]: the network's input is (pixels - mean) / std."""

    mean: tuple[float, float, float]
    """Mean of R, G and B."""
    std: tuple[Positive, Positive, Positive]
    """Standard deviation of R, G and B."""


class GraphCard(Part, frozen=True, kw_only=True):
    """The graphs that a model takes, and its network."""

    name: str
    """Name under ``graphs`` of the configuration."""
    identity: str
    """Identity of the graphs, as their records have it. Only graphs of this identity are predicted."""
    groups: dict[str, Count]
    """Groups of features of a node, in order, with the number of values of each."""
    encoder: FeatureColumn | None = None
    """The encoder of the group ``encoder``; null without one."""
    gnn: dict[str, Any]
    """The task's section ``gnn`` of the configuration."""
    fuse: str | None = None
    """``mil``: the nodes as a bag are a part of the representation; null: they are not."""
    ablations: list[str]
    """Networks in the same file that were trained on the same nodes with other edges."""


class BagCard(Part, frozen=True, kw_only=True):
    """What a model takes as one bag, and its baselines."""

    level: str
    """``slide`` or ``patient``: whose patches are a bag."""
    bag: dict[str, Any]
    """The task's section ``bag`` of the configuration."""
    pooling: dict[str, Any]
    """The task's section ``pooling`` of the configuration."""
    penalty: float | None = None
    """L2 penalty of the linear baseline on mean features, chosen on validation bags; of bags of pixels of the vectors
    of the trained network. Null in older models of bags of pixels."""
    usual: list[float]
    """Scores of the baseline that knows no features: shares of the classes among the training bags, or their mean."""
    graph: GraphCard | None = None
    """The graphs whose nodes are the bags; null if patches are."""
    intervals: Count = 0
    """Number of intervals of time whose hazards were learned (loss ``hazards``); 0 with any other loss."""


class SurvivalCard(Part, frozen=True, kw_only=True):
    """What a risk means for the chances over time. The share without the event at time t of bags of risk r is \
exp(-H(t) exp(r)), where H rises linearly from 0 at time 0 through the points given here."""

    times: list[float]
    """Times in the unit of the sheet, ascending: those of the training events, or ends of intervals."""
    cumulative_hazard: list[float]
    """H at these times: the cumulative hazard of bags whose risk is 0."""
    median_event_time: float
    """Median time of the training events."""


class ModelCard(WeightsCard, frozen=True, kw_only=True):
    """A trained model. Its weights are next to the card in ``model.safetensors``."""

    NAME: ClassVar[str] = "model card"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (make_multi_label_a_kind,)
    REMEDY: ClassVar[str] = "Train the model again, or use a folder with a model that histomake wrote"

    kind: Kind
    """Kind of the task. Values are never renamed."""
    class_names: list[str]
    """Names of the network's outputs, in order."""
    architecture: dict[str, Any]
    """The task's section ``model`` of the configuration."""
    target: dict[str, Any]
    """The task's section ``target`` of the configuration: what the outputs were trained to predict."""
    grid: ModelGrid
    """The patches that the model takes."""
    normalisation: Normalisation
    """Normalisation of the network's input; of pixels only."""
    features: FeatureColumn | None = None
    """Encoder whose features the model takes instead of pixels; null if it takes pixels."""
    head: dict[str, Any] | None = None
    """What was learned from the features: ``name``, the task's section ``probe``, and the value chosen on validation \
patches; null if the model takes pixels."""
    bag: BagCard | None = None
    """What a bag is, of a model that predicts slides or patients; null if it predicts patches."""
    survival: SurvivalCard | None = None
    """Cumulative hazard by time, of a model that predicts survival."""
    stain: dict[str, Any] | None = None
    """Stain colours that slides are normalised to, as in ``stains.json``; null without stain normalisation."""
    threshold: float | list[float]
    """Score from which a patch is of the second of two classes; with several labels, one value per output."""
    slide_thresholds: dict[str, float | list[float]]
    """The same for the score of a whole slide, by way of pooling patches; empty where no threshold applies."""
    metrics: dict[str, float | None]
    """Metrics on the validation patches at the chosen step; null where undefined."""
    step: Count
    """Training step at which the weights were taken."""
    seed: int
    """Seed of the training."""
    made_with: list[str] = msgspec.field(default_factory=list)
    """First 20 digits of the sha256 of all slides that shaped the weights, those of its pretraining included. None of \
these slides may test the model."""
    left_out: list[Quarantined] = msgspec.field(default_factory=list)
    """Slides of the training and validation sets that turned out to be damaged, so that the model was made without \
them."""
    parameters: Count
    """Number of weights."""

    @property
    def target_classes(self) -> list[str]:
        """Annotation classes that the outputs describe; empty for a number of the slide sheet."""
        return list(self.target.get("classes", ()))


class _Description(msgspec.Struct):
    """What a model card and an encoder card have in common."""

    made_with: list[str] = msgspec.field(default_factory=list)


def slides_behind(path: Path | str) -> list[str]:
    """``made_with`` of a model card; empty for an encoder card, whose weights come from elsewhere.

    Raises RecordError if the file is neither.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=_Description).made_with
    except msgspec.MsgspecError as error:
        raise RecordError(f"{path} is not a valid {ModelCard.NAME}: {error}. {ModelCard.REMEDY}") from error
