"""Prediction of bags of pixels, with a network that was trained end to end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from histomake.bags.index import gather_bags
from histomake.bags.pixels import FeaturizedPatches, Featurizer, PixelBagNetwork
from histomake.bags.predict import bag_schema, bag_table, has_tissue, hazards_of, least_tissue, pooling_of
from histomake.base.errors import HistomakeError, SlideError
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined
from histomake.base.tables import without_rows
from histomake.config import Bag, Model
from histomake.learn.data.patch_index import SlideEntry, index_patches, usable_patches
from histomake.learn.engine.runtime import choose_runtime
from histomake.learn.inference.predict import Predictor, check_grid, require_consistent
from histomake.model.transfer import describing, load_weights_file


def load_pixel_bag_model(folder: Path, *, threads: int = 1, precision: str = "auto") -> Predictor:
    """Load the model of a task on bags of pixels in eval mode. Raises HistomakeError for any other model."""
    card = ModelCard.read(folder / DESCRIPTION)
    if card.features is not None or card.bag is None or card.bag.graph is not None:
        raise HistomakeError(f"{folder} does not predict slides or patients from pixels; train the task again")
    require_consistent(card, folder / DESCRIPTION)
    runtime = choose_runtime(precision, threads=threads)
    with describing(folder / DESCRIPTION, card.REMEDY):
        model, bag = Model(**{**card.architecture, "pretrained": False, "frozen_stages": 0}), Bag(**card.bag.bag)
        edge = bag.crop or card.grid.size
        featurizer = Featurizer(model, kind=card.kind, size=edge, chunk=bag.chunk, weights=card.normalisation)
        network = PixelBagNetwork(
            pooling_of(card.bag),
            featurizer=featurizer,
            size=edge,
            outputs=len(card.class_names),
            hazards=hazards_of(card.bag),
        )
    load_weights_file(network, folder / WEIGHTS, sha256=card.weights_sha256)
    return Predictor(network.to(runtime.device).eval(), card, runtime)


def predict_pixel_bag(predictor: Predictor, entry: SlideEntry, others: Sequence[SlideEntry]) -> pa.Table:
    """Predictions of the patches of a slide as part of its bag, as `predict_bag` gives them from features.

    A slide whose damage is met has no rows, and the patient's other slides are predicted
    without it.
    """
    card = predictor.card
    assert card.bag is not None
    together = sorted((entry, *others), key=lambda one: one.slide_id)
    entries = [one for one in together if usable_patches(one)[0].num_rows]
    while entry in entries and has_tissue(entry, card.bag):
        try:
            return _predicted(predictor, entry, entries)
        except SlideError as error:
            if error.slide_id == entry.slide_id:
                return without_rows(bag_schema(predictor), Quarantined.of(error, "predict"))
            entries = [one for one in entries if one.slide_id != error.slide_id]
    return bag_schema(predictor).empty_table()


def _predicted(predictor: Predictor, entry: SlideEntry, entries: Sequence[SlideEntry]) -> pa.Table:
    card, network = predictor.card, predictor.network
    assert card.bag is not None
    assert isinstance(network, PixelBagNetwork)
    bag, model = Bag(**card.bag.bag), predictor.task.model
    patches = index_patches(entries, kind=card.kind, target=predictor.task.target)
    check_grid(predictor, patches)
    bags = gather_bags(
        patches,
        lambda kept: FeaturizedPatches(kept, model, bag, network.featurizer),
        level=card.bag.level,
        min_tissue=least_tissue(card.bag),
    )
    return bag_table(predictor, bags, entry, entries)
