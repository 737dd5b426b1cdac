"""Owns attribution: which pixels of a patch speak for which class, by SHAP, and whether those maps can be believed.

Expected gradients (GradientExplainer; Lundberg and Lee 2017, Erion et al. 2021) of the class margin against a stored
background of training patches. Three checks go with every panel: additivity (the map must sum to the margin's
difference from the background), deletion and insertion against random maps (Petsiuk et al. 2018), and the same map
under re-initialised weights, which must look different (Adebayo et al. 2018).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from histomake.errors import HistomakeError
from histomake.explain.embedding import draw_evenly
from histomake.explain.pixels import read_patches
from histomake.learn.data import SlideEntry
from histomake.learn.predict import Predictor
from histomake.patch.table import read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

SAMPLES = 50
"""Gradients averaged per patch; the additivity error falls with their square root."""
BLUR_SHARE = 0.25
CELLS = 16
"""Deletion and insertion work on CELLS x CELLS squares: single pixels would be noise to the network."""
STEPS = 12
RANDOM_MAPS = 5
SANITY_PATCHES = 4
REASONS = ("most certain", "least certain", "misclassified", "asked for")


@dataclass(frozen=True)
class Chosen:
    """A patch to explain and why it was chosen."""

    slide: int
    row: int
    reason: str


@dataclass(frozen=True)
class Attribution:
    """Explained patches, n of them with c classes.

    pixels uint8 (n, h, w, 3), of a model with context the finest view; maps float32 (n, c, h, w), in units of the class
    margin; scores float32 (n, c);
    table: one row per patch with its checks; background: the patches compared against; record: the checks summed up.
    """

    pixels: NDArray[np.uint8]
    maps: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: list[str]
    table: pa.Table
    background: pa.Table
    record: dict[str, Any]


class Margin(nn.Module):
    """What is explained, float (n, c): per class, its logit less the log-sum of the others'.

    Probabilities saturate, and their gradients with them. Outputs that do not compete (``independent``: several labels,
    regression) and single ones are explained as they are; networks that answer per pixel are averaged over pixels.
    """

    def __init__(self, network: nn.Module, *, independent: bool = False) -> None:
        super().__init__()
        self.network, self.independent = network, independent

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images).float()
        if logits.ndim == 4:
            logits = logits.mean((2, 3))
        if self.independent or logits.shape[1] == 1:
            return logits
        others = torch.stack([torch.cat([logits[:, :i], logits[:, i + 1 :]], 1) for i in range(logits.shape[1])], 1)
        return logits - torch.logsumexp(others, 2)


def attribute(
    *,
    predictor: Predictor,
    tested: Sequence[tuple[SlideEntry, pa.Table]],
    training: Sequence[SlideEntry],
    patches: int,
    at: Sequence[tuple[str, int, int]],
    background: int,
    seed: int,
) -> Attribution:
    """Explain patches of the tested slides (each with its predictions): those asked for, and more chosen by `choose`.

    ``at``: slide ids and level-0 points inside the patches asked for; ``patches``: how many more at most.

    Raises HistomakeError when there is no patch to explain or none to compare with.
    """
    wanted = find(at, tested, predictor)
    taken = {(item.slide, item.row) for item in wanted}
    found = choose([table for _, table in tested], patches)
    chosen = [*wanted, *(item for item in found if (item.slide, item.row) not in taken)]
    if not chosen:
        raise HistomakeError(f"none of {len(tested)} test slides has a predicted patch: nothing can be explained")
    reference_table, reference = draw_background(predictor, training, background, seed)
    places = [(tested[c.slide][0], tested[c.slide][1].slice(c.row, 1)) for c in chosen]
    read = [read_patches(predictor, entry, row["patch_id"].to_numpy()) for entry, row in places]
    pixels = np.concatenate([part for parts in read for part in parts])
    independent = predictor.task.kind == "regression" or predictor.task.target.multi_label
    margin = Margin(predictor.network, independent=independent).eval()
    images, base = predictor.normalise(torch.from_numpy(pixels)), predictor.normalise(torch.from_numpy(reference))
    maps = explain(margin, images, base, seed=seed)
    scores = predictor.scores(torch.from_numpy(pixels))
    scores = scores.mean((2, 3)) if scores.ndim == 4 else scores
    table = _described(chosen, tested, scores, predictor)
    checks = check(margin, images, base, maps, scores, seed=seed)
    for name, values in checks.items():
        table = table.append_column(name, pa.array(values))
    record = summarise(checks) | {"patches": len(chosen)}
    record["randomised_weights"] = randomised(margin, images, base, maps, seed=seed)
    shown, heat = pixels[..., :3], maps[:, :, :3].sum(2)
    return Attribution(shown, heat, scores, predictor.class_names, table, reference_table, record)


def find(
    at: Sequence[tuple[str, int, int]], tested: Sequence[tuple[SlideEntry, pa.Table]], predictor: Predictor
) -> list[Chosen]:
    """The predicted patches that hold the given points; points on slides this fold does not test are passed over."""
    slides = {entry.slide_id: i for i, (entry, _) in enumerate(tested)}
    chosen = []
    for slide_id, x, y in at:
        if slide_id not in slides:
            log.warning("explain.shap_at: %s is no test slide of this fold; nothing is explained on it", slide_id)
            continue
        entry, table = tested[slides[slide_id]]
        grid, meta = predictor.description["grid"], read_table(entry.table)[1]
        span = grid["size"] * grid["mpp"] / meta["mpp"]
        left, top = table["x"].to_numpy(), table["y"].to_numpy()
        rows = np.flatnonzero((left <= x) & (x < left + span) & (top <= y) & (y < top + span))
        if not len(rows):
            raise HistomakeError(f"explain.shap_at: no predicted patch of {slide_id} holds ({x}, {y}); is it tissue?")
        chosen.append(Chosen(slides[slide_id], int(rows[0]), REASONS[3]))
    return chosen


def choose(tables: Sequence[pa.Table], count: int) -> list[Chosen]:
    """A third each of the misclassified (worst first), the least certain, and the most certain of every class."""
    rows = [(s, r) for s, table in enumerate(tables) for r in range(table.num_rows)]
    if not rows:
        return []
    names = [name for name in tables[0].column_names if name.startswith("score_")]
    scores = np.concatenate([np.stack([t[name].to_numpy() for name in names], axis=1) for t in tables])
    label, predicted = (
        np.concatenate([np.array(table[column].cast(pa.string()).to_pylist(), object) for table in tables])
        for column in ("label", "predicted")
    )
    certainty = scores.max(axis=1)
    wrong = np.flatnonzero([a is not None and a != b for a, b in zip(label, predicted, strict=True)])
    taken: dict[int, str] = {}

    def take(candidates: NDArray[np.int64], most: int, reason: str) -> None:
        free = [int(i) for i in candidates if int(i) not in taken]
        taken.update(dict.fromkeys(free[: max(0, min(most, count - len(taken)))], reason))

    take(wrong[np.argsort(-certainty[wrong], kind="stable")], count // 3, REASONS[2])
    take(np.argsort(certainty, kind="stable"), count // 3, REASONS[1])
    classes = len(names)
    for i in range(classes):
        left = count - len(taken)
        take(np.argsort(-scores[:, i], kind="stable"), -(-left // (classes - i)), REASONS[0])
    return [Chosen(*rows[i], reason) for i, reason in taken.items()]


def draw_background(
    predictor: Predictor, training: Sequence[SlideEntry], count: int, seed: int
) -> tuple[pa.Table, NDArray[np.uint8]]:
    """``count`` usable patches drawn evenly from the training slides: where they lie, and pixels uint8 (n, h, w, 3)."""
    tables = [read_table(entry.table)[0] for entry in training]
    usable = [table.filter(pa.compute.equal(table["excluded"].cast(pa.string()), "")) for table in tables]
    rng = np.random.default_rng([seed, 5])
    drawn = draw_evenly([table.num_rows for table in usable], count, rng)
    places, pixels = [], []
    for entry, table, rows in zip(training, usable, drawn, strict=True):
        if len(rows):
            part = table.take(np.sort(rows)).select(["patch_id", "x", "y"])
            places.append(part.append_column("slide_id", pa.array([entry.slide_id] * part.num_rows)))
            pixels += read_patches(predictor, entry, part["patch_id"].to_numpy())
    if not places:
        raise HistomakeError("no training slide has a usable patch: SHAP has nothing to compare with")
    return pa.concat_tables(places).replace_schema_metadata(None), np.concatenate(pixels)


def explain(margin: Margin, images: Tensor, base: Tensor, *, seed: int, samples: int = SAMPLES) -> NDArray[np.float32]:
    """SHAP values float32 (n, classes, 3, h, w) of normalised images (n, 3, h, w) against a background.

    Of two classes only one is explained: the margin of the other is its negative.
    """
    from shap import GradientExplainer  # takes seconds to import

    with torch.no_grad():
        mirrored = margin(images[:1]).shape[1] == 2 and not margin.independent
    explained = _Only(margin, 1) if mirrored else margin
    values = GradientExplainer(explained, base, batch_size=32).shap_values(images, nsamples=samples, rseed=seed)
    maps = np.moveaxis(np.asarray(values, np.float32), -1, 1)
    return np.concatenate([-maps, maps], axis=1) if mirrored else maps


class _Only(nn.Module):
    """One output of a network, kept as a column."""

    def __init__(self, network: nn.Module, column: int) -> None:
        super().__init__()
        self.network, self.column = network, column

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[:, self.column : self.column + 1]


def check(
    margin: nn.Module,
    images: Tensor,
    base: Tensor,
    maps: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Per patch, for its highest-scored class: additivity error, deletion and insertion areas, the same at random.

    ``additivity_error``: |sum of the map − (margin − mean background margin)| over |margin − mean background margin|.
    Cells are deleted by blurring them, which takes their structure and leaves no hard edge that would be a structure of
    its own. Areas are of the mean class margin; a good map has a small deletion and a large insertion area.
    """
    top = scores.argmax(axis=1)
    with torch.no_grad():
        value, reference = margin(images).cpu().numpy(), margin(base).cpu().numpy().mean(axis=0)
    index = np.arange(len(top))
    gap = value[index, top] - reference[top]
    total = maps[index, top].sum((1, 2, 3))
    checks: dict[str, list[float]] = {
        "additivity_error": (np.abs(total - gap) / np.maximum(np.abs(gap), 1e-6)).tolist()
    }
    rng = np.random.default_rng([seed, 6])
    for i, image in enumerate(images):
        by_map = np.argsort(-cell_sums(maps[i, top[i]].sum(0)), kind="stable")
        at_random = [rng.permutation(CELLS * CELLS) for _ in range(RANDOM_MAPS)]
        area = _areas(margin, image, blurred(image), int(top[i]))
        for name, inserting in (("deletion", False), ("insertion", True)):
            random = [area(order, inserting) for order in at_random]
            checks.setdefault(name, []).append(area(by_map, inserting))
            checks.setdefault(f"random_{name}", []).append(float(np.mean(random)))
    return {name: np.array(values) for name, values in checks.items()}


