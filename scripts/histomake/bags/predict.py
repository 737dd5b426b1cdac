"""Prediction of bags: scores of a slide or patient, and what each patch of a slide has to do with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from histomake.bags.hazards import IntervalHazards
from histomake.bags.index import BagIndex, bag_name, gather_bags, with_vectors
from histomake.bags.network import ADDITIVE, BagNetwork
from histomake.bags.probes import probe
from histomake.base.errors import HistomakeError
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.bag_probe import with_probe
from histomake.base.records.features import column_name
from histomake.base.records.model_card import BagCard, ModelCard
from histomake.base.tables import without_rows
from histomake.config import Bag, BagPooling
from histomake.features.index import FeatureReader
from histomake.features.predict import require_same_features
from histomake.features.store import read_features
from histomake.learn.data.patch_index import PatchIndex, SlideEntry, index_patches, usable_patches
from histomake.learn.engine.runtime import Runtime
from histomake.learn.inference.predict import (
    Predictor,
    check_grid,
    prediction_schema,
    prediction_table,
    require_consistent,
    require_finite,
)
from histomake.learn.kinds import TRAINED
from histomake.model.transfer import describing, load_weights_file
from histomake.target.targets import is_known

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINEAR = "linear"
"""Beginning of the columns of the linear baseline."""

ATTENTION = (("attention", pa.float32()), ("percentile", pa.float32()))


def load_bag_model(folder: Path) -> Predictor:
    """Load the model of a task on bags in eval mode, on the CPU. Raises HistomakeError for any other model."""
    card = ModelCard.read(folder / DESCRIPTION)
    if card.features is None or card.bag is None:
        raise HistomakeError(f"{folder} predicts patches, not slides or patients; train the task again")
    require_consistent(card, folder / DESCRIPTION)
    with describing(folder / DESCRIPTION, card.REMEDY):
        inputs, outputs = card.features.dimensions, len(card.class_names)
        network = BagNetwork(pooling_of(card.bag), inputs=inputs, outputs=outputs, hazards=hazards_of(card.bag))
    load_weights_file(network, folder / WEIGHTS, sha256=card.weights_sha256)
    return Predictor(network.eval(), card, Runtime(torch.device("cpu"), torch.float32))


def pooling_of(bag: BagCard) -> BagPooling:
    """The pooling of a model, without dropout."""
    return BagPooling(**{**bag.pooling, "dropout": 0.0})


def hazards_of(bag: BagCard) -> IntervalHazards | None:
    """Room for the hazards by interval of a model; None if it has none."""
    return IntervalHazards(bag.intervals) if bag.intervals else None


def predict_bag(
    predictor: Predictor, entry: SlideEntry, others: Sequence[SlideEntry], files: Mapping[str, Path]
) -> pa.Table:
    """Predictions of the patches of a slide, as part of its bag.

    Args:
        predictor: The model.
        entry: The slide.
        others: The other slides of its bag, if the bag is a patient.
        files: File of features of each of the slides, by id.

    Columns: those of `predict_slide`, where every patch has the scores of the bag; attention float32, which sums to 1
    over the bag; percentile float32 in (0, 1], the share of the slide's patches whose attention is not higher;
    contribution_<output> float32 where pooling is additive, which sum to the logits of the bag; linear_<output>
    float32, the scores of the linear baseline, where there is one. The metadata have a `BagProbe` if
    the target of the bag is known.

    A slide without usable patches has no rows, and neither has one that was damaged when its patches were encoded; the
    patient's other slides are predicted without it. Raises HistomakeError for features of another encoder, and for a
    slide that the encoder was trained on.
    """
    card = predictor.card
    assert card.features is not None
    assert card.bag is not None
    # In the same order whichever slide is asked for, so that all slides of a patient have the same scores to the bit.
    together = sorted((entry, *others), key=lambda one: one.slide_id)
    usable = [one for one in together if usable_patches(one)[0].num_rows]
    lost = {one.slide_id: found for one in usable if (found := read_features(files[one.slide_id]).met_damage)}
    if entry.slide_id in lost:
        return without_rows(bag_schema(predictor), lost[entry.slide_id])
    entries = [one for one in usable if one.slide_id not in lost]
    if entry not in entries:
        return bag_schema(predictor).empty_table()
    column = column_name(card.features.encoder, card.features.fold)
    patches = index_patches(entries, kind=card.kind, target=predictor.task.target)
    check_grid(predictor, patches)
    patches = with_vectors(patches, files, column)
    if not (patches.tissue[patches.slide == entries.index(entry)] >= least_tissue(card.bag)).any():
        return bag_schema(predictor).empty_table()
    bags = gather_bags(
        patches,
        lambda kept: FeatureReader(kept, files, column),
        level=card.bag.level,
        min_tissue=least_tissue(card.bag),
    )
    for one in entries:
        require_same_features(card, bags.stored, one, files[one.slide_id])
    return bag_table(predictor, bags, entry, entries)


def bag_table(predictor: Predictor, bags: BagIndex, entry: SlideEntry, entries: Sequence[SlideEntry]) -> pa.Table:
    """The table of `predict_bag` for one of the slides ``entries`` of the bags."""
    card, network = predictor.card, predictor.network
    assert card.bag is not None
    assert isinstance(network, BagNetwork)
    number = bags.names.index(bag_name(entry, card.bag.level))
    pooled, mean = network.predict_bag(bags, number, predictor.runtime.device)
    mine = bags.patches.slide[bags.members[number]] == entries.index(entry)
    own = bags.patches.take(bags.members[number][mine])
    parts = None if pooled.contributions is None else pooled.contributions.cpu().numpy()[mine]
    others = {} if card.bag.penalty is None else {LINEAR: network.linear(mean)}
    table = explained_table(
        predictor, own, pooled.logits, attention=pooled.attention.cpu().numpy()[mine], parts=parts, others=others
    )
    activate = TRAINED[card.kind].activate
    if not is_known(bags.first.target)[number]:
        # Only the evaluation reads probes, and they cost as much as tens of predictions.
        return table
    places = torch.from_numpy(bags.places[bags.members[number]])
    return with_probe(table, probe(network.pooling, pooled, places, activate=activate, seed=card.seed))


def explained_table(
    predictor: Predictor,
    own: PatchIndex,
    logits: torch.Tensor,
    *,
    attention: NDArray[np.floating],
    parts: NDArray[np.floating] | None,
    others: Mapping[str, torch.Tensor],
) -> pa.Table:
    """The table of `predict_bag`, without a probe.

    Args:
        predictor: The model.
        own: The n patches of a slide.
        logits: Of its bag, (1, outputs).
        attention: Of each patch, (n,).
        parts: Contributions of each patch (n, outputs), if they are known.
        others: Logits (1, outputs) of baselines, by the beginning of their columns.
    """
    names, activate = predictor.card.class_names, TRAINED[predictor.card.kind].activate
    scores = np.repeat(activate(logits).cpu().numpy(), len(own), axis=0)
    require_finite(np.concatenate([scores, attention[:, None]], axis=1), own, np.arange(len(own)))
    not_higher = np.searchsorted(np.sort(attention), attention, side="right")
    columns = {"attention": attention, "percentile": not_higher / len(attention)}
    if parts is not None:
        columns |= {f"contribution_{name}": values for name, values in zip(names, parts.T, strict=True)}
    for baseline, found in others.items():
        of_outputs = zip(names, activate(found)[0].tolist(), strict=True)
        columns |= {f"{baseline}_{name}": np.full(len(own), score) for name, score in of_outputs}
    table = prediction_table(predictor, own, scores)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.float32()))
    return table.cast(bag_schema(predictor))


def bag_schema(predictor: Predictor) -> pa.Schema:
    """Columns of a table of predictions."""
    names, bag = predictor.class_names, predictor.card.bag
    assert bag is not None
    found = [*prediction_schema(predictor), *(pa.field(name, kind) for name, kind in ATTENTION)]
    of_outputs = ["contribution"] if bag.graph is not None or bag.pooling["name"] in ADDITIVE else []
    of_outputs += [LINEAR] if bag.penalty is not None else []
    of_outputs += bag.graph.ablations if bag.graph is not None else []
    found += [pa.field(f"{of}_{name}", pa.float32()) for of in of_outputs for name in names]
    return pa.schema(found)


def least_tissue(bag: BagCard) -> float:
    """Smallest tissue share of a patch of a bag."""
    return Bag(**bag.bag).min_tissue


def has_tissue(entry: SlideEntry, bag: BagCard) -> bool:
    """Whether a slide has a patch that belongs to a bag."""
    table, _ = usable_patches(entry)
    return bool((table["tissue"].to_numpy() >= least_tissue(bag)).any())
