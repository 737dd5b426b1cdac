"""Keys of networks and their training: what a task starts from, how its patches vary, and how it is optimised."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histomake.config.section import Name, Section, Share


class Model(Section):
    """The network."""

    name: str = Field(
        "resnet18",
        description="For classification and regression a timm model, alexnet or shufflenet_v2. For segmentation "
        "unet, deeplabv3plus, fpn, upernet, segformer or another architecture of segmentation-models-pytorch, fcn, or "
        "fast_scnn.",
    )
    encoder: str = Field("resnet18", description="Encoder of a segmentation model; any timm model with features.")
    pretrained: bool | str = Field(
        False,
        description="true: weights from timm (needs network access); a path: a safetensors file, or the folder of a "
        "model trained earlier or of an encoder; the name of an encoder with a file of weights; false: random weights.",
    )
    transfer: Literal["encoder", "all"] = Field(
        "encoder",
        description="Weights to use if pretrained is a path: all except the last layer or decoder (encoder), or all.",
    )
    frozen_stages: int = Field(
        0, ge=0, le=50, description="Number of encoder stages, from the input, whose weights are not trained."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Ratio of the learning rates of each stage and the next one towards the output (Howard & Ruder "
        "2018).",
    )
    dropout: Share = Field(0.0, description="Dropout before the last layer.")
    context: list[Annotated[float, Field(gt=1, le=64)]] = Field(
        default_factory=list,
        description="Additional coarser views of the same centre, as multiples of the grid's mpp. They are additional "
        "input channels.",
    )
    stain: Literal["none", "macenko", "reinhard"] = Field(
        "none",
        description="Stain normalisation in training and prediction. The colours of each slide are estimated once "
        "from its tissue at 2 µm/px and mapped to those of the training slide nearest to the median. "
        "Macenko et al. 2009; Reinhard et al. 2001.",
    )


class Augment(Section):
    """Data augmentation of training patches. Image and mask change together."""

    flip: bool = Field(True, description="Flips and quarter turns, because tissue has no orientation.")
    brightness: float = Field(0.15, ge=0, le=1, description="Jitter of brightness and contrast, as a share.")
    saturation: float = Field(0.15, ge=0, le=1, description="Jitter of saturation, as a share.")
    hue: float = Field(0.03, ge=0, le=0.5, description="Jitter of hue, as a share of the colour circle.")
    hed: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Jitter of haematoxylin, eosin and DAB densities, as a share (Tellez et al. 2018; 0.05 is common).",
    )
    stain: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Patches are shown as if stained elsewhere: up to this many doublings weaker or stronger, each "
        "stain by half of that besides, in other hues. For slides of laboratories that are not trained on.",
    )
    rotate: float = Field(
        0.0, ge=0, le=180, description="Largest rotation angle in degrees; corners are filled by reflection."
    )
    elastic: float = Field(
        0.0,
        ge=0,
        le=0.1,
        description="Standard deviation of the displacements of an 8 x 8 lattice, as a share of the patch "
        "(histo-fetch: 0.0125).",
    )
    blur: float = Field(0.0, ge=0, le=5, description="Largest sigma of a Gaussian blur in pixels.")


class Train(Section):
    """The training loop."""

    steps: int = Field(
        1000, ge=1, description="Number of optimiser steps. Training is not counted in epochs, as in histo-fetch."
    )
    batch: int = Field(32, ge=1, description="Number of patches per step.")
    accumulate: int = Field(
        1,
        ge=1,
        description="Number of batches whose gradients are added for one step, to use a larger batch with the same "
        "memory.",
    )
    loss: Literal[
        "auto",
        "ce",
        "weighted_ce",
        "focal",
        "bce",
        "dice",
        "dice_ce",
        "generalised_dice",
        "mse",
        "huber",
        "cox_efron",
        "cox_breslow",
        "hazards",
    ] = Field(
        "auto",
        description="auto: ce for classification, bce for multi_label, dice_ce for segmentation, huber for "
        "regression, cox_efron for survival. focal: Lin et al. 2017, gamma 2; dice: Milletari et al. 2016; "
        "generalised_dice: Sudre et al. 2017; cox_efron, cox_breslow: Cox partial likelihood within the bags of a step "
        "(train.batch), with ties as of Efron 1977 or Breslow 1974; hazards: hazards by intervals of time, Prentice & "
        "Gloeckler 1978, for which a batch may be small.",
    )
    intervals: int = Field(
        8,
        ge=1,
        le=100,
        description="Number of intervals of time with loss hazards. Their ends are quantiles of the times of the "
        "training events; fewer where there are fewer different times.",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="adamw: Loshchilov & Hutter 2019; sgd: with Nesterov momentum 0.9."
    )
    learning_rate: float = Field(3e-4, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay.")
    schedule: Literal["one_cycle", "cosine", "warm_restarts", "constant"] = Field(
        "one_cycle",
        description="Schedule of the learning rate. one_cycle: Smith 2018; warm_restarts: Loshchilov & Hutter 2017, "
        "with a first period of a tenth of the steps, doubled after each restart.",
    )
    clip: float | None = Field(
        None, gt=0, description="Largest norm of the gradient; larger gradients are scaled down."
    )
    validate_every: int = Field(
        200, ge=1, description="Number of steps between validations. The best checkpoint is kept."
    )
    select: Literal["loss", "auroc", "accuracy", "balanced_accuracy", "dice", "mae", "r2", "c_index"] = Field(
        "loss", description="Validation metric that determines the best checkpoint."
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Training stops after this number of validations without improvement. By default it does not stop "
        "early.",
    )
    validate_patches: int = Field(
        1024, ge=1, description="Maximum number of validation patches, drawn once with the seed."
    )
    balance: Literal["auto", "class", "slide", "area"] = Field(
        "auto",
        description="Probabilities with which patches are drawn: equal classes, equal slides, or all patches equally "
        "(area). auto: class, or slide for regression.",
    )
    shares: dict[Name, Share] = Field(
        default_factory=dict,
        description="Share of the draws per class, instead of equal classes. Classes that are not listed share the "
        "rest equally; if all are listed, the sum must be 1. With multi_label, none stands for patches without any of "
        "the classes.",
    )
    factors: dict[Name, Annotated[float, Field(gt=0, le=1000)]] = Field(
        default_factory=dict,
        description="Factor by which a class is drawn more often (above 1) or less often (below 1) than with balance.",
    )
    containing: dict[Name, Share] = Field(
        default_factory=dict,
        description="Share of the draws in which the patch contains at least some of this annotation class.",
    )
    readers: Literal["consensus", "draw"] = Field(
        "consensus",
        description="Labels of training patches on slides that several readers annotated. consensus: that of the "
        "consensus (section readers); draw: each draw takes the label, or the mask, of one of the readers who labelled "
        "the patch, each as likely as the others before classes are balanced. Validation and test use the consensus.",
    )
    positions: Literal["grid", "random"] = Field(
        "grid",
        description="grid: patches of the table; random: patches shifted by up to half a stride, so that no two draws "
        "are the same (as in histo-fetch).",
    )
    audit: bool = Field(
        False, description="Write the coordinates of all draws to training/drawn.parquet beside the model."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 if the GPU supports it, else fp16; fp32 on a CPU."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile: slower start, faster steps.")
    gpus: int = Field(1, ge=1, le=16, description="Number of GPUs of one node that share each step. batch is per GPU.")
    workers: int | None = Field(
        None,
        ge=0,
        description="Number of loader processes per GPU in training and prediction. By default 7, or as many as cores "
        "allow.",
    )
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Minutes between checkpoints. A killed job loses at most this time."
    )
    stage: bool = Field(
        False,
        description="First copy the stores of the slides to the node's local disk ($TMPDIR) and compare every byte. "
        "Useful for shared file systems that are slow at random reads.",
    )
    max_read_errors: int = Field(
        0,
        ge=0,
        description="Largest tolerated number of unreadable patches; with more, training stops. They are replaced by "
        "other patches, not by white.",
    )


RUNNING = ("workers", "checkpoint_minutes", "max_read_errors", "stage")
"""Keys of train that do not affect the model, only how the job runs. After a change nothing is trained again, and an
interrupted run can continue."""
