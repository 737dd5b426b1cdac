"""Damaged models and cards: refused, or used with finite scores. Nothing else is raised.

A card is changed as text and as values; weights are changed with and without the digest that their card states. `make
fuzz` changes more of them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cascade_slide import DiscReader, discs, levels, random_networks
from damaged_cohort import fit
from histomake.bags.predict import load_bag_model, predict_bag
from histomake.bags.training import train_bags
from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.cascade.answers import NetworkAnswers
from histomake.cascade.net import load_network
from histomake.config import Encoder, Grid
from histomake.features.encoders import load_group
from histomake.features.extract import extract
from histomake.features.store import read_features
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.model.encoder import build_network
from histomake.model.encoder_folder import write_folder
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors
from small_cohort import GRID_NAME, MPP, build_cohort
from test_bag_tasks import task as bag_task
from test_encoder import card as encoder_card

from tests import sample_records

FLIPS = int(os.environ.get("HISTOMAKE_FLIPS", "24"))
"""Damaged models of each kind of damage."""

CPU = torch.device("cpu")
PATCHES = Grid(size=64, mpp=MPP)

VALUES = [
    None,
    True,
    -1,
    0,
    0.5,
    2,
    1e308,
    10**30,
    math.nan,
    math.inf,
    "",
    "x",
    "classification",
    [],
    [0.5],
    {},
    {"x": 1},
]


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return root, build_cohort(root, 3)


Case = tuple[Path, Callable[[Path], np.ndarray]]
"""The folder of a model, and what gives its scores."""


@pytest.fixture(scope="module")
def patches(slides) -> Case:
    """A classifier of patches."""
    root, entries = slides
    fit(entries, root / "fitted")
    return root / "fitted" / "model", lambda model: scores(model, entries[0])


@pytest.fixture(scope="module")
def encoder(slides) -> Case:
    """An encoder in a folder with a card."""
    root, entries = slides
    torch.manual_seed(1)
    card = encoder_card()
    write_folder(root / "encoder", card, build_network(card).state_dict())

    def vectors(model: Path) -> np.ndarray:
        named = {"e": Encoder(grid=GRID_NAME, name=f"folder:{model}", dtype="float32")}
        loaded = load_group(named, PATCHES, models={}, threads=1)
        extract(loaded, entries[0], model / "out.arrow", batch=64, threads=1, code="c", made_of="m")
        return np.asarray(read_features(model / "out.arrow").vectors("e"))

    return root / "encoder", vectors


@pytest.fixture(scope="module")
def cascade(slides) -> Case:
    """A level of a cascade."""
    folder = slides[0] / "cascade"
    folder.mkdir()
    network = random_networks()[1]
    save_tensors(network.state_dict(), folder / WEIGHTS)
    sample_records.cascade_card(weights_sha256=sha256_file(folder / WEIGHTS)).write(folder / DESCRIPTION)
    image, _ = discs(100, 90)
    level = levels(100, 90)[0]

    def probabilities(model: Path) -> np.ndarray:
        answers = NetworkAnswers(DiscReader(image), {1: load_network(model, CPU)}, 64, CPU)
        windows = list(level.blocks(*level.block_shape(64)))
        return np.concatenate([values.reshape(2, -1) for values in answers.of(level, windows)], axis=1)

    return folder, probabilities


@pytest.fixture(scope="module")
def bag(slides) -> Case:
    """A classifier of slides as bags of features."""
    root, entries = slides
    labelled = [replace(e, labels={"grade": "low" if i % 2 else "high"}) for i, e in enumerate(entries)]
    encoders = load_group(
        {"a": Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}, PATCHES, models={}, threads=1
    )
    files = {entry.slide_id: root / f"{entry.slide_id}.arrow" for entry in labelled}
    for entry in labelled:
        extract(encoders, entry, files[entry.slide_id], batch=64, threads=1, code="c", made_of="m")
    settings = {"train": labelled[:2], "val": labelled[2:], "files": files, "column": "a", "seed": 1, "threads": 1}
    train_bags(bag_task(), output=root / "bag" / "model", state=root / "bag" / "state", **settings)

    def bag_scores(model: Path) -> np.ndarray:
        predictor = load_bag_model(model)
        table = predict_bag(predictor, labelled[0], (), files)
        names = [n for n in table.column_names if n.startswith(("score_", "attention", "linear_"))]
        return np.stack([table[name].to_numpy() for name in names], axis=1)

    return root / "bag" / "model", bag_scores


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value of nested JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(*path, key) for key, _ in inner] + [p for key, item in inner for p in places(item, (*path, key))]


def damaged_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four of them changed, or cut off."""
    changed = bytearray(content)
    for position in rng.integers(0, len(changed), rng.integers(1, 5)):
        changed[position] = rng.integers(0, 256)
    return bytes(changed[: rng.integers(0, len(changed))] if rng.random() < 0.1 else changed)


