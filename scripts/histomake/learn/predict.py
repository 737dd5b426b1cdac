"""Owns prediction of patches with a trained model, always in eval mode: a patch's score depends on that patch alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from histomake.config import Model, Target, Task
from histomake.errors import HistomakeError
from histomake.files import read_json
from histomake.learn.data import (
    FixedBatches,
    PatchIndex,
    PatchReader,
    SlideEntry,
    index_patches,
    load_batches,
    usable_patches,
)
from histomake.learn.runtime import Runtime, choose_runtime
from histomake.learn.target import UNLABELLED
from histomake.learn.train import standardise
from histomake.model.build import build_model

DICTIONARY = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Predictor:
    """A trained network with all that is needed to use it on a patch of its grid."""

    network: nn.Module
    description: dict[str, Any]
    runtime: Runtime

    @property
    def class_names(self) -> list[str]:
        return self.description["class_names"]

    @property
    def task(self) -> Task:
        """As much of the task as labels and patches need."""
        return Task(
            kind=self.description["kind"],
            grid=self.description["grid"]["name"],
            target=Target(**self.description["target"]),
        )

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (n, h, w, 3) → the network's float input (n, 3, h, w) on its device."""
        pixels = images.to(self.runtime.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        return standardise(pixels, self.description["normalisation"])

    @torch.inference_mode()
    def scores(self, images: Tensor) -> np.ndarray:
        """Class probabilities float32 (n, classes) of uint8 patches (n, h, w, 3)."""
        with self.runtime.autocast():
            logits = self.network(self.normalise(images))
        return torch.softmax(logits.float(), 1).cpu().numpy()

    @torch.inference_mode()
    def embed(self, images: Tensor) -> np.ndarray:
        """The vector before the last layer, float32 (n, features), of uint8 patches (n, h, w, 3)."""
        features = self.network.forward_features(self.normalise(images))
        return self.network.forward_head(features, pre_logits=True).float().cpu().numpy()

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """Class index int64 (n,): of two, the second from the threshold up; of more, the largest."""
        if scores.shape[1] == 2:
            return (scores[:, 1] >= self.description["threshold"]).astype(np.int64)
        return scores.argmax(axis=1)


def load_model(model_dir: Path, *, threads: int = 1, precision: str = "auto") -> Predictor:
    """Load model.safetensors and model.json, in eval mode. Raises HistomakeError for any other kind of file."""
    description = read_json(model_dir / "model.json")
    path = model_dir / "model.safetensors"
    architecture = Model(**{**description["architecture"], "pretrained": False})
    network = build_model(architecture, outputs=len(description["class_names"]), size=int(description["grid"]["size"]))
    try:
        network.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise HistomakeError(f"{path} is not a safetensors file ({error}); pickled weights are refused") from error
    except RuntimeError as error:
        raise HistomakeError(f"{path} holds the weights of another architecture than model.json: {error}") from error
    runtime = choose_runtime(precision, threads=threads)
    network = network.to(runtime.device, memory_format=torch.channels_last).eval()
    return Predictor(network, description, runtime)


def predict_slide(predictor: Predictor, entry: SlideEntry, *, batch: int, threads: int) -> pa.Table:
    """Scores of every tissue patch of a slide.

    Columns: patch_id uint32; x, y int32 (level 0); score_<class> float32; predicted, label dictionary strings
    (label null where unlabelled). Raises HistomakeError if the table was made for another grid.
    """
    table, _ = usable_patches(entry)
    if not table.num_rows:
        return empty_predictions(predictor.class_names)
    patches = index_patches([entry], predictor.task)
    _check_grid(predictor, patches, entry)
    dataset = FixedBatches(PatchReader(patches), batch=batch)
    scores = np.zeros((len(patches), len(predictor.class_names)), np.float32)
    for loaded in load_batches(dataset, range(len(dataset)), workers=max(0, threads - 1)):
        if loaded.read_errors:
            raise HistomakeError(f"prediction stopped: {loaded.read_errors[0]}")
        scores[loaded.index.numpy()] = predictor.scores(loaded.images)
    return _table(predictor, patches, scores)


def empty_predictions(class_names: list[str]) -> pa.Table:
    """The predictions of a slide in quarantine: no rows, the same schema."""
    return prediction_schema(class_names).empty_table()


def prediction_schema(class_names: list[str]) -> pa.Schema:
    """Columns of a prediction table."""
    scores = [pa.field(f"score_{name}", pa.float32()) for name in class_names]
    place = [pa.field("patch_id", pa.uint32()), pa.field("x", pa.int32()), pa.field("y", pa.int32())]
    return pa.schema([*place, *scores, pa.field("predicted", DICTIONARY), pa.field("label", DICTIONARY)])


def _check_grid(predictor: Predictor, patches: PatchIndex, entry: SlideEntry) -> None:
    grid = predictor.description["grid"]
    if (patches.size, patches.mpp) != (grid["size"], grid["mpp"]):
        raise HistomakeError(
            f"slide {entry.slide_id}: {entry.table} has patches of {patches.size} px at {patches.mpp} µm/px, the model "
            f"was trained on {grid['size']} px at {grid['mpp']}; tabulate the slide with grid {grid['name']}"
        )


def _table(predictor: Predictor, patches: PatchIndex, scores: np.ndarray) -> pa.Table:
    names = predictor.class_names
    columns = {"patch_id": patches.patch_id, "x": patches.x, "y": patches.y}
    columns |= {f"score_{name}": scores[:, i] for i, name in enumerate(names)}
    columns["predicted"] = _dictionary(predictor.decide(scores), names)
    columns["label"] = _dictionary(patches.target, names)
    return pa.table(columns, schema=prediction_schema(names))


def _dictionary(index: np.ndarray, names: list[str]) -> pa.DictionaryArray:
    """Names by index; null where UNLABELLED."""
    codes = pa.array(index.astype(np.int32), mask=index == UNLABELLED)
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))
