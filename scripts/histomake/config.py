"""Owns the configuration: the only place that knows the keys of config.yaml, their defaults, units and reasons.

Light on purpose: every Snakemake job, local or remote, parses this module, so it imports pydantic and nothing heavy.
A job is re-run when the dump of its own section changes; this module's code is therefore left out of code digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from histomake.errors import ConfigError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=60)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values cannot change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def dump(self) -> dict[str, Any]:
        """Plain, key-sorted values: the form in which a rule's params see this section."""
        return _sorted(self.model_dump(mode="json"))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


class Convert(Section):
    """Slide to OME-Zarr. JPEG and lossless JPEG 2000 tiles are always copied, never re-encoded."""

    codec: Literal["jpeg", "jpegxl", "zstd"] = Field(
        "jpeg",
        description="Codec for sources whose tiles cannot be copied; zstd is lossless and about 10 times larger.",
    )
    quality: int = Field(90, ge=1, le=100, description="Quality of re-encoded JPEG or JPEG XL tiles (1-100).")
    tile_px: int = Field(256, ge=64, le=2048, multiple_of=16, description="Tile edge of re-encoded levels, in pixels.")
    shard_px: int = Field(
        8192, ge=256, description="Edge of one shard file, in pixels: larger means fewer files per slide."
    )
    store: Literal["directory", "zip"] = Field(
        "directory",
        description="directory: a folder of shards; zip: one file per slide, for file systems short of inodes.",
    )
    keep_label_image: bool = Field(
        False,
        description="Copy the scanner's photographs of label and glass; off because they may show the patient's name.",
    )


class Tissue(Section):
    """Presegmentation of tissue, on a low-resolution reading of the slide."""

    mpp: float = Field(
        8.0, gt=0.5, le=64, description="Working resolution in µm per pixel; never in pixels, so scanners agree."
    )
    mode: Literal["brightfield", "fluorescence"] = Field(
        "brightfield",
        description="brightfield refuses dark-background slides with a reason; fluorescence finds bright tissue.",
    )
    channel: Literal["saturation", "red", "grey"] = Field(
        "saturation",
        description="What is thresholded: saturation (H&E, IHC), red (as histo-fetch) or grey (as PathFlowAI).",
    )
    threshold: Literal["otsu"] | float = Field(
        "otsu",
        description="otsu (on the channel's square root, so that pale tissue is kept), or a fixed value of 0-255.",
    )
    model: str | None = Field(
        None,
        description="Folder of a trained segmentation model with a class named tissue, in place of the threshold; its "
        "grid must have the mpp given here.",
    )
    blur_um: float = Field(
        8.0, ge=0, description="Gaussian sigma before thresholding, in µm; more would wash out thin strands."
    )
    close_um: float = Field(32.0, ge=0, description="Gaps up to this width are closed, in µm.")
    min_area_um2: float = Field(
        10_000.0, ge=0, description="Tissue pieces below this area are dropped as specks, in µm²."
    )
    max_hole_um2: float = Field(20_000.0, ge=0, description="Holes below this area are filled, in µm².")
    ink: bool = Field(
        True, description="Leave pen ink out of the tissue; switch off for blue or green stains (trichrome)."
    )
    grow_um: float = Field(0.0, ge=-500, le=500, description="Grow (positive) or shrink (negative) the mask, in µm.")


class Quality(Section):
    """Artefacts inside tissue: pen, out-of-focus areas, folds."""

    blur_sharpness: float = Field(
        0.25,
        ge=0,
        description="Tissue whose local sharpness is below this share of the slide's median (or, in a slide blurred "
        "all over, of what is usual) is out of focus.",
    )
    blur_mpp: float = Field(2.0, gt=0, le=16, description="Resolution at which sharpness is measured, in µm per pixel.")
    pen: bool = Field(True, description="Look for pen ink by colour.")
    fold: bool = Field(True, description="Look for folds: tissue far denser than tissue of its colour usually is.")
    max_share: Share = Field(0.5, description="A patch with more than this share of an artefact is excluded for it.")