def change_text(model: Path, rng: np.random.Generator) -> None:
    card = model / DESCRIPTION
    card.write_bytes(damaged_bytes(card.read_bytes(), rng))


def change_value(model: Path, rng: np.random.Generator) -> None:
    """Another value, or none, in a random place of the card."""
    content = json.loads((model / DESCRIPTION).read_bytes())
    found = places(content)
    *path, last = found[rng.integers(len(found))]
    holder = content
    for key in path:
        holder = holder[key]
    if rng.random() < 0.2:
        del holder[last]
    else:
        holder[last] = VALUES[rng.integers(len(VALUES))]
    (model / DESCRIPTION).write_text(json.dumps(content))


def forget_digest(model: Path) -> None:
    """As in models of histomake 0.1."""
    content = json.loads((model / DESCRIPTION).read_bytes())
    content.pop("weights_sha256", None)
    content.pop("sha256", None)  # of an encoder
    (model / DESCRIPTION).write_text(json.dumps(content))


def change_weights(model: Path, rng: np.random.Generator) -> None:
    weights = model / WEIGHTS
    weights.write_bytes(damaged_bytes(weights.read_bytes(), rng))


def change_header(model: Path, rng: np.random.Generator) -> None:
    forget_digest(model)
    content = (model / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    changed = bytearray(content)
    for position in rng.integers(0, end, rng.integers(1, 5)):
        changed[position] = rng.integers(0, 256)
    (model / WEIGHTS).write_bytes(bytes(changed))


def change_number(model: Path, rng: np.random.Generator) -> None:
    """A weight that is not finite, or so large that scores are not."""
    forget_digest(model)
    weights = {name: value.copy() for name, value in load_file(model / WEIGHTS).items()}
    numbers = [name for name, value in weights.items() if value.dtype.kind == "f" and value.size]
    value = weights[numbers[rng.integers(len(numbers))]].reshape(-1)
    value[rng.integers(len(value))] = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e30][rng.integers(6)]
    save_file(weights, model / WEIGHTS)


DAMAGES: list[Callable[[Path, np.random.Generator], None]] = [
    change_text,
    change_value,
    change_weights,
    change_header,
    change_number,
]


def scores(model: Path, entry) -> np.ndarray:
    """Scores of all patches of a slide."""
    predictor = load_model(model)
    table = predict_slide(predictor, entry, batch=64, threads=1)
    return np.stack([table[f"score_{name}"].to_numpy() for name in predictor.class_names], axis=1)


@pytest.mark.parametrize("kind", ["patches", "encoder", "cascade", "bag"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda change: change.__name__)
def test_a_damaged_model_is_refused_or_has_finite_scores(kind, damage, request, tmp_path):
    whole, scores_of = request.getfixturevalue(kind)
    truth = scores_of(whole)
    assert truth.size
    rng, counts = np.random.default_rng(sum(damage.__name__.encode())), Counter[str]()
    for number in range(FLIPS):
        model = shutil.copytree(whole, tmp_path / str(number))
        damage(model, rng)
        try:
            found = scores_of(model)
        except HistomakeError:
            counts["refused"] += 1
        else:
            assert np.isfinite(found).all(), (model / DESCRIPTION).read_text()
            counts["the same" if np.array_equal(found, truth) else "other scores"] += 1
        shutil.rmtree(model)
    print(f"\n{kind} {damage.__name__}: {dict(counts)}")
    assert counts.total() == FLIPS
    assert counts["refused"]
    if damage is change_weights:  # the card states their digest
        assert counts["other scores"] == 0
