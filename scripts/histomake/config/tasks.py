"""Keys of tasks: what is learned, by which network, and how it is trained and used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from histomake.base.kinds import Kind
from histomake.config.bags import Bag, BagPooling, bag_problems
from histomake.config.card import Card
from histomake.config.evaluation import Evaluate
from histomake.config.gnn import Gnn, gnn_problems
from histomake.config.kinds import ACCEPTED
from histomake.config.probes import Probe, head_problems
from histomake.config.section import Decode, Name, Section
from histomake.config.splits import Split
from histomake.config.targets import Target, class_names, target_problems
from histomake.config.training import RUNNING, Augment, Model, Train

PATCH: Literal["patch"] = "patch"
"""Level of the tasks that predict patches."""

PredictedRole = Literal["val", "test", "predict"]

PREDICTED: tuple[PredictedRole, ...] = ("test", "predict")
"""Roles of the slides that every model predicts."""

VALIDATION: PredictedRole = "val"
"""Role of the slides with which weights and thresholds are chosen."""

NOT_FITTED = ("predict", "split", "trained", "evaluate", "card")
"""Keys of a task that do not change a trained model."""

NONE = "none"
"""Name of the patches without any class, in tasks with several labels."""

SUM_TOLERANCE = 1e-3
"""Shares such as 0.333 may miss a sum of 1 by this."""


class Predict(Section):
    """Prediction, always in eval mode."""

    roles: list[PredictedRole] = Field(
        default_factory=lambda: list(PREDICTED),
        description="Roles of the slides that each model predicts. Those to test always are, and those to predict "
        "unless the task is a stage of a cascade, which predicts them instead: set [test] for that. Add val to also "
        "predict the validation slides: for operating points, or to look at them. They have pages and scores, "
        "marked as val, and no part in metrics, because weights and thresholds were chosen with them.",
    )
    batch: int = Field(64, ge=1, description="Number of patches per forward pass. It does not change the result.")
    decode: Decode = Field(
        "cpu",
        description="Where the JPEG tiles of the slide are decoded. cpu: the pixels are the same on every machine, so "
        "that a prediction that is made again years later begins with the same numbers. auto: on the GPU if there is "
        "one, and at least 99.5 % of the first batch's values are within 2 grey levels of the CPU's; else on the CPU, "
        "with the reason in the log. Scores may then differ in the third decimal; the metadata of the table names the "
        "decoder. It pays on GPUs that decode JPEG in hardware (A100, H100 and later).",
    )
    aggregate: Literal["mean", "area", "max", "top10"] = Field(
        "mean",
        description="Aggregation of patch scores to slide scores: mean, mean weighted by tissue area, maximum, or "
        "mean of the ten highest. The score of a patient is the mean over the slides.",
    )
    patient_truth: Literal["refuse", "any", "all", "majority"] = Field(
        "refuse",
        description="Class of a patient with slides of several classes. refuse: patients are not evaluated if there is "
        "one; any: the last of the classes in the order of target.classes, so of two classes the positive one if any "
        "slide has it; all: the first, so the positive one only if all slides have it; majority: that of most slides, "
        "patients with a tie are left out. With multi_label, the same for every label.",
    )
    flips: bool = Field(
        False, description="Average over the eight flips and rotations of each patch, at eight times the cost."
    )
    horizon: float | None = Field(
        None,
        gt=0,
        description="Time, in the unit of target.time, at which predictions of survival are evaluated: AUC and "
        "calibration. By default the median time of the training events.",
    )
    overlap: float = Field(
        0.25,
        ge=0,
        le=0.75,
        description="Share of a segmentation window that overlaps the next one; overlaps are blended.",
    )
    transfer: Name | None = Field(
        None,
        description="A stain transfer: slides of its side from are predicted in silico, in the stain of its side to. "
        "The task never learns from them. For tasks that classify or segment the pixels of patches.",
    )
    allow_virtual: bool = Field(
        False,
        description="true: those with the role test in the column split of the sheet are tested, so metrics say how "
        "well slides in silico are predicted. false: a run with such slides is refused.",
    )


def _prediction_problems(kind: Kind, predict: Predict) -> Iterator[str]:
    if "test" not in predict.roles:
        yield "predict.roles: add test; slides to test are always predicted"
    if len(set(predict.roles)) < len(predict.roles):
        yield "predict.roles: a role is listed twice"
    if predict.patient_truth != "refuse" and not ACCEPTED[kind].patient_truth:
        yield f"predict.patient_truth: {kind} gives patients no class; remove it"
    if predict.horizon is not None and "time" not in ACCEPTED[kind].columns:
        yield f"predict.horizon: {kind} has no times; remove it"


def _evaluation_problems(task: Task) -> Iterator[str]:
    """Yield statistics that do not fit the task, and what they lack."""
    wanted, validated = task.evaluate.operating_points.model_dump(exclude_none=True), VALIDATION in task.predict.roles
    if task.trained and validated:
        yield "predict.roles: a model that was trained earlier has no validation slides here; remove val"
    if task.graph is None and task.evaluate.permutations != Evaluate().permutations:
        yield "evaluate.permutations: only tasks on graphs have them; remove the key"
    if (wanted or task.evaluate.prevalences) and not ACCEPTED[task.kind].operating_points:
        yield f"evaluate: {task.kind} has no scores of classes; remove operating_points and prevalences"
    elif wanted and not validated:
        yield (
            "evaluate.operating_points: thresholds are chosen on validation slides; set predict.roles: [val, test, "
            "predict]"
        )


def _share_problems(shares: dict[str, float], groups: list[str]) -> Iterator[str]:
    """Yield why shares do not say how often each of the classes ``groups`` is drawn."""
    total, others = sum(shares.values()), [name for name in groups if name not in shares]
    if total > 1 + SUM_TOLERANCE:
        yield f"train.shares: the sum is {total:g}, more than 1"
    elif not others and abs(total - 1) > SUM_TOLERANCE:
        yield f"train.shares: the sum of the shares of all classes is {total:g}, not 1"
    elif others and total > 1 - SUM_TOLERANCE:
        yield (
            f"train.shares: nothing is left for {', '.join(others)}; lower the other shares, or set "
            + ", ".join(f"{name}: 0" for name in others)
        )


def _training_problems(task: Task) -> Iterator[str]:
    kind, accepted, train = task.kind, ACCEPTED[task.kind], task.train
    numbers = accepted.least_classes is None
    if train.loss not in ("auto", *accepted.losses):
        yield f"train.loss: {train.loss} does not fit {kind}; use one of {', '.join(accepted.losses)}"
    if train.loss != "hazards" and train.intervals != Train().intervals:
        yield "train.intervals: only loss hazards has intervals; remove the key, or set train.loss: hazards"
    if train.select not in accepted.figures:
        yield f"train.select: {train.select} is not measured for {kind}; use one of {', '.join(accepted.figures)}"
    if train.balance == "class" and numbers:
        yield f"train.balance: {kind} has no classes; use slide or area"
    groups = [] if numbers else [*sorted(class_names(task.target)), *([NONE] if accepted.several else [])]
    for key, given in (("shares", train.shares), ("factors", train.factors)):
        if unknown := set(given) - set(groups):
            yield f"train.{key}: the task has no class {', '.join(sorted(unknown))} ({', '.join(groups)})"
    if train.shares and not numbers:
        yield from _share_problems(train.shares, groups)
    if train.shares and train.factors:
        yield "train.shares and train.factors exclude each other; remove one of them"
    if sum(train.containing.values()) > 1:
        yield "train.containing: the sum of the shares is more than 1"
    if train.readers == "draw" and task.target.source == "sheet":
        yield "train.readers: labels in the sheet have no readers; remove the key"
    if train.shares and train.balance not in ("auto", "class"):
        yield "train.shares are shares of classes; remove train.shares or train.balance"


def _model_problems(kind: Kind, model: Model) -> Iterator[str]:
    """Yield settings that the network ignores or does not support."""
    accepted = ACCEPTED[kind]
    if model.pretrained is True and model.name in accepted.networks_without_weights:
        yield f"model.pretrained: timm has no weights of {model.name}; set a path, or false"
    with_dropout = accepted.networks_with_dropout
    if model.dropout and with_dropout is not None and model.name not in with_dropout:
        yield f"model.dropout: {model.name} does not support dropout; for {kind} only {', '.join(with_dropout)} does"


def _level_problems(task: Task) -> Iterator[str]:
    """Yield settings that do not fit a task of slides or patients, or a task of patches."""
    if task.level == PATCH:
        if not ACCEPTED[task.kind].patches:
            yield f"level: {task.kind} is learned for slides or patients; set level: patient"
        if (task.bag, task.pooling) != (Bag(), BagPooling()):
            yield "bag and pooling need level: slide or patient"
        if task.graph is not None:
            yield "graph: a graph is of a whole slide; set level: slide or patient"
        return
    if not ACCEPTED[task.kind].bags:
        yield f"level: {task.kind} predicts pixels; remove level"
    if task.target.source != "sheet":
        yield f"target.source: the targets of {task.level}s are in the sheet; set source: sheet and column"
    if task.head != "linear":
        yield f"head: a task with level: {task.level} has pooling instead; remove head"
    if task.predict.decode != "cpu":
        yield f"predict.decode: patches of a task with level: {task.level} are decoded on the CPU; remove decode"
    if task.predict.aggregate != "mean" or task.predict.flips:
        yield f"predict: a task with level: {task.level} pools patches itself; remove aggregate and flips"
    if task.level == "patient" and task.predict.patient_truth != "refuse":
        yield "predict.patient_truth: with level: patient, all slides of a patient must have the same class; remove it"
    yield from _graph_problems(task) if task.graph is not None else _bag_problems(task)


def _bag_problems(task: Task) -> Iterator[str]:
    """Yield settings that a task on bags of patches ignores or cannot have."""
    pixels = task.features is None
    if pixels and (task.model.stain, task.model.layer_decay) != (Model().stain, Model().layer_decay):
        yield (
            f"model.stain and model.layer_decay: a task with level: {task.level} has neither; use augment.hed, or an "
            "encoder with stain and features; for layers that keep their weights, model.frozen_stages"
        )
    yield from bag_problems(
        task.bag,
        task.pooling,
        train=task.train,
        unused={"probe": task.probe} | ({} if pixels else {"model": task.model, "augment": task.augment}),
        pixels=pixels,
        classes_exclude=not ACCEPTED[task.kind].several and ACCEPTED[task.kind].least_classes is not None,
    )


def _graph_problems(task: Task) -> Iterator[str]:
    """Yield settings that a task on graphs ignores or cannot have."""
    if task.features is not None:
        yield "features: a task on graphs has the features of their nodes; remove features"
    yield from gnn_problems(
        task.gnn,
        fuse=task.fuse,
        bag=task.bag,
        pooling=task.pooling,
        train=task.train,
        unused={"probe": task.probe, "model": task.model, "augment": task.augment},
    )


def _feature_problems(task: Task) -> Iterator[str]:
    """Yield settings that do not fit a task on features, or a task on pixels."""
    if task.level != PATCH:
        return
    if task.features is None:
        if task.head != "linear" or task.probe != Probe():
            yield "head and probe need features: the name of an encoder"
        return
    if not ACCEPTED[task.kind].features:
        yield f"features: {task.kind} needs pixels; remove features"
    if task.predict.decode != "cpu":
        yield "predict.decode: features are stored, and no tile is decoded; set encoders.<name>.decode"
    unused = {"model": task.model, "augment": task.augment}
    yield from head_problems(task.head, train=task.train, unused=unused, flips=task.predict.flips)


class Task(Section):
    """A task: a grid, a target, a network, and settings of training and prediction."""

    kind: Kind = Field(
        Kind.CLASSIFICATION,
        description="What the network outputs. "
        + "; ".join(f"{kind}: {accepted.meaning}" for kind, accepted in ACCEPTED.items()),
    )
    grid: Name = Field(description="Grid whose patches are used; a name under grids.")
    trained: str | None = Field(
        None,
        description="Folder of a model that was trained earlier by histomake (with model.json, or fold0, fold1, …). "
        "Nothing is trained; slides with split: test are evaluated, all others predicted.",
    )
    level: Literal["patch", "slide", "patient"] = Field(
        PATCH,
        description="What is predicted. patch: every patch, whose scores are aggregated to those of slides; slide: the "
        "slide as a bag of patches; patient: all slides of a patient as one bag. With slide and patient, targets are "
        "in the sheet, and bag and pooling take the place of head and probe. Without features, model is the network "
        "that turns a patch into a vector, and is trained with the pooling.",
    )
    target: Target = Field(default_factory=Target, description="Training target.")
    split: Split = Field(default_factory=Split, description="Assignment of patients to roles.")
    features: Name | None = Field(
        None,
        description="Encoder whose stored features the task learns from, instead of pixels; a name under encoders. "
        "Then head and probe take the place of model and augment.",
    )
    head: Literal["linear", "mlp", "knn"] = Field(
        "linear",
        description="What is learned from features. linear: logistic or ridge regression; mlp: hidden layers; knn: "
        "nearest training patches.",
    )
    probe: Probe = Field(default_factory=Probe, description="Settings of the head.")
    graph: Name | None = Field(
        None,
        description="Graphs whose nodes the task learns from, if level is slide or patient; a name under graphs. Then "
        "gnn takes the place of bag and pooling, and grid is that of the patches that the attention of nodes is summed "
        "over.",
    )
    gnn: Gnn = Field(default_factory=Gnn, description="The network of a task on graphs.")
    fuse: Literal["mil"] | None = Field(
        None,
        description="mil: a task on graphs also pools the nodes as a bag, without edges, by pooling attention or "
        "gated, and puts both representations side by side.",
    )
    bag: Bag = Field(default_factory=Bag, description="Patches of a bag, if level is slide or patient.")
    pooling: BagPooling = Field(
        default_factory=BagPooling,
        description="From the patches of a bag to its prediction, if level is slide or patient.",
    )
    model: Model = Field(default_factory=Model, description="The network.")
    augment: Augment = Field(default_factory=Augment, description="Data augmentation.")
    train: Train = Field(default_factory=Train, description="The training loop.")
    predict: Predict = Field(default_factory=Predict, description="Prediction.")
    evaluate: Evaluate = Field(
        default_factory=Evaluate, description="Further statistics on the test slides, which a reviewer may ask for."
    )
    card: Card = Field(default_factory=Card, description="Texts of the model card, results/report/models/{task}.html.")

    @model_validator(mode="after")
    def _fits_together(self) -> Task:
        problems = [*target_problems(self.kind, self.target), *_training_problems(self)]
        problems += [*_model_problems(self.kind, self.model), *_prediction_problems(self.kind, self.predict)]
        problems += [*_feature_problems(self), *_level_problems(self)]
        if self.graph is None and (self.gnn, self.fuse) != (Gnn(), None):
            problems.append("gnn and fuse need graph: a name under graphs")
        problems += _evaluation_problems(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def fitting(self) -> dict[str, Any]:
        """Return the settings that affect a trained model: not those of prediction, split, or running the job."""
        kept = {key: value for key, value in self.dump().items() if key not in NOT_FITTED}
        return kept | {"train": {key: value for key, value in kept["train"].items() if key not in RUNNING}}

    def described(self) -> dict[str, Any]:
        """Return the settings that a model card describes: of prediction only the roles, which others refer to."""
        return self.fitting() | self.dump(*NOT_FITTED) | {"predict": self.predict.dump("roles")}

    @property
    def on_bags(self) -> bool:
        """Whether slides or patients are predicted as bags of patches."""
        return self.level != PATCH

    def predicting(self) -> dict[str, Any]:
        """Return the settings that affect a slide's predictions besides the model."""
        windows = {"overlap": self.predict.overlap} if ACCEPTED[self.kind].overlap else {}
        transfer = {"transfer": self.predict.transfer} if self.predict.transfer else {}
        decode = {"decode": self.predict.decode} if self.predict.decode != "cpu" else {}
        return {"grid": self.grid, "flips": self.predict.flips} | windows | transfer | decode


def like_problems(tasks: Mapping[str, Task]) -> Iterator[str]:
    """Yield tasks that cannot have the roles of the task that ``split.like`` names."""
    for name, task in tasks.items():
        like = task.split.like
        if like is None:
            continue
        what, other = f"tasks.{name}.split.like: {like}", tasks.get(like)
        if other is None or like == name:
            yield f"{what} is not another task ({', '.join(sorted(set(tasks) - {name})) or 'none'})"
        elif other.split.like is not None:
            yield f"{what} has the roles of {other.split.like}; name {other.split.like}"
        elif task.trained or other.trained:
            yield f"{what}: a model that was trained earlier divides no patients; remove like"
        else:
            given = task.split.model_dump(include=task.split.model_fields_set - {"like"})
            if differing := sorted(key for key, value in given.items() if value != getattr(other.split, key)):
                yield f"{what}: {', '.join(differing)} of split would be those of {like}; remove them"