class Annotations(Section):
    """Where annotation names become the classes a task learns."""

    classes: dict[str, Name] = Field(
        default_factory=dict, description="Annotation name or mask value → class; several names may share a class."
    )
    ignore: list[str] = Field(default_factory=list, description="Annotation names to leave out without an error.")
    class_property: str | None = Field(
        None,
        description="GeoJSON property that holds the class, dots for nesting; default: QuPath's, else label, name, "
        "class.",
    )
    max_file_mb: float = Field(
        500.0, gt=0, description="Larger annotation files are refused, in MB: memory stays bounded."
    )
    cell_part: Literal["cell", "nucleus"] = Field(
        "cell", description="Which outline of a QuPath cell object is taken, where it has both."
    )
    max_outside: Share = Field(
        0.02,
        description="Annotated area that may lie off the slide and is clipped; more means a wrong scale or offset.",
    )


class Grid(Section):
    """One patch grid: a magnification and how it is walked."""

    size: int = Field(256, ge=16, le=4096, description="Patch edge in pixels at this grid's mpp.")
    mpp: float = Field(0.5, gt=0.05, le=64, description="Resolution of the patches in µm per pixel.")
    stride: int | None = Field(None, ge=8, description="Step in pixels at this grid's mpp; default: size, no overlap.")
    min_tissue: Share = Field(0.5, description="Patches with a smaller share of tissue are excluded as background.")
    border: Literal["drop", "pad"] = Field(
        "pad", description="Cells over the slide's edge: pad keeps them (white outside), drop excludes them as edge."
    )
    roi: list[Name] = Field(
        default_factory=list,
        description="Classes that bound the region of interest; patches whose centre lies outside are excluded.",
    )


class Split(Section):
    """Patient-level folds. A patient is never in two roles of one fold."""

    folds: int = Field(
        1, ge=1, le=20, description="1: one train/val/test split; more: cross-validation, each fold tested once."
    )
    test: Share = Field(0.25, description="Share of patients held out for testing when folds is 1.")
    val: Share = Field(0.2, description="Share of the remaining patients that chooses checkpoints and thresholds.")
    stratify: list[str] = Field(
        default_factory=list, description="Sheet columns balanced over the folds: a label, the site."
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
    column: str | None = Field(None, description="Label column of the sheet, when source is sheet.")
    min_area: Share = Field(
        0.5,
        description="A patch takes a class when at least this share is annotated so; "
        "patches below it for every class are unlabelled.",
    )
    multi_label: bool = Field(
        False,
        description="Each class on its own: a patch has every class that reaches min_area, or none; the sheet's cell "
        "lists classes with commas.",
    )
    unlabelled: Literal["ignore", "background"] = Field(
        "ignore",
        description="Pixels without annotation, when source is mask: ignore keeps them out of training and scoring; "
        "background learns them as a further class.",
    )

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
        1.0, gt=0, le=1, description="Each stage towards the input learns at this share of the rate of the next."
    )
    dropout: Share = Field(0.0, description="Dropout before the last layer.")
    context: list[Annotated[float, Field(gt=1, le=64)]] = Field(
        default_factory=list,
        description="Coarser views of the same centre, as multiples of the grid's mpp, given as further channels.",
    )
    stain: Literal["none", "macenko", "reinhard"] = Field(
        "none", description="Stain normalisation of every patch as it is read, in training and prediction alike."
    )


