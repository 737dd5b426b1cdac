"""Prediction of patches with a trained model in eval mode: the score of a patch depends only on that patch."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from histomake.base.errors import HistomakeError
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined
from histomake.base.tables import without_rows
from histomake.config import Model, Target, Task
from histomake.config.section import Decode
from histomake.learn.data.batches import Batch, FixedBatches
from histomake.learn.data.device_reading import PatchStream, read_batches
from histomake.learn.data.images import standardise, to_unit
from histomake.learn.data.patch_index import PatchIndex, SlideEntry, index_patches, usable_patches
from histomake.learn.data.reading import PatchReader
from histomake.learn.data.stains import learn_slide
from histomake.learn.engine.runtime import Runtime, advise_on_memory, choose_runtime
from histomake.learn.kinds import TRAINED
from histomake.model import build, transfer
from histomake.patch.blocks import block_order
from histomake.patch.stain import StainNormaliser, read_reference
from histomake.target.kinds import LEARNED
from histomake.target.outputs import outputs_of
from histomake.target.targets import JOINER, UNLABELLED, is_known

SHORT_OF_MEMORY = "with batches of {batch} patches: halve predict.batch, which changes no result"
DICTIONARY = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Predictor:
    """A trained network with everything needed to predict patches of its grid."""

    network: nn.Module
    card: ModelCard
    runtime: Runtime
    stain: StainNormaliser | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return self.card.class_names

    @functools.cached_property
    def task(self) -> Task:
        """The part of the task that labels and patches depend on."""
        return _task_of(self.card)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (n, h, w, 3 · views) → the network's float input (n, 3 · views, h, w) on its device."""
        return standardise(to_unit(images, self.runtime.device), self.card.normalisation)

    @torch.inference_mode()
    def probabilities(self, images: Tensor, *, flips: bool = False) -> Tensor:
        """Scores (n, outputs), for segmentation (n, outputs, h, w), of uint8 patches, on the network's device.

        ``flips``: averaged over the eight flips and quarter turns of each patch.
        """
        inputs = self.normalise(images)
        variants = [(turns, mirror) for turns in range(4) for mirror in (False, True)] if flips else [(0, False)]
        total = self._turned_scores(inputs, *variants[0])
        for turns, mirror in variants[1:]:
            total = total + self._turned_scores(inputs, turns, mirror)
        return total / len(variants)

    def _turned_scores(self, inputs: Tensor, turns: int, mirror: bool) -> Tensor:
        """Scores of rotated and mirrored patches; scores per pixel are transformed back."""
        scores = self._forward(turned(inputs, turns, mirror))
        return _turned_back(scores, turns, mirror=mirror) if scores.ndim == 4 else scores

    def _forward(self, inputs: Tensor) -> Tensor:
        with self.runtime.autocast():
            logits = self.network(inputs.contiguous(memory_format=torch.channels_last))
        return TRAINED[self.task.kind].activate(logits)

    def scores(self, images: Tensor, *, flips: bool = False) -> np.ndarray:
        """The result of `probabilities` as float32 in main memory."""
        return self.probabilities(images, flips=flips).float().cpu().numpy()

    @torch.inference_mode()
    def embed(self, images: Tensor) -> np.ndarray:
        """Input of the last layer, float32 (n, features), of uint8 patches (n, h, w, 3 · views)."""
        return build.embed(self.network, self.normalise(images)).float().cpu().numpy()

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """Class index int64 (n,): of two classes, the second at or above the threshold; of more, the largest score.

        For multi-label tasks bool (n, classes), with one threshold per class.
        """
        decide = LEARNED[self.task.kind].decide
        if decide is None:
            raise HistomakeError(f"a model of kind {self.task.kind} predicts numbers and has no class decision")
        return decide(scores, self.card.threshold)


def turned(images: Tensor, turns: int, mirror: bool) -> Tensor:
    """Images (n, c, h, w) rotated by quarter turns, and then mirrored if ``mirror``."""
    rotated = torch.rot90(images, turns, (2, 3))
    return rotated.flip(3) if mirror else rotated


def _turned_back(images: Tensor, turns: int, *, mirror: bool) -> Tensor:
    return torch.rot90(images.flip(3) if mirror else images, -turns, (2, 3))


