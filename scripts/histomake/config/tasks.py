"""Keys of tasks: what is learned, by which network, and how it is trained and used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from histomake.base.kinds import BACKGROUND, Kind
from histomake.config.kinds import ACCEPTED
from histomake.config.section import Name, Section, Share


class Split(Section):
    """Patient-level folds. A patient is never in two roles of one fold."""

    folds: int = Field(
        1, ge=1, le=20, description="1: one train/val/test split; more: cross-validation, each fold tested once."
    )
    test: Share = Field(0.25, description="Share of patients held out for testing when folds is 1.")
    val: Share = Field(0.2, description="Share of the remaining patients that chooses checkpoints and thresholds.")
    stratify: list[str] = Field(
        default_factory=list,
        description="Sheet columns balanced over the folds, such as the site; a class that the task learns always is.",
    )


class Target(Section):
    """What a task learns, per patch or per slide."""

    source: Literal["annotation", "sheet", "mask"] = Field(
        "annotation",
        description="annotation: area shares of the patch; sheet: a label column; mask: the label of every pixel.",
    )
    classes: list[Name] = Field(
        default_factory=list,
        description="Classes in output order; of two the second is the positive one. Regression learns their area "
        "shares, or without any the number in the column.",
    )
    column: str | None = Field(
        None,
        description="Label column of the sheet, when source is sheet. Several classes in a cell, for multi_label, are "
        "separated by commas.",
    )
    min_area: Share = Field(
        0.5,
        description="Smallest annotated share of a patch of a class. For classification, patches below it for every "
        "class are unlabelled; for multi_label they have none of the classes: with one class and min_area: 0.01, a "
        "patch is positive from 1 % on and negative below.",
    )
    unlabelled: Literal["ignore", "background"] = Field(
        "ignore",
        description="Pixels without annotation, when source is mask: ignore keeps them out of training and scoring; "
        "background learns them as a further class.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_multi_label(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "multi_label" in raw:
            raise ValueError(
                "multi_label is a kind of task: in place of target.multi_label: true write kind: multi_label; remove "
                "target.multi_label: false"
            )
        return raw

    @model_validator(mode="after")
    def _column_with_sheet(self) -> Target:
        if (self.source == "sheet") != (self.column is not None):
            raise ValueError("column belongs to source: sheet, and only to it")
        return self


class Model(Section):
    """The network."""

    name: str = Field(
        "resnet18",
        description="A timm model or alexnet for classification and regression; for segmentation unet, deeplabv3plus, "
        "fpn, upernet, segformer or another of segmentation-models-pytorch, fcn, or fast_scnn.",
    )
    encoder: str = Field("resnet18", description="Encoder of a segmentation model; any timm model with features.")
    pretrained: bool | str = Field(
        False,
        description="true: timm's hub (needs network); a path: a safetensors file, or the folder of a model trained "
        "earlier; false: random weights.",
    )
    transfer: Literal["encoder", "all"] = Field(
        "encoder", description="What is taken from a path in pretrained: all but the last layer or decoder, or all."
    )
    frozen_stages: int = Field(
        0, ge=0, le=50, description="First stages of the encoder whose weights stay as they are."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Each stage towards the input learns at this share of the rate of the next (Howard & Ruder 2018).",
    )
    dropout: Share = Field(0.0, description="Dropout before the last layer.")
    context: list[Annotated[float, Field(gt=1, le=64)]] = Field(
        default_factory=list,
        description="Coarser views of the same centre, as multiples of the grid's mpp, given as further channels.",
    )
    stain: Literal["none", "macenko", "reinhard"] = Field(
        "none",
        description="Stain normalisation in training and prediction alike: each slide's colours are learned once, from "
        "its tissue at 2 µm/px, and brought to those of the training slide nearest to the median. Macenko et al. 2009; "
        "Reinhard et al. 2001.",
    )


class Augment(Section):
    """Random changes of a training patch; image and mask change together."""

    flip: bool = Field(True, description="Flips and quarter turns: tissue has no up.")
    brightness: float = Field(0.15, ge=0, le=1, description="Brightness and contrast jitter, as a share.")
    saturation: float = Field(0.15, ge=0, le=1, description="Saturation jitter, as a share.")
    hue: float = Field(0.03, ge=0, le=0.5, description="Hue jitter, as a share of the colour circle.")
    hed: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Jitter of haematoxylin, eosin and DAB densities, as a share (Tellez et al. 2018; 0.05 is usual).",
    )
    rotate: float = Field(0.0, ge=0, le=180, description="Largest rotation by any angle, in degrees; corners mirror.")
    elastic: float = Field(
        0.0,
        ge=0,
        le=0.1,
        description="Standard deviation of an 8 x 8 lattice's displacements, as a share of the patch; 0.0125 in "
        "histo-fetch.",
    )
    blur: float = Field(0.0, ge=0, le=5, description="Largest sigma of a Gaussian blur, in pixels.")


class Train(Section):
    """The training loop."""

    steps: int = Field(1000, ge=1, description="Optimiser steps, as in histo-fetch: not passes over the patches.")
    batch: int = Field(32, ge=1, description="Patches per step.")
    accumulate: int = Field(
        1, ge=1, description="Batches whose gradients are added up for one step: a larger batch in the same memory."
    )
    loss: Literal[
        "auto", "ce", "weighted_ce", "focal", "bce", "dice", "dice_ce", "generalised_dice", "mse", "huber"
    ] = Field(
        "auto",
        description="auto: ce for classes, bce for multi_label, dice_ce for segmentation, huber for regression. focal: "
        "Lin et al. 2017, gamma 2; dice: Milletari et al. 2016; generalised_dice: Sudre et al. 2017.",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="adamw: Loshchilov & Hutter 2019; sgd has momentum 0.9, after Nesterov."
    )
    learning_rate: float = Field(3e-4, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay.")
    schedule: Literal["one_cycle", "cosine", "warm_restarts", "constant"] = Field(
        "one_cycle",
        description="Course of the learning rate. one_cycle: Smith 2018; warm_restarts: Loshchilov & Hutter 2017, "
        "beginning with a tenth of the steps, doubling.",
    )
    clip: float | None = Field(None, gt=0, description="Largest norm of the gradient; longer ones are scaled down.")
    validate_every: int = Field(200, ge=1, description="Steps between validations; the best checkpoint is kept.")
    select: Literal["loss", "auroc", "accuracy", "balanced_accuracy", "dice", "mae", "r2"] = Field(
        "loss", description="Validation figure that says which checkpoint is best."
    )
    patience: int | None = Field(
        None, ge=1, description="Validations without a better one after which training ends early; default: never."
    )
    validate_patches: int = Field(
        1024, ge=1, description="At most this many validation patches, drawn once with the seed."
    )
    balance: Literal["auto", "class", "slide", "area"] = Field(
        "auto",
        description="How patches are drawn: equal classes, equal slides, or as they come by area; auto: class, and "
        "slide for regression.",
    )
    shares: dict[Name, Share] = Field(
        default_factory=dict, description="Share of the draws per class, in place of equal classes."
    )
    factors: dict[Name, Annotated[float, Field(gt=0, le=1000)]] = Field(
        default_factory=dict,
        description="How much more often (above 1) or rarely (below 1) a class is drawn than balance has it.",
    )
    containing: dict[Name, Share] = Field(
        default_factory=dict, description="Share of the draws that must contain this annotated class, however little."
    )
    positions: Literal["grid", "random"] = Field(
        "grid",
        description="grid: patches of the table; random: moved by up to half a stride, so that no two draws are alike "
        "(after histo-fetch).",
    )
    audit: bool = Field(False, description="Write every drawn coordinate to training/drawn.parquet beside the model.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the GPU has it, else fp16; fp32 on CPU."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile: a slow start, then faster steps.")
    gpus: int = Field(1, ge=1, le=16, description="GPUs of one node that share each step; batch is per GPU.")
    workers: int | None = Field(
        None,
        ge=0,
        description="Loader processes per GPU, in training and prediction; default: 7, or as many as cores allow.",
    )
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Minutes between resumable checkpoints: the most a killed job loses."
    )
    stage: bool = Field(
        False,
        description="Copy the slides' stores to the node's own disk ($TMPDIR) first and compare every byte: for shared "
        "file systems that are slow at random reads.",
    )
    max_read_errors: int = Field(
        0, ge=0, description="Unreadable patches tolerated before training stops; never replaced by white."
    )


RUNNING = ("workers", "checkpoint_minutes", "max_read_errors", "stage")
"""Keys of train that say how the job is run. They do not shape a model: changing them neither trains anew nor keeps a
killed run from going on."""


class Predict(Section):
    """Prediction, always in eval mode."""

    batch: int = Field(64, ge=1, description="Patches per forward pass; does not change the result.")
    aggregate: Literal["mean", "area", "max", "top10"] = Field(
        "mean",
        description="How patch scores become slide scores: mean, mean weighted by tissue area, maximum, or the mean of "
        "the ten highest; a patient has the mean of the slides.",
    )
    flips: bool = Field(
        False, description="Average over the eight flips and turns of each patch: eight times the work."
    )
    overlap: float = Field(
        0.25, ge=0, le=0.75, description="Share of a segmentation window that overlaps the next; overlaps are blended."
    )


def _class_names(target: Target) -> set[str]:
    """Classes that a patch or pixel can have. Their order is decided in `histomake.target.outputs`."""
    return {*target.classes, *([BACKGROUND] if target.unlabelled == "background" else [])}


def _target_problems(kind: Kind, target: Target) -> Iterator[str]:
    accepted = ACCEPTED[kind]
    if target.source not in accepted.sources:
        yield f"target.source: {target.source} does not fit {kind}; one of {', '.join(accepted.sources)}"
    if target.unlabelled != "ignore" and not accepted.background:
        yield f"target.unlabelled: {target.unlabelled} does not fit {kind}"
    if accepted.least_classes is None:
        if bool(target.classes) == (target.source == "sheet"):
            yield f"{kind} learns the area shares of target.classes, or one number of target.column"
    elif len(_class_names(target)) < accepted.least_classes:
        yield f"target.classes: {kind} needs at least {accepted.least_classes} class(es)"
    if len(set(target.classes)) < len(target.classes) or BACKGROUND in target.classes:
        yield f"target.classes must differ from each other and from {BACKGROUND!r}"


def _training_problems(task: Task) -> Iterator[str]:
    kind, accepted, train = task.kind, ACCEPTED[task.kind], task.train
    numbers = accepted.least_classes is None
    if train.loss not in ("auto", *accepted.losses):
        yield f"train.loss: {train.loss} does not fit {kind}; one of {', '.join(accepted.losses)}"
    if train.select not in accepted.figures:
        yield f"train.select: {train.select} is not measured for {kind}; one of {', '.join(accepted.figures)}"
    if train.balance == "class" and numbers:
        yield f"train.balance: {kind} has no classes; use slide or area"
    for key, given in (("shares", train.shares), ("factors", train.factors)):
        unknown = set(given) if numbers else set(given) - {*_class_names(task.target), "none"}
        if unknown:
            yield f"train.{key}: the task has no class {', '.join(sorted(unknown))}"
    if train.shares and train.factors:
        yield "train.shares and train.factors exclude each other; remove one of them"
    if sum(train.containing.values()) > 1:
        yield "train.containing: the sum of the shares is more than 1"
    if train.shares and train.balance not in ("auto", "class"):
        yield "train.shares are shares of classes; remove them or train.balance"


def _model_problems(kind: Kind, model: Model) -> Iterator[str]:
    """Settings that the network ignores or cannot have."""
    accepted = ACCEPTED[kind]
    if model.pretrained is True and model.name in accepted.networks_without_weights:
        yield f"model.pretrained: the hub has no weights of {model.name}; give a path, or false"
    with_dropout = accepted.networks_with_dropout
    if model.dropout and with_dropout is not None and model.name not in with_dropout:
        yield f"model.dropout: {model.name} has none; of the networks for {kind} only {', '.join(with_dropout)} has"


class Task(Section):
    """One thing to learn: a grid, a target, a network and how it is trained."""

    kind: Kind = Field(
        Kind.CLASSIFICATION,
        description="What the network outputs. "
        + "; ".join(f"{kind}: {accepted.meaning}" for kind, accepted in ACCEPTED.items()),
    )
    grid: Name = Field(description="The grid whose patches are used; a name under grids.")
    trained: str | None = Field(
        None,
        description="Folder of a model trained before, by this workflow, here or elsewhere (it holds model.json, or "
        "fold0, fold1, …): nothing is trained, slides with split: test are evaluated, all others predicted.",
    )
    target: Target = Field(default_factory=Target, description="What is learned.")
    split: Split = Field(default_factory=Split, description="How patients are divided.")
    model: Model = Field(default_factory=Model, description="The network.")
    augment: Augment = Field(default_factory=Augment, description="Random changes of training patches.")
    train: Train = Field(default_factory=Train, description="The training loop.")
    predict: Predict = Field(default_factory=Predict, description="Prediction.")

    @model_validator(mode="after")
    def _fits_together(self) -> Task:
        problems = [*_target_problems(self.kind, self.target), *_training_problems(self)]
        problems += _model_problems(self.kind, self.model)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def fitting(self) -> dict[str, Any]:
        """What a trained model depends on: not how it is used, how its slides were chosen or how its job is run."""
        kept = {key: value for key, value in self.dump().items() if key not in ("predict", "split", "trained")}
        return kept | {"train": {key: value for key, value in kept["train"].items() if key not in RUNNING}}

    def predicting(self) -> dict[str, Any]:
        """What a slide's predictions depend on besides the model."""
        windows = {"overlap": self.predict.overlap} if ACCEPTED[self.kind].overlap else {}
        return {"grid": self.grid, "flips": self.predict.flips} | windows