class Augment(Section):
    """Random changes of a training patch; image and mask change together."""

    flip: bool = Field(True, description="Flips and quarter turns: tissue has no up.")
    brightness: float = Field(0.15, ge=0, le=1, description="Brightness and contrast jitter, as a share.")
    saturation: float = Field(0.15, ge=0, le=1, description="Saturation jitter, as a share.")
    hue: float = Field(0.03, ge=0, le=0.5, description="Hue jitter, as a share of the colour circle.")
    hed: float = Field(
        0.0, ge=0, le=0.5, description="Jitter of haematoxylin, eosin and DAB densities, as a share (0.05 is usual)."
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

    steps: int = Field(1000, ge=1, description="Optimiser steps: length does not depend on how many patches exist.")
    batch: int = Field(32, ge=1, description="Patches per step.")
    accumulate: int = Field(
        1, ge=1, description="Batches whose gradients are added up for one step: a larger batch in the same memory."
    )
    loss: Literal[
        "auto", "ce", "weighted_ce", "focal", "bce", "dice", "dice_ce", "generalised_dice", "mse", "huber"
    ] = Field(
        "auto", description="auto: ce for classes, bce for multi_label, dice_ce for segmentation, huber for regression."
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has momentum 0.9, after Nesterov.")
    learning_rate: float = Field(3e-4, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay.")
    schedule: Literal["one_cycle", "cosine", "warm_restarts", "constant"] = Field(
        "one_cycle",
        description="Course of the learning rate; warm_restarts begins with a tenth of the steps, doubling.",
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
    containing: dict[Name, Share] = Field(
        default_factory=dict, description="Share of the draws that must contain this annotated class, however little."
    )
    positions: Literal["grid", "random"] = Field(
        "grid",
        description="grid: patches of the table; random: moved by up to half a stride, so that no two draws are alike.",
    )
    audit: bool = Field(False, description="Write every drawn coordinate to drawn.parquet beside the model.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the GPU has it, else fp16; fp32 on CPU."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile: a slow start, then faster steps.")
    gpus: int = Field(1, ge=1, le=16, description="GPUs of one node that share each step; batch is per GPU.")
    workers: int | None = Field(None, ge=0, description="Loader processes; default: the rule's threads less one.")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Minutes between resumable checkpoints: the most a killed job loses."
    )
    max_read_errors: int = Field(
        0, ge=0, description="Unreadable patches tolerated before training stops; never replaced by white."
    )


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


BACKGROUND = "background"
"""Output that learns unlabelled pixels."""

LOSSES = {
    "classification": ("ce", "weighted_ce", "focal"),
    "multi_label": ("bce",),
    "segmentation": ("ce", "weighted_ce", "focal", "dice", "dice_ce", "generalised_dice"),
    "regression": ("mse", "huber"),
}
FIGURES = {
    "classification": ("loss", "auroc", "accuracy", "balanced_accuracy"),
    "multi_label": ("loss", "auroc"),
    "segmentation": ("loss", "dice", "accuracy"),
    "regression": ("loss", "mae", "r2"),
}


def outputs_of(kind: str, target: Target) -> list[str]:
    """Names of a network's outputs, in order: the classes, background first where it is learned, or the column."""
    if kind == "segmentation" and target.unlabelled == "background":
        return [BACKGROUND, *target.classes]
    if kind == "regression" and not target.classes:
        return [target.column or ""]
    return list(target.classes)


def _target_problems(kind: str, target: Target) -> Iterator[str]:
    if (kind == "segmentation") != (target.source == "mask"):
        yield "target.source mask belongs to kind segmentation, and only to it"
    if target.multi_label and kind != "classification":
        yield "target.multi_label belongs to kind classification"
    if target.unlabelled != "ignore" and kind != "segmentation":
        yield "target.unlabelled belongs to kind segmentation"
    if kind == "regression":
        if bool(target.classes) == (target.source == "sheet"):
            yield "regression learns the area shares of target.classes, or one number of target.column"
    elif len(outputs_of(kind, target)) < (1 if target.multi_label else 2):
        yield f"target.classes: {kind} needs at least {1 if target.multi_label else 2} classes"
    if len(set(target.classes)) < len(target.classes) or BACKGROUND in target.classes:
        yield f"target.classes must differ from each other and from {BACKGROUND!r}"


def _training_problems(task: Task) -> Iterator[str]:
    kind = "multi_label" if task.target.multi_label else task.kind
    if task.train.loss not in ("auto", *LOSSES[kind]):
        yield f"train.loss: {task.train.loss} does not fit {kind}; one of {', '.join(LOSSES[kind])}"
    if task.train.select not in FIGURES[kind]:
        yield f"train.select: {task.train.select} is not measured for {kind}; one of {', '.join(FIGURES[kind])}"
    if task.train.balance == "class" and kind == "regression":
        yield "train.balance: regression has no classes; use slide or area"
    unknown = set(task.train.shares) - {*task.outputs, "none"}
    if unknown:
        yield f"train.shares: {', '.join(sorted(unknown))} is no class of the task"
    if task.train.shares and task.train.balance not in ("auto", "class"):
        yield "train.shares are shares of classes; remove them or train.balance"


class Task(Section):
    """One thing to learn: a grid, a target, a network and how it is trained."""

    kind: Literal["classification", "regression", "segmentation"] = Field(
        "classification", description="What the network outputs."
    )
    grid: Name = Field(description="The grid whose patches are used; a name under grids.")
    target: Target = Field(default_factory=Target, description="What is learned.")
    split: Split = Field(default_factory=Split, description="How patients are divided.")
    model: Model = Field(default_factory=Model, description="The network.")
    augment: Augment = Field(default_factory=Augment, description="Random changes of training patches.")
    train: Train = Field(default_factory=Train, description="The training loop.")
    predict: Predict = Field(default_factory=Predict, description="Prediction.")

    @model_validator(mode="after")
    def _fits_together(self) -> Task:
        problems = list(_target_problems(self.kind, self.target)) + list(_training_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def outputs(self) -> list[str]:
        """Names of the network's outputs, in order."""
        return outputs_of(self.kind, self.target)

    def fitting(self) -> dict[str, Any]:
        """What a trained model depends on: neither how it is used afterwards nor how its slides were chosen."""
        return {key: value for key, value in self.dump().items() if key not in ("predict", "split")}


class CascadeNetwork(Section):
    """The network of a RADHicaL cascade; every level has its own weights."""

    name: str = Field(
        "radhical",
        description="radhical: the paper's net, 145,123 parameters; else a segmentation-models-pytorch architecture.",
    )
    encoder: str = Field("resnet18", description="Encoder of a segmentation-models-pytorch architecture.")
    border: Literal["context", "zeros"] = Field(
        "context",
        description="What the paper's net sees beyond its 32-pixel patch: context, the real pixels, so that a whole "
        "image is evaluated at once; zeros, as in the paper, which costs a network pass for every pixel.",
    )


class CascadeTrain(Section):
    """Samples and training of every level of a cascade."""

    per_class: int = Field(500, ge=1, description="Points drawn per slide and class (paper: 500).")
    background: int = Field(150, ge=1, description="Background points per slide at the finest level (paper: 150).")
    complete: bool = Field(
        True,
        description="false: annotation is incomplete, so background is drawn only where no dark pixel is near, and "
        "predictions that touch no annotation are not counted as errors.",
    )
    steps: int = Field(1500, ge=1, description="Optimiser steps per level.")
    batch: int = Field(8, ge=1, description="Points per step; larger batches leave a CPU's caches.")
    lattice: int = Field(
        8,
        ge=1,
        le=32,
        description="A point brings lattice x lattice pixels, 8 apart, that share most of their computation; 1: the "
        "point alone, as in the paper.",
    )
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    colour: float = Field(0.1, ge=0, le=1, description="Standard deviation of the channels' random gain and offset.")


class CascadeSearch(Section):
    """How thresholds are chosen on validation patients."""

    max_f_loss: Share = Field(
        0.01,
        description="The cheapest thresholds are taken with which neither F, of pixels or of nuclei, lies further "
        "below the dense network's on validation patients.",
    )
    min_saving: Share = Field(
        0.0,
        description="Least share of pixel evaluations to save; where both cannot be had, this one wins.",
    )
    candidates: int = Field(
        32, ge=2, le=300, description="Values tried per threshold, spread over what the networks answer (paper: 32)."
    )
    joint: int = Field(192, ge=0, description="Threshold sets tried in the joint search; 0: coordinate-wise only.")


class CascadeThresholds(Section):
    """Thresholds of a cascade, on the probabilities p0 (nothing), p1 (nucleus; mixed), p2 (wholly nucleus)."""

    cut: Share = Field(description="A level-1 pixel is nucleus when its p1 is above this.")
    lower: list[Share] = Field(
        description="Levels 2, 3, …: the next finer level is computed where p1 + p2 of this level is at least this; "
        "0 sends on whatever is not certain."
    )
    upper: list[Share] = Field(
        description="Levels 2, 3, …: accepted as nucleus where p2 is at least this, which wins over lower; 1: "
        "practically never."
    )


class CascadeBaselines(Section):
    """What a cascade is measured against, on the test slides."""

    naive_pixels: int = Field(
        1024, ge=1, description="Pixels per slide evaluated patch by patch; the naive time is scaled up from them."
    )
    repeats: int = Field(3, ge=1, description="Timed repetitions of dense and cascade; the median counts.")


class Radhical(Section):
    """A RADHicaL cascade: a network per magnification, the low ones decide where the high ones must look."""

    mpp: float = Field(0.5, gt=0.05, le=64, description="Resolution of level 1, the finest, in µm per pixel.")
    scales: list[float] = Field(
        default_factory=lambda: [1.0, 0.5, 0.25, 0.1],
        description="Scale of every level relative to mpp, finest first; the first is 1.",
    )
    objects: list[Name] = Field(
        default_factory=list,
        description="Annotation classes that are nuclei; default: everything drawn, or every non-zero mask value.",
    )
    split: Split = Field(default_factory=Split, description="How patients are divided.")
    network: CascadeNetwork = Field(default_factory=CascadeNetwork, description="The network.")
    train: CascadeTrain = Field(default_factory=CascadeTrain, description="Samples and training.")
    search: CascadeSearch = Field(default_factory=CascadeSearch, description="Choice of thresholds.")
    thresholds: CascadeThresholds | None = Field(None, description="Thresholds in place of a search.")
    block_px: int = Field(
        128,
        ge=32,
        le=1024,
        multiple_of=32,
        description="Edge in pixels of the blocks that are computed or skipped; smaller skips more, but costs more.",
    )
    baselines: CascadeBaselines = Field(default_factory=CascadeBaselines, description="Baselines.")

    @field_validator("scales")
    @classmethod
    def _falling(cls, scales: list[float]) -> list[float]:
        if scales[:1] != [1.0] or any(b >= a or b <= 0 for a, b in pairwise(scales)):
            raise ValueError("scales start at 1 and fall from there, for example [1, 0.5, 0.25, 0.1]")
        return scales

    @model_validator(mode="after")
    def _fit(self) -> Radhical:
        if self.split.folds != 1:
            raise ValueError("split.folds: a cascade has one split, give test and val shares or roles in the sheet")
        coarse = len(self.scales) - 1
        if self.thresholds and {len(self.thresholds.lower), len(self.thresholds.upper)} != {coarse}:
            raise ValueError(f"thresholds.lower and thresholds.upper need {coarse} values: levels 2 to {coarse + 1}")
        if self.network.border == "zeros" and self.train.lattice != 1:
            raise ValueError("network.border: zeros sees single patches, so it needs train.lattice: 1")
        return self

    def fitting(self) -> dict[str, Any]:
        """What the trained levels depend on: neither thresholds nor how they are used."""
        used = {"mpp", "scales", "objects", "network", "train"}
        return {key: value for key, value in self.dump().items() if key in used}


class CascadeStage(Section):
    """One magnification of a patch cascade: a task, and what happens next to the patches it has scored."""

    task: Name = Field(description="A classification task under tasks; its grid is the stage's magnification.")
    lower: Share = Field(0.05, description="The next finer stage looks where this stage's score is at least this.")
    upper: Share = Field(
        1.0, description="Accepted without looking closer where this stage's score is at least this; 1: hardly ever."
    )


class PatchCascade(Section):
    """Prediction of whole slides by classifiers of several magnifications: the coarse ones say where to look."""

    class_name: Name = Field(description="The class that is looked for; every stage's task must have it.")
    stages: list[CascadeStage] = Field(min_length=2, description="Stages, coarsest grid first.")


class Explain(Section):
    """Pictures of what a model saw."""

    contact_patches: int = Field(
        16, ge=1, le=64, description="Random kept patches, and as many excluded ones, on a slide's contact sheet."
    )
    embed_patches: int = Field(
        5000, ge=10, description="Patches in the embedding, at most, drawn evenly from the test slides."
    )
    umap_neighbors: int = Field(15, ge=2, description="UMAP n_neighbors: small shows detail, large shows the whole.")
    shap_patches: int = Field(16, ge=1, le=64, description="Patches explained by SHAP.")
    shap_background: int = Field(
        32, ge=2, le=256, description="Training patches that stand for 'nothing special' in SHAP."
    )
    shap_at: list[tuple[str, int, int]] = Field(
        default_factory=list,
        description="Further patches to explain: [slide_id, x, y], a point in level-0 pixels inside the patch.",
    )
    overlay_mpp: float = Field(8.0, gt=0.5, description="Resolution of overlays in µm per pixel.")
    qupath: bool = Field(
        False, description="Also write predictions as QuPath tiles, GeoJSON of about 350 bytes per patch."
    )


class Config(Section):
    """config.yaml."""

    sheet: str = Field(
        "config/slides.tsv", description="The slide sheet, a TSV; relative paths start where snakemake runs."
    )
    results: str = Field("results", description="Folder for everything the workflow writes.")
    seed: int = Field(0, ge=0, description="Every random choice starts here.")
    on_bad_slide: Literal["quarantine", "fail"] = Field(
        "quarantine", description="quarantine: record the reason and go on with the others; fail: stop the run."
    )
    max_quarantined: Share = Field(
        0.2, description="Share of the cohort that may be in quarantine before the run stops."
    )
    convert: Convert = Field(default_factory=Convert, description="Slide to OME-Zarr.")
    tissue: Tissue = Field(default_factory=Tissue, description="Tissue presegmentation.")
    quality: Quality = Field(default_factory=Quality, description="Artefacts.")
    annotations: Annotations = Field(default_factory=Annotations, description="Annotation classes.")
    grids: dict[Name, Grid] = Field(default_factory=lambda: {"x20": Grid()}, description="Patch grids by name.")
    tasks: dict[Name, Task] = Field(default_factory=dict, description="Tasks by name.")
    radhical: dict[Name, Radhical] = Field(default_factory=dict, description="Nucleus cascades by name.")
    patch_cascades: dict[Name, PatchCascade] = Field(
        default_factory=dict, description="Cascades of classification tasks by name."
    )
    explain: Explain = Field(default_factory=Explain, description="Embedding, attribution, overlays.")

    @field_validator("grids")
    @classmethod
    def _some_grid(cls, grids: dict[str, Grid]) -> dict[str, Grid]:
        if not grids:
            raise ValueError("at least one grid is needed")
        return grids

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        known = set(self.annotations.classes.values())
        problems = []
        for name, task in self.tasks.items():
            if task.grid not in self.grids:
                problems.append(f"tasks.{name}.grid: {task.grid!r} is not under grids ({', '.join(self.grids)})")
            if task.target.source != "sheet":
                problems += [
                    f"tasks.{name}.target.classes: {c!r} is no value of annotations.classes"
                    for c in task.target.classes
                    if c not in known
                ]
        for name, cascade in self.patch_cascades.items():
            problems += [
                f"patch_cascades.{name}.stages: {s.task!r} is no classification task with class {cascade.class_name!r}"
                for s in cascade.stages
                if s.task not in self.tasks
                or self.tasks[s.task].kind != "classification"
                or cascade.class_name not in self.tasks[s.task].target.classes
            ]
        for name, grid in self.grids.items():
            problems += [
                f"grids.{name}.roi: {c!r} is no value of annotations.classes" for c in grid.roi if c not in known
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def class_names(self) -> list[str]:
        """Annotation classes in a fixed order: the order of the ``area_<class>`` columns."""
        return sorted(set(self.annotations.classes.values()))


def parse_config(raw: dict[str, Any], *, origin: str = "config.yaml") -> Config:
    """Validate raw YAML values, or raise one ConfigError that lists every offending key."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(top level)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{origin} has {len(lines)} problem(s):\n" + "\n".join(lines)) from None


def load_config(path: Path | str) -> Config:
    """Read and validate a config.yaml."""
    return parse_config(yaml.safe_load(Path(path).read_text()) or {}, origin=str(path))
