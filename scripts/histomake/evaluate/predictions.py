"""Predictions of test slides, read from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from histomake.base.records.model_card import ModelCard
from histomake.evaluate.items import SlidePrediction
from histomake.model.reuse import fold_of


def read_cards(descriptions: Sequence[Path | str]) -> dict[int, ModelCard]:
    """Model cards by fold."""
    return {fold_of(path): ModelCard.read(path) for path in descriptions}


def read_predictions(
    predictions: Sequence[Path | str], slides: Sequence[Sequence[Any]], cards: Mapping[int, ModelCard]
) -> list[SlidePrediction]:
    """Predictions of the slides, each by the model of its fold.

    Args:
        predictions: Prediction tables.
        slides: Id, patient and labels of the slide of each table.
        cards: Model cards by fold.
    """
    found = []
    for path, (slide_id, patient_id, labels) in zip(predictions, slides, strict=True):
        fold = fold_of(path)
        thresholds = {key: getattr(cards[fold], key) for key in ("threshold", "slide_thresholds")}
        found.append(SlidePrediction(slide_id, patient_id, fold, pq.read_table(path), labels=labels, **thresholds))
    return found