def load_model(model_dir: Path, *, threads: int = 1, precision: str = "auto") -> Predictor:
    """Load model.safetensors and model.json, in eval mode. Raises HistomakeError for any other kind of file."""
    card = ModelCard.read(model_dir / DESCRIPTION)
    if card.features is not None:
        raise HistomakeError(f"{model_dir} takes features of encoder {card.features.encoder}, not pixels")
    if card.bag is not None:
        raise HistomakeError(f"{model_dir} predicts a {card.bag.level} as a bag of patches, not single patches")
    require_consistent(card, model_dir / DESCRIPTION)
    with transfer.describing(model_dir / DESCRIPTION, card.REMEDY):
        architecture = Model(**{**card.architecture, "pretrained": False})
        outputs = len(card.class_names)
        network = build.build_model(architecture, kind=card.kind, outputs=outputs, size=card.grid.size)
        method = architecture.stain
        stain = None
        if card.stain is not None and method != "none":
            stain = StainNormaliser(method, reference=read_reference(method, card.stain))
    transfer.load_weights_file(network, model_dir / WEIGHTS, sha256=card.weights_sha256)
    runtime = choose_runtime(precision, threads=threads)
    network = network.to(runtime.device).to(memory_format=torch.channels_last).eval()
    return Predictor(network, card, runtime, stain)


def _task_of(card: ModelCard) -> Task:
    bags: dict[str, Any] = {"level": card.bag.level, "bag": card.bag.bag} if card.bag else {}
    bags |= {"features": card.features.encoder} if card.bag and card.features else {}
    bags |= {"graph": card.bag.graph.name} if card.bag and card.bag.graph else {}
    return Task(
        **bags,
        kind=card.kind,
        grid=card.grid.name,
        target=Target(**card.target),
        # Settings that affect only training are left out: an older model may have settings that are refused today.
        model=Model(**{**card.architecture, "pretrained": False, "dropout": 0.0}),
    )


def require_consistent(card: ModelCard, path: Path) -> None:
    """Raise HistomakeError unless outputs and lists of thresholds are those of the card's target."""
    with transfer.describing(path, card.REMEDY):
        stated = outputs_of(card.kind, _task_of(card).target)
        if card.class_names != stated:
            raise ValueError(f"class_names is {card.class_names}, but the outputs of the target are {stated}")
    for name, values in (("threshold", card.threshold), *card.slide_thresholds.items()):
        if isinstance(values, list) and len(values) != len(card.class_names):
            raise HistomakeError(
                f"{path}: {name} has {len(values)} values for {len(card.class_names)} outputs. {card.REMEDY}"
            )


def predict_slide(
    predictor: Predictor,
    entry: SlideEntry,
    *,
    batch: int,
    threads: int,
    flips: bool = False,
    decode: Decode = "cpu",
) -> pa.Table:
    """Scores of every tissue patch of a slide: classification and regression.

    ``decode``: where tiles are decoded, see `read_batches`; the table's metadata says where they were.

    Columns: patch_id uint32; x, y int32 (level 0); tissue, score_<output> float32; predicted, label dictionary
    strings (null where nothing is decided or known; several classes joined by "+"); target_<output> float32 for
    regression. Raises HistomakeError if the table was made for another grid, and SlideError if a patch is damaged.
    """
    patches = slide_patches(predictor, entry)
    if patches is None:
        return prediction_schema(predictor).empty_table()
    scores = np.zeros((len(patches), len(predictor.class_names)), np.float32)
    metadata = stain_metadata(predictor, entry)
    reader = PatchReader(patches, predictor.task.model, stain=predictor.stain)
    with predict_batches(predictor, reader, batch=batch, threads=threads, flips=flips, decode=decode) as reading:
        for index, found in reading.batches:
            scores[index] = found
    return prediction_table(predictor, patches, scores).replace_schema_metadata(metadata | decoder_metadata(reading))


def stain_metadata(predictor: Predictor, entry: SlideEntry) -> dict[str, str]:
    """A slide's stain colours, for the metadata of its prediction table; nothing if stains are not normalised.

    Call it before loader processes start, so that they do not estimate the colours again.
    """
    if predictor.stain is None:
        return {}
    return {"stain": json.dumps({"method": predictor.stain.method, "slide": learn_slide(predictor.stain, entry)})}


def slide_patches(predictor: Predictor, entry: SlideEntry) -> PatchIndex | None:
    """The slide's usable patches; None for a quarantined slide or a slide without usable patches."""
    table, _ = usable_patches(entry)
    if not table.num_rows:
        return None
    patches = index_patches([entry], kind=predictor.task.kind, target=predictor.task.target)
    check_grid(predictor, patches)
    return patches


def check_grid(predictor: Predictor, patches: PatchIndex) -> None:
    """Raise HistomakeError if patches are of another grid than the model was trained on."""
    grid, entry = predictor.card.grid, patches.entries[0]
    if (patches.size, patches.mpp) != (grid.size, grid.mpp):
        raise HistomakeError(
            f"slide {entry.slide_id}: {entry.table} has patches of {patches.size} px at {patches.mpp} µm/px, the model "
            f"was trained on {grid.size} px at {grid.mpp}; tabulate the slide with grid {grid.name}"
        )