def cell_sums(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum of a map (h, w) over each of CELLS x CELLS squares, in reading order."""
    rows, columns = (np.linspace(0, length, CELLS, endpoint=False).astype(int) for length in values.shape)
    return np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows), columns, axis=1).ravel()


def blurred(image: Tensor) -> Tensor:
    """An image (c, h, w) without its structure."""
    size = image.shape[-1]
    kernel = 2 * round(size * BLUR_SHARE) + 1
    return gaussian_blur(image, [kernel, kernel], [kernel / 4, kernel / 4])


def _areas(margin: nn.Module, image: Tensor, blank: Tensor, target: int) -> Callable[[NDArray[np.int64], bool], float]:
    """The mean margin of ``target`` while cells are blanked (or, inserting, uncovered) in a given order."""
    height, width = image.shape[1:]
    rows, columns = torch.arange(height) * CELLS // height, torch.arange(width) * CELLS // width
    cell_of = rows[:, None] * CELLS + columns[None]
    bounds = torch.linspace(0, CELLS * CELLS, STEPS + 1).round().long()

    def area(order: NDArray[np.int64], inserting: bool) -> float:
        rank = torch.empty(CELLS * CELLS, dtype=torch.long)
        rank[torch.from_numpy(order)] = torch.arange(CELLS * CELLS)
        reached = (rank[cell_of][None] < bounds[:, None, None])[:, None].to(image.device)
        shown = torch.where(reached == inserting, image[None], blank[None])
        with torch.no_grad():
            values = margin(shown)[:, target].double().cpu().numpy()
        return float(np.trapezoid(values, dx=1 / STEPS))

    return area


def summarise(checks: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """The checks over all patches: medians, and the share of patches where SHAP beats random maps."""
    return {
        "additivity_error": round(float(np.median(checks["additivity_error"])), 4),
        "deletion": round(float(np.median(checks["deletion"])), 4),
        "random_deletion": round(float(np.median(checks["random_deletion"])), 4),
        "insertion": round(float(np.median(checks["insertion"])), 4),
        "random_insertion": round(float(np.median(checks["random_insertion"])), 4),
        "deletion_better": round(float((checks["deletion"] < checks["random_deletion"]).mean()), 4),
        "insertion_better": round(float((checks["insertion"] > checks["random_insertion"]).mean()), 4),
    }


def randomised(
    margin: Margin, images: Tensor, base: Tensor, maps: NDArray[np.float32], *, seed: int
) -> dict[str, float]:
    """Rank correlation of the maps with those of the same network, its weights drawn anew.

    ``repeat``: of two runs with the trained weights, the most that can be expected. ``random``: with random weights;
    near ``repeat`` would mean that the maps show the image and not the model.
    """
    count = min(SANITY_PATCHES, len(images))
    blind = copy.deepcopy(margin)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in blind.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    other = explain(blind.eval(), images[:count], base, seed=seed, samples=SAMPLES // 2)
    again = explain(margin, images[:count], base, seed=seed + 1, samples=SAMPLES // 2)
    return {
        "repeat": round(_agreement(maps[:count], again), 4),
        "random": round(_agreement(maps[:count], other), 4),
        "patches": count,
    }


def _agreement(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Mean rank correlation of the cell sums of the last class's maps."""
    pairs = ((cell_sums(a[-1].sum(0)), cell_sums(b[-1].sum(0))) for a, b in zip(first, second, strict=True))
    return float(np.mean([spearmanr(a, b).statistic for a, b in pairs]))


def _described(
    chosen: Sequence[Chosen],
    tested: Sequence[tuple[SlideEntry, pa.Table]],
    scores: NDArray[np.float32],
    predictor: Predictor,
) -> pa.Table:
    rows = []
    for item, score in zip(chosen, scores, strict=True):
        entry, table = tested[item.slide]
        row = table.slice(item.row, 1).select(["patch_id", "x", "y", "predicted", "label"]).to_pylist()[0]
        named = {f"score_{name}": float(value) for name, value in zip(predictor.class_names, score, strict=True)}
        rows.append({"slide_id": entry.slide_id, **row, "reason": item.reason, **named})
    return pa.Table.from_pylist(rows)
