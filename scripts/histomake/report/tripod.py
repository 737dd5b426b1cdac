"""What a run knows of the items of TRIPOD+AI, for the model card of a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from histomake.base.records.cohort import CohortSlide
from histomake.base.records.leakage import LeakageRecord
from histomake.base.records.metrics import MetricsRecord
from histomake.base.records.model_card import ModelCard
from histomake.base.tripod import INTENDED_USE, LIMITS
from histomake.config import Task
from histomake.report.metric_texts import LEVELS, in_order, metric_name
from histomake.target.kinds import LEARNED

NOT_KNOWN = "Not known: neither the results nor the configuration say it."


class Planned(NamedTuple):
    """Slides with a role in a fold, as planned before any slide was read.

    sites: of those with a site; given: slides whose role is in the sheet.
    """

    fold: int
    role: str
    slides: int
    patients: int
    sites: int
    given: int


@dataclass(frozen=True)
class DescribedTask:
    """A task as its model card describes it.

    cards: of the models, by fold; cohorts: slides that each model was made with, none of a model from elsewhere;
    metrics: None without test slides.
    """

    name: str
    task: Task
    cards: Mapping[int, ModelCard]
    cohorts: list[list[CohortSlide]]
    metrics: MetricsRecord | None
    leakage: LeakageRecord
    planned: list[Planned]

    @property
    def card(self) -> ModelCard:
        """Card of the first model: what all have in common."""
        return next(iter(self.cards.values()))


def stated_items(task: Task) -> dict[str, str]:
    """Texts of the configuration by item."""
    own = {INTENDED_USE: task.card.intended_use, LIMITS: task.card.limits}
    return {**task.card.items, **{number: text for number, text in own.items() if text is not None}}


def known_items(found: DescribedTask) -> dict[str, str]:
    """What the results and the configuration say, by item. Items of which they say nothing are absent."""
    return {number: " ".join(parts) for number, parts in _parts(found) if parts}


def _parts(found: DescribedTask) -> Iterator[tuple[str, list[str]]]:
    yield from _purpose(found)
    yield from _data(found)
    yield from _methods(found)
    yield from _results(found)


def outcome(task: Task, card: ModelCard) -> str:
    """What is predicted, and where its truth comes from."""
    target, names = task.target, ", ".join(card.class_names)
    if target.time is not None:
        return f"The risk of an event: columns {target.time} (time) and {target.event} (1: event) of the sheet."
    if target.source == "sheet":
        return f"{names}: column {' and '.join(target.sheet_columns)} of the sheet, one value per slide."
    if LEARNED[task.kind].per_pixel:
        return f"{names}: the class of each pixel, from annotations of the slides."
    if LEARNED[task.kind].min_area:
        return f"{names}: a patch has a class of which annotations cover at least {target.min_area:.0%} of it."
    return f"{names}: the share of each patch that is annotated so."


def _purpose(found: DescribedTask) -> Iterator[tuple[str, list[str]]]:
    task = found.task
    yield "1", [f"Task {found.name}: {task.kind} of {LEVELS[task.level].lower()}, {', '.join(found.card.class_names)}."]
    what = "evaluation only: the model was trained earlier" if task.trained else "development and internal evaluation"
    if found.metrics is None:
        what = "no evaluation: there are no test slides"
    yield "4", [f"{what[0].upper()}{what[1:]}."]


def _data(found: DescribedTask) -> Iterator[tuple[str, list[str]]]:
    counts = [f"fold {p.fold}, {p.role}: {p.slides} slides of {p.patients} patients" for p in found.planned]
    yield "5a", [f"Slides of the sheet. {'; '.join(counts)}."] if counts else []
    if sites := max((planned.sites for planned in found.planned), default=0):
        yield "6a", [f"Up to {sites} sites per role (column site of the sheet). Their kind and place are not known."]
    grid = found.card.grid
    yield (
        "7",
        [
            f"Slides are converted to OME-Zarr, tissue and artefacts (pen, folds, blur) are found automatically, and "
            f"tissue is cut into patches of {grid.size} px at {grid.mpp:g} µm/px, by the same rules "
            "for all roles."
        ],
    )
    horizon = next((one.at_horizon for one in (found.metrics.levels.values() if found.metrics else ())), None)
    when = [f"Time horizon of AUC and calibration: {horizon.time:g}, in the unit of the sheet."] if horizon else []
    yield "8a", [outcome(found.task, found.card), *when]
    features, graph = found.task.features, found.task.graph
    used = f"Features of encoder {features} of every patch." if features else "The RGB pixels of every patch."
    yield (
        "9b",
        [
            f"Features and edges of the nodes of graph {graph}." if graph else used,
            "Nothing else of the patient is used.",
        ],
    )
    yield "10", ["All slides of the sheet that have a role; no calculation of a sample size is known."]
    lost = {(entry.slide_id, entry.stage) for card in found.cards.values() for entry in card.left_out}
    damaged = f"{len(lost)} damaged slide(s) were left out of training." if lost else ""
    yield (
        "11",
        [
            "Slides without a value of the target are predicted, and neither trained nor tested on. Slides that cannot "
            "be read are left out and listed with the reason. Nothing is imputed.",
            *([damaged] if damaged else []),
        ],
    )


def _methods(found: DescribedTask) -> Iterator[tuple[str, list[str]]]:
    task = found.task
    yield "12a", [split_text(found)]
    yield "12b", _inputs(found)
    yield "12c", [_building(found)]
    columns = ", ".join(task.evaluate.subgroups)
    yield "12d", [f"Metrics by {columns} with Cochran's Q test and I²."] if columns and found.metrics else []
    if found.metrics is not None:
        names = in_order(n for level in found.metrics.levels.values() for n in level.metrics.get("all", {}))
        low, high = found.metrics.interval_percent
        yield (
            "12e",
            [
                f"{', '.join(map(metric_name, names))}, with {low:g}–{high:g} percentiles of "
                f"{found.metrics.bootstraps:,} bootstrap samples of patients."
            ],
        )
        yield "12g", ["With histomake, by the models of this folder; each patient by models that have not seen it."]
    yield "12f", ["None: the models are evaluated as they were trained."]
    if not task.trained and not LEARNED[task.kind].numbers:
        labels = " Each takes the label of one of the readers of its slide." if task.train.readers == "draw" else ""
        yield "13", [f"Loss {task.train.loss}; patches are drawn by train.balance: {task.train.balance}.{labels}"]
    if columns and found.metrics:
        yield "14", [f"None in training. Performance is given by {columns}."]
    yield "15", [_output(found)]
    if not task.trained and found.metrics is not None:
        yield "16", ["All slides are of one sheet; by what their roles differ is in 12a."]
    yield "18f", ["histomake; the digest of the code and the settings of every output are in its sidecar."]
    yield "24", ["The models were not updated."]
    yield (
        "27a",
        [
            "A slide without a resolution, without tissue or with damage is refused with the reason and a remedy, and "
            "patches that artefacts cover are left out. Whether a slide resembles those of the training is not tested."
        ],
    )


def split_text(found: DescribedTask) -> str:
    """How patients were divided, and what was checked."""
    split, task = found.task.split, found.task
    given, slides = (sum(getattr(planned, key) for planned in found.planned) for key in ("given", "slides"))
    if task.trained:
        way = "The model was trained earlier, on other slides; the slides with split: test are evaluated."
    elif split.like is not None:
        way = f"Patients have the roles that they have in task {split.like}."
    elif given == slides:
        way = "Roles are those of the column split of the sheet."
    elif split.folds > 1:
        way = f"{split.folds}-fold cross-validation by patient: each patient is tested once."
    else:
        way = f"By patient: {split.test:.0%} tested, {split.val:.0%} of the others for validation."
    if not task.trained and 0 < given < slides:
        way += " Roles that the sheet gives are kept."
    balanced = f" Balanced by {', '.join(split.stratify)}." if split.stratify else ""
    checked = (
        f" No patient and no slide file has two roles in a fold ({len(found.leakage.slides)} slides compared), and "
        "no model was made with a test slide as far as model cards tell."
    )
    return way + balanced + checked


def _inputs(found: DescribedTask) -> list[str]:
    """How predictors are transformed."""
    card = found.card
    if card.bag is not None and card.bag.graph is not None:
        groups = ", ".join(card.bag.graph.groups)
        return [f"Features of nodes ({groups}) as the graphs have them; their scaling is part of the model."]
    if card.features is not None:
        return ["Features as the encoder gives them; their scaling is part of the model."]
    norm = card.normalisation
    texts = [f"RGB in [0, 1], minus {_three(norm.mean)}, divided by {_three(norm.std)}."]
    if card.stain is not None:
        texts.append("Stain colours are normalised.")
    return texts


def _three(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _building(found: DescribedTask) -> str:
    """Type of model, and how it was made."""
    task, card = found.task, found.card
    if card.bag is not None and card.bag.graph is not None:
        gnn = card.bag.graph.gnn
        kind = f"network {gnn.get('name')} with {gnn.get('layers')} layers on graphs of a {card.bag.level}"
    elif card.bag is not None:
        kind = f"{card.bag.pooling.get('name')} pooling of the patches of a {card.bag.level}"
    elif card.head is not None:
        kind = f"{card.head.get('name')} head on features"
    else:
        kind = f"network {card.architecture.get('name')}"
    made = f"{kind[0].upper()}{kind[1:]}, {card.parameters:,} weights, seed {card.seed}."
    if task.trained:
        return f"{made} Trained earlier."
    if card.head is not None and card.head.get("chosen"):
        values = ", ".join(f"{name} {value:g}" for name, value in card.head["chosen"].items())
        return f"{made} Chosen on validation patients: {values}."
    chosen = ", ".join(str(one.step) for one in found.cards.values())
    return (
        f"{made} Up to {task.train.steps} steps with {task.train.optimizer}, loss {task.train.loss}; weights of step "
        f"{chosen}, chosen on validation patients. Other settings are those of the configuration."
    )


def _output(found: DescribedTask) -> str:
    """What the model outputs, and how it is decided."""
    kind = LEARNED[found.task.kind]
    if kind.group is not None:
        return "A risk without a unit: higher means earlier events. Groups are divided at the median of validation."
    if kind.numbers:
        return "A number per output, without a decision."
    if not kind.thresholds:
        return "A score per class; the class with the highest one is taken."
    listed = "; ".join(f"fold {fold}: {_thresholds(card.threshold)}" for fold, card in found.cards.items())
    return f"A score from 0 to 1 per class. Thresholds are chosen on validation patients: {listed}."


def _thresholds(value: float | list[float]) -> str:
    return ", ".join(f"{one:.3g}" for one in (value if isinstance(value, list) else [value]))


def _results(found: DescribedTask) -> Iterator[tuple[str, list[str]]]:
    if found.cohorts:
        used = [_used(fold, cohort) for fold, cohort in zip(found.cards, found.cohorts, strict=True)]
        yield "21", [f"Used: {'; '.join(used)}.", *_events(found)]
    elif found.metrics is not None:
        yield "21", _events(found)
    digests = ", ".join(
        f"fold {f}: sha256 {c.weights_sha256[:16]}…" for f, c in found.cards.items() if c.weights_sha256
    )
    stored = "Weights with a description of all that is needed to use them are in the folder models."
    yield "22", [f"{stored} {digests[0].upper()}{digests[1:]}." if digests else stored]
    if found.metrics is None:
        return
    yield (
        "20a",
        [f"{found.metrics.slides} test slides of {found.metrics.patients} patients were predicted.", *_events(found)],
    )
    yield "23a", ["See Performance."]
    if any(level.subgroups for level in found.metrics.levels.values()):
        yield "23b", ["See Subgroups."]


def _used(fold: int, cohort: list[CohortSlide]) -> str:
    roles = {role: [one for one in cohort if one.role == role] for role in ("train", "val")}
    counts = (f"{len(own)} {role} slides of {len({o.patient_id for o in own})} patients" for role, own in roles.items())
    return f"fold {fold}: {', '.join(counts)}"


def _events(found: DescribedTask) -> list[str]:
    """Numbers of test items with each outcome."""
    texts = []
    for level, one in (found.metrics.levels if found.metrics else {}).items():
        if one.per_class:
            counts = ", ".join(f"{count:,} {name}" for name, count in one.per_class.items())
            texts.append(f"Tested {LEVELS[level].lower()}: {counts}.")
        if one.risk_groups is not None:
            events = one.risk_groups.low.events + one.risk_groups.high.events
            texts.append(f"Tested {LEVELS[level].lower()}: {one.count:,}, of which {events:,} with the event.")
    return texts
