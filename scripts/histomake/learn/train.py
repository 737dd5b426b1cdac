"""Training of a task's model: from its slides to the files of the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from msgspec import structs

from histomake.base.errors import HistomakeError, Reason, SlideError
from histomake.base.layout import DESCRIPTION
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined, write_list
from histomake.cohort.quarantine import check_loss
from histomake.config import Task
from histomake.learn.data.patch_index import EntryContent, PatchIndex, SlideEntry, index_patches, without_patches
from histomake.learn.data.staging import staged
from histomake.learn.engine import distributed
from histomake.learn.engine.launch import launch
from histomake.learn.engine.objective import Json
from histomake.learn.engine.run import run
from histomake.learn.engine.runtime import choose_runtime
from histomake.learn.engine.settings import Settings
from histomake.learn.kinds import TRAINED
from histomake.learn.objectives.patches import PatchObjective
from histomake.patch.sampler import choose
from histomake.target.outputs import outputs_of
from histomake.target.targets import is_known

LEFT_OUT, MET = "left_out.json", "damage.json"
"""Files in the folder of the checkpoints: the damaged slides so far, and the one that a process has just met."""

log = logging.getLogger(__name__)


def train(
    task: Task,
    *,
    train: Sequence[SlideEntry],
    val: Sequence[SlideEntry],
    class_names: Sequence[str],
    output: Path,
    state: Path,
    seed: int,
    threads: int,
    max_lost: float = 0.0,
) -> ModelCard:
    """Train one model; fill ``output`` with model.safetensors, model.json and history.csv; return the model's card.

    The folder training/ gets TensorBoard events, with ``train.audit`` drawn.parquet, with ``model.stain`` stains.json.
    ``class_names`` are the annotation classes of the project. ``state`` is a folder that outlives the job: a run that
    finds its own checkpoint there continues from it. Raises PreemptedError after SIGTERM, once the state is saved, and
    HistomakeError for data from which no model can be learned.

    A slide with a damaged tile is left out: the training begins again without it, so that the model is that of a cohort
    without the slide, and its card names the slide. Raises HistomakeError if more than ``max_lost`` of the slides are
    damaged, and SlideError for a store that cannot be opened at all.
    """
    unknown = sorted({*task.target.classes, *task.train.containing} - set(class_names))
    if unknown and task.target.source != "sheet":
        raise HistomakeError(
            f"no annotation class is called {', '.join(unknown)} (there are: {', '.join(class_names)})"
        )

    def once(train: Sequence[SlideEntry], val: Sequence[SlideEntry]) -> None:
        _train_once(task, train=train, val=val, output=output, state=state, seed=seed, threads=threads)

    return train_without_damaged(once, train, val, output=output, state=state, max_lost=max_lost)


def train_without_damaged(
    once: Callable[[Sequence[SlideEntry], Sequence[SlideEntry]], None],
    train: Sequence[SlideEntry],
    val: Sequence[SlideEntry],
    *,
    output: Path,
    state: Path,
    max_lost: float,
) -> ModelCard:
    """Train by ``once``, again without each slide that it meets damaged; return the card, which names these slides.

    Raises HistomakeError if more than ``max_lost`` of the slides are damaged.
    """
    return name_left_out(output, without_damaged(once, train, val, state=state, max_lost=max_lost))


def without_damaged(
    once: Callable[[Sequence[SlideEntry], Sequence[SlideEntry]], None],
    first: Sequence[SlideEntry],
    second: Sequence[SlideEntry],
    *,
    state: Path,
    max_lost: float,
) -> list[Quarantined]:
    """Call ``once`` with two lists of slides, again without each slide that it meets damaged; return these slides.

    Raises HistomakeError if more than ``max_lost`` of the slides are damaged.
    """
    left_out = Quarantined.read_list(state / LEFT_OUT) if (state / LEFT_OUT).is_file() else []
    while True:
        lost = {entry.slide_id for entry in left_out}
        try:
            once(*([entry for entry in found if entry.slide_id not in lost] for found in (first, second)))
            break
        except SlideError as error:
            if error.reason != Reason.DAMAGED_TILES:
                raise
            log.error("QUARANTINE: %s. The training begins again without the slide", error)
            left_out.append(Quarantined.of(error, "train"))
            check_loss(left_out, slides=len(first) + len(second), max_share=max_lost)
            write_list(state / LEFT_OUT, left_out)
    (state / LEFT_OUT).unlink(missing_ok=True)
    return left_out


def with_weights(task: Task, files: Sequence[str]) -> Task:
    """The task with the file of weights that is among ``files`` in place of the name of an encoder."""
    if not isinstance(task.model.pretrained, str):
        return task
    found = next(path for path in files if path.endswith(".safetensors"))
    return task.model_copy(update={"model": task.model.model_copy(update={"pretrained": found})})


def name_left_out(output: Path, left_out: Sequence[Quarantined]) -> ModelCard:
    """The card of a finished model, in which the slides that it was made without are named."""
    card = structs.replace(ModelCard.read(output / DESCRIPTION), left_out=list(left_out))
    if left_out:
        card.write(output / DESCRIPTION)
    return card


def _train_once(
    task: Task,
    *,
    train: Sequence[SlideEntry],
    val: Sequence[SlideEntry],
    output: Path,
    state: Path,
    seed: int,
    threads: int,
) -> None:
    """Train with slides of which none is known to be damaged. Raises SlideError for one that is."""
    entries = [*train, *val]
    with staged(entries) if task.train.stage else nullcontext(entries) as here:
        roles = {"train": here[: len(train)], "val": here[len(train) :]}
        if task.train.gpus > 1:
            job: dict[str, object] = {role: [entry.dump() for entry in found] for role, found in roles.items()}
            job |= {"task": task.dump(), "output": str(output), "state": str(state), "seed": seed}
            job |= {"threads": max(1, threads // task.train.gpus)}
            (state / MET).unlink(missing_ok=True)
            try:
                launch(fit_one_of_several, job, folder=state, processes=task.train.gpus)
            except HistomakeError:
                if (state / MET).is_file():
                    raise Quarantined.read(state / MET).error() from None
                raise
        else:
            fit(task, **roles, output=output, state=state, seed=seed, threads=threads)


def fit_one_of_several(
    *,
    task: dict[str, Json],
    train: list[EntryContent],
    val: list[EntryContent],
    output: str,
    state: str,
    seed: int,
    threads: int,
) -> None:
    """`fit` in one of several processes, with JSON for arguments."""
    try:
        fit(
            Task.model_validate(task),
            train=[SlideEntry.parse(entry) for entry in train],
            val=[SlideEntry.parse(entry) for entry in val],
            output=Path(output),
            state=Path(state),
            seed=seed,
            threads=threads,
        )
    except SlideError as error:
        Quarantined.of(error, "train").write(Path(state) / MET)
        raise


def fit(
    task: Task,
    *,
    train: Sequence[SlideEntry],
    val: Sequence[SlideEntry],
    output: Path,
    state: Path,
    seed: int,
    threads: int,
) -> None:
    """Train in this process."""
    require_slides(train, val)
    patches = training_patches(train, task)
    held_out = known_patches(val, task)
    held_out = held_out.take(choose(task.train.validate_patches, len(held_out), seed=seed))
    check_classes(patches, held_out, task)
    runtime = choose_runtime(task.train.precision, threads=threads, index=distributed.local_rank())
    objective = PatchObjective(
        task, patches=patches, held_out=held_out, runtime=runtime, state=state, seed=seed, threads=threads
    )
    run(objective, settings_of(task, seed=seed), runtime=runtime, state=state, output=output)


def settings_of(task: Task, *, seed: int) -> Settings:
    """The settings of the training loop."""
    train = task.train
    return Settings(
        steps=train.steps,
        seed=seed,
        record_every=train.validate_every,
        accumulate=train.accumulate,
        clip=train.clip,
        patience=train.patience,
        checkpoint_minutes=train.checkpoint_minutes,
    )


def require_slides(train: Sequence[SlideEntry], val: Sequence[SlideEntry]) -> None:
    """Raise HistomakeError if there is no slide to learn from, or none to choose with."""
    for role, entries in (("training", train), ("validation", val)):
        if not entries:
            raise HistomakeError(f"there is no {role} slide; see the task's table in splits/, and slides in quarantine")


def known_patches(entries: Sequence[SlideEntry], task: Task) -> PatchIndex:
    """The usable patches that have a target."""
    patches = index_patches(entries, kind=task.kind, target=task.target)
    return patches.take(is_known(patches.target))


def training_patches(entries: Sequence[SlideEntry], task: Task) -> PatchIndex:
    """The usable patches that have a target; with ``train.readers: draw`` one row for each reader who gives one."""
    by_reader = task.train.readers == "draw"
    return known_patches([one for e in entries for one in e.by_reader()] if by_reader else entries, task)


def check_classes(patches: PatchIndex, held_out: PatchIndex, task: Task) -> None:
    """Stop when a class is missing from the training slides; warn when it is missing from validation."""
    for role, index in (("training", patches), ("validation", held_out)):
        slides = index.named
        if not len(index):
            reasons = "".join(f"; {reason}" for reason in without_patches(index.entries))
            raise HistomakeError(
                f"no {role} patch has a label (slides: {slides}); annotate them or change the split{reasons}"
            )
        count_classes = TRAINED[task.kind].count_classes
        if count_classes is None:
            log.info("%s patches: %d", role, len(index))
            continue
        counts = count_classes(index, task.target, outputs_of(task.kind, task.target))
        log.info("%s patches: %s", role, counts)
        missing = [name for name, count in counts.items() if not count]
        if missing and role == "training":
            raise HistomakeError(
                f"no training patch has class {', '.join(missing)} (slides: {slides}); stratify the split by it, use "
                "fewer folds, or lower target.min_area"
            )
        if missing:
            log.warning("no validation patch has class %s (slides: %s)", ", ".join(missing), slides)