@contextmanager
def predict_batches(
    predictor: Predictor, reader: PatchReader, *, batch: int, threads: int, flips: bool, decode: Decode = "cpu"
) -> Iterator[PatchStream[tuple[np.ndarray, np.ndarray]]]:
    """Positions int64 (n,) in the reader's index, of one slide, and their scores, in batches of neighbours."""
    order = block_order(reader.patches.x, reader.patches.y, batch)
    dataset = FixedBatches(reader, batch=batch, order=order)

    def scored(batches: Iterator[Batch]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for loaded in batches:
            if loaded.read_errors:
                raise loaded.read_errors[0]
            scores = predictor.scores(loaded.images, flips=flips)
            require_finite(scores, reader.patches, loaded.index)
            yield loaded.index, scores

    with read_patches(predictor, dataset, threads=threads, decode=decode) as reading:
        yield PatchStream(scored(reading.batches), reading.decoder)


@contextmanager
def read_patches(
    predictor: Predictor, dataset: FixedBatches, *, threads: int, decode: Decode
) -> Iterator[PatchStream[Batch]]:
    """Begin to read all batches of a dataset, and give advice if memory runs out in prediction."""
    device, workers = predictor.runtime.device, max(0, threads - 1)
    with (
        advise_on_memory(SHORT_OF_MEMORY.format(batch=dataset.batch)),
        read_batches(dataset, workers=workers, device=device, decode=decode) as reading,
    ):
        yield reading


def decoder_metadata(reading: PatchStream[Any]) -> dict[str, str]:
    """Where tiles were decoded, for the metadata of a prediction table: scores differ in the third decimal."""
    return {"decoder": reading.decoder}


def require_finite(scores: np.ndarray, patches: PatchIndex, index: np.ndarray) -> None:
    """Raise HistomakeError at the first patch whose scores (n, …) are not finite, because they give no valid class."""
    finite = np.isfinite(scores).reshape(len(scores), -1).all(axis=1)
    if not finite.all():
        row = int(index[np.argmin(finite)])
        raise HistomakeError(
            f"prediction stopped: the scores of patch {patches.patch_id[row]} are not finite, so the model cannot be "
            "used. Train it again"
        )


def lost_predictions(predictor: Predictor, entry: Quarantined) -> pa.Table:
    """The table of a slide whose damage was met in prediction: no rows; its metadata has the quarantine entry."""
    return without_rows(prediction_schema(predictor), entry)


def prediction_schema(predictor: Predictor) -> pa.Schema:
    """Columns of a prediction table of this model."""
    names, learned = predictor.class_names, LEARNED[predictor.task.kind]
    columns = [("patch_id", pa.uint32()), ("x", pa.int32()), ("y", pa.int32()), ("tissue", pa.float32())]
    columns += [(f"score_{name}", pa.float32()) for name in names]
    columns += [("predicted", DICTIONARY), ("label", DICTIONARY)]
    columns += [(f"target_{name}", pa.float32()) for name in learned.truth(predictor.task.target)]
    if learned.per_pixel:
        columns += [(f"{count}_{name}", pa.int32()) for name in names for count in ("tp", "fp", "fn")]
    return pa.schema(columns)


def place_columns(patches: PatchIndex) -> dict[str, np.ndarray]:
    """The columns that identify the patch of a row."""
    return {"patch_id": patches.patch_id, "x": patches.x, "y": patches.y, "tissue": patches.tissue}


def prediction_table(predictor: Predictor, patches: PatchIndex, scores: np.ndarray) -> pa.Table:
    """Prediction table of patches with scores float32 (n, outputs); columns as of `predict_slide`."""
    names = predictor.class_names
    columns: dict[str, np.ndarray | pa.Array] = {**place_columns(patches)}
    columns |= {f"score_{name}": scores[:, i] for i, name in enumerate(names)}
    if LEARNED[predictor.task.kind].numbers:
        columns["predicted"] = columns["label"] = pa.nulls(len(patches), DICTIONARY)
        truth = LEARNED[predictor.task.kind].truth(predictor.task.target)
        columns |= {f"target_{name}": _nullable(patches.target[:, i]) for i, name in enumerate(truth)}
    else:
        columns["predicted"] = dictionary(predictor.decide(scores), names)
        known = is_known(patches.target)
        target = patches.target > 0.5 if np.issubdtype(patches.target.dtype, np.floating) else patches.target
        columns["label"] = dictionary(target, names, known=known)
    return pa.table(columns, schema=prediction_schema(predictor))


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float32(), mask=np.isnan(values))


def dictionary(found: np.ndarray, names: list[str], *, known: np.ndarray | None = None) -> pa.Array:
    """Class names of ``found``, int64 (n,) or, for multi-label, bool (n, classes); null where not ``known``."""
    if found.ndim == 2:
        joined = [JOINER.join(name for name, has in zip(names, row, strict=True) if has) for row in found]
        mask = None if known is None else ~known
        return pa.array(np.array(joined, dtype=object), pa.string(), mask=mask).cast(DICTIONARY)
    codes = pa.array(found.astype(np.int32), mask=found == UNLABELLED)
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))
