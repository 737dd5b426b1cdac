"""Prediction of patches from their features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from histomake.base.errors import HistomakeError
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.features import FeatureColumn, column_name
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard
from histomake.config import Probe, Target, Task
from histomake.features.heads import build_head, logits_of
from histomake.features.index import FeatureReader
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.engine.runtime import Runtime
from histomake.learn.heads.networks import Head
from histomake.learn.inference.predict import (
    Predictor,
    prediction_schema,
    prediction_table,
    require_consistent,
    require_finite,
    slide_patches,
)
from histomake.learn.kinds import TRAINED
from histomake.learn.objectives.patches import KNOWN_DIGITS
from histomake.model.transfer import describing, load_weights, read_weights, require_digest

ROWS = 8192
"""Patches whose features are read at once."""


def load_head(folder: Path) -> Predictor:
    """Load the head of a task in eval mode, on the CPU. Raises HistomakeError for a model that takes pixels."""
    card = ModelCard.read(folder / DESCRIPTION)
    if card.features is None or card.head is None:
        raise HistomakeError(f"{folder} takes pixels, not features; remove features from the task, or train it again")
    require_consistent(card, folder / DESCRIPTION)
    require_digest(folder / WEIGHTS, card.weights_sha256)
    weights = read_weights(folder / WEIGHTS)
    rows = len(weights["vectors"]) if "vectors" in weights else 1
    with describing(folder / DESCRIPTION, card.REMEDY):
        task = Task(
            kind=card.kind,
            grid=card.grid.name,
            target=Target(**card.target),
            features=card.features.encoder,
            head=card.head["name"],
            probe=Probe(**card.head["probe"]),
        )
        head = build_head(task, inputs=card.features.dimensions, outputs=len(card.class_names), rows=rows)
    load_weights(head, weights, origin=folder / WEIGHTS)
    return Predictor(head.eval(), card, Runtime(torch.device("cpu"), torch.float32))


def predict_features(predictor: Predictor, entry: SlideEntry, features: Path) -> pa.Table:
    """Scores of every kept patch of a slide from its file of features; columns as of `predict_slide`.

    Raises HistomakeError for features of another encoder, weights or settings than the head was trained on, and for a
    slide that the encoder was trained on.
    """
    patches = slide_patches(predictor, entry)
    if patches is None:
        return prediction_schema(predictor).empty_table()
    card, head = predictor.card, predictor.network
    assert card.features is not None
    assert isinstance(head, Head)
    reader = FeatureReader(patches, {entry.slide_id: features}, column_name(card.features.encoder, card.features.fold))
    require_same_features(card, reader, entry, features)
    activate = TRAINED[card.kind].activate
    scores = np.zeros((len(patches), len(predictor.class_names)), np.float32)
    for start in range(0, len(patches), ROWS):
        index = np.arange(start, min(start + ROWS, len(patches)))
        scores[index] = activate(logits_of(head, reader.read(index))).numpy()
    require_finite(scores, patches, np.arange(len(patches)))
    return prediction_table(predictor, patches, scores)


def require_same_features(card: ModelCard, reader: FeatureReader, entry: SlideEntry, path: Path) -> None:
    """Raise HistomakeError if a slide's features are not those that a model takes, or their encoder knows the slide."""
    assert card.features is not None
    if reader.column.identity != card.features.identity:
        raise HistomakeError(
            f"slide {entry.slide_id}: {path} has features of other weights or settings of encoder "
            f"{card.features.encoder} than the model was trained on; train it again on these"
        )
    require_unseen(reader.column, entry)


def require_unseen(encoder: FeatureColumn, entry: SlideEntry) -> None:
    """Raise HistomakeError if an encoder was trained on a slide that is to be predicted from its features."""
    if Manifest.read_usable(entry.manifest).sha256[:KNOWN_DIGITS] in encoder.made_with:
        raise HistomakeError(
            f"slide {entry.slide_id} leaks: encoder {encoder.encoder} was trained on it, and now it is to be "
            "tested. Give both tasks the same roles with the column split of the sheet, or the same folds"
        )
