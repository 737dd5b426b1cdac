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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_cohort import fit
from histomake.base.errors import HistomakeError
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.learn.inference.predict import load_model, predict_slide
from safetensors.numpy import load_file, save_file
from small_cohort import CLASSES, build_cohort

FLIPS = int(os.environ.get("HISTOMAKE_FLIPS", "24"))
"""Damaged models of each kind of damage."""

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
def trained(tmp_path_factory):
    """A model of three slides, and one of them to predict."""
    root = tmp_path_factory.mktemp("models")
    entries = build_cohort(root, 3)
    fit(entries, root / "fitted")
    return root / "fitted" / "model", entries[0]


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
    content["weights_sha256"] = None
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


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda change: change.__name__)
def test_a_damaged_model_is_refused_or_has_finite_scores(trained, damage, tmp_path):
    whole, entry = trained
    truth = scores(whole, entry)
    assert truth.shape[1] == len(CLASSES)
    rng, counts = np.random.default_rng(sum(damage.__name__.encode())), Counter[str]()
    for number in range(FLIPS):
        model = shutil.copytree(whole, tmp_path / str(number))
        damage(model, rng)
        try:
            found = scores(model, entry)
        except HistomakeError:
            counts["refused"] += 1
        else:
            assert np.isfinite(found).all(), (model / DESCRIPTION).read_text()
            counts["the same" if np.array_equal(found, truth) else "other scores"] += 1
        shutil.rmtree(model)
    print(f"\n{damage.__name__}: {dict(counts)}")
    assert counts.total() == FLIPS
    assert counts["refused"]
    if damage is change_weights:  # the card states their digest
        assert counts["other scores"] == 0
