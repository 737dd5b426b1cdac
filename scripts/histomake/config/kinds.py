"""What is known of each kind of task before any job runs: settings that fit it, and files of its predictions.

The table decides which configurations are accepted and which rules run. It shapes no result, so code digests leave it
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from histomake.base.kinds import Kind


@dataclass(frozen=True)
class Accepted:
    """What the workflow accepts and plans for one kind of task.

    meaning: what the network outputs, for the documentation.
    example: smallest settings of a task besides its grid, for the documentation and the tests of all kinds.
    sources: values of ``target.source``.
    columns: keys of ``target`` that name columns of the sheet, if it is the source.
    several_columns: whether ``target.columns`` may name several in place of ``target.column``.
    least_classes: smallest number of classes. None: the outputs are numbers, not classes.
    several: whether a patch or slide may have several classes; cells of the sheet separate them with commas.
    background: whether ``target.unlabelled: background`` is possible.
    losses: values of ``train.loss`` besides auto.
    figures: values of ``train.select``, the figures that validation measures.
    networks_without_weights: networks for which ``model.pretrained: true`` finds no weights.
    networks_with_dropout: networks that have ``model.dropout``. None: all.
    features: whether the task can learn from one vector per patch instead of its pixels.
    bags: whether a slide or patient can be predicted as a bag of patches.
    patches: whether patches or their pixels can be predicted.
    overlap: whether windows overlap by ``predict.overlap``.
    cascade_stage: whether the task gives each patch a score per class, as a stage of a patch cascade must.
    patient_truth: whether ``predict.patient_truth`` has a meaning: patients have classes that follow from their slides.
    operating_points: whether items have a score per class, from which they can be called.
    label_image: whether the prediction of a slide has a label image with outlines, which rule segment_slide writes.
        Otherwise rule predict_slide predicts it.
    """

    meaning: str
    example: dict[str, Any]
    sources: tuple[str, ...]
    columns: tuple[str, ...]
    several_columns: bool
    least_classes: int | None
    several: bool
    background: bool
    losses: tuple[str, ...]
    figures: tuple[str, ...]
    networks_without_weights: tuple[str, ...]
    networks_with_dropout: tuple[str, ...] | None
    features: bool
    bags: bool
    patches: bool
    overlap: bool
    cascade_stage: bool
    patient_truth: bool
    operating_points: bool
    label_image: bool


COLUMNS = ("column",)
"""Keys of ``target`` that name columns of the sheet, of the kinds that learn from one."""

ACCEPTED: dict[Kind, Accepted] = {
    Kind.CLASSIFICATION: Accepted(
        meaning="one class per patch",
        example={"target": {"classes": ["stroma", "tumour"]}},
        sources=("annotation", "sheet"),
        columns=COLUMNS,
        several_columns=False,
        least_classes=2,
        several=False,
        background=False,
        losses=("ce", "weighted_ce", "focal"),
        figures=("loss", "auroc", "accuracy", "balanced_accuracy"),
        networks_without_weights=("alexnet", "shufflenet_v2"),
        networks_with_dropout=None,
        features=True,
        bags=True,
        patches=True,
        overlap=False,
        cascade_stage=True,
        patient_truth=True,
        operating_points=True,
        label_image=False,
    ),
    Kind.MULTI_LABEL: Accepted(
        meaning="any number of classes per patch, each decided on its own",
        example={"target": {"classes": ["necrosis", "tumour"]}},
        sources=("annotation", "sheet"),
        columns=COLUMNS,
        several_columns=False,
        least_classes=1,
        several=True,
        background=False,
        losses=("bce",),
        figures=("loss", "auroc"),
        networks_without_weights=("alexnet", "shufflenet_v2"),
        networks_with_dropout=None,
        features=True,
        bags=True,
        patches=True,
        overlap=False,
        cascade_stage=True,
        patient_truth=True,
        operating_points=True,
        label_image=False,
    ),
    Kind.REGRESSION: Accepted(
        meaning="numbers per patch",
        example={"target": {"classes": ["tumour"]}},
        sources=("annotation", "sheet"),
        columns=COLUMNS,
        several_columns=True,
        least_classes=None,
        several=False,
        background=False,
        losses=("mse", "huber"),
        figures=("loss", "mae", "r2"),
        networks_without_weights=("alexnet", "shufflenet_v2"),
        networks_with_dropout=None,
        features=True,
        bags=True,
        patches=True,
        overlap=False,
        cascade_stage=False,
        patient_truth=False,
        operating_points=False,
        label_image=False,
    ),
    Kind.SEGMENTATION: Accepted(
        meaning="one class per pixel",
        example={"target": {"source": "mask", "classes": ["stroma", "tumour"]}, "model": {"name": "fast_scnn"}},
        sources=("mask",),
        columns=COLUMNS,
        several_columns=False,
        least_classes=2,
        several=False,
        background=True,
        losses=("ce", "weighted_ce", "focal", "dice", "dice_ce", "generalised_dice"),
        figures=("loss", "dice", "accuracy"),
        networks_without_weights=("fcn", "fast_scnn"),
        networks_with_dropout=("fast_scnn",),
        features=False,
        bags=False,
        patches=True,
        overlap=True,
        cascade_stage=False,
        patient_truth=False,
        operating_points=False,
        label_image=True,
    ),
    Kind.SURVIVAL: Accepted(
        meaning="risk per slide or patient: the logarithm of a hazard ratio",
        example={
            "level": "patient",
            "features": "uni",
            "target": {"source": "sheet", "time": "months", "event": "died"},
        },
        sources=("sheet",),
        columns=("time", "event"),
        several_columns=False,
        least_classes=None,
        several=False,
        background=False,
        losses=("cox_efron", "cox_breslow", "hazards"),
        figures=("loss", "c_index"),
        networks_without_weights=("alexnet", "shufflenet_v2"),
        networks_with_dropout=None,
        features=True,
        bags=True,
        patches=False,
        overlap=False,
        cascade_stage=False,
        patient_truth=False,
        operating_points=False,
        label_image=False,
    ),
}
