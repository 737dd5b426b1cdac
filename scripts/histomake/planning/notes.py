"""Notes on a plan, shown before the run starts: likely mistakes that do not stop the run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from histomake.base.spellings import alike, folded, words
from histomake.cohort.folds import LEAST, merged_strata, merged_strata_of_task
from histomake.cohort.sheet import classes_of
from histomake.cohort.strata import Stratum
from histomake.config import Split
from histomake.config.kinds import ACCEPTED
from histomake.planning.plan import Plan

RULES = {
    "refuse": "patients are not evaluated, unless predict.patient_truth says which class they have",
    "any": "any slide decides (predict.patient_truth)",
    "all": "all slides decide (predict.patient_truth)",
    "majority": "most slides decide (predict.patient_truth)",
}
"""How patients with slides of several classes are evaluated."""

NAMED = 8
"""Items that a note names; of further ones it gives the number."""


def notes(plan: Plan) -> list[str]:
    """Notes on a plan, each one line."""
    return [
        *missing_weights(plan),
        *_random_starts(plan),
        *_similar_names(plan),
        *_small_strata(plan),
        *_without_target(plan),
        *_patients_of_several_classes(plan),
    ]


def missing_weights(plan: Plan) -> Iterator[str]:
    """Files of weights from elsewhere that do not exist, and how to get them."""
    for folder in sorted({path.parent for path in plan.foreign_weights() if not path.is_file()}):
        yield (
            f"{folder} lacks a card or weights: `histomake encoder {folder}` writes those of EfficientNet-Lite0 on "
            "ImageNet, which are installed with the workflow; config/encoders says how to get others"
        )


def _random_starts(plan: Plan) -> Iterator[str]:
    """Tasks that train a network from random weights, although there are better ones for it."""
    models = {name: (plan.config.tasks[name].kind, plan.config.tasks[name].model) for name in plan.trained_on_pixels}
    random = [
        name
        for name, (kind, model) in models.items()
        if model.pretrained is False and model.name not in ACCEPTED[kind].networks_without_weights
    ]
    if random:
        yield (
            f"training starts from random weights: {listed(random)}; from weights of ImageNet or of pathology it needs "
            "far fewer steps and slides: set model.pretrained, or features (docs/features.md)"
        )


def _similar_names(plan: Plan) -> Iterator[str]:
    """Names that may mean one patient, or one value of a column that is balanced."""
    slides = plan.slides.values()
    for group in alike((s.patient_id for s in slides), words):
        yield f"patient_ids that may be one patient: {listed(group)}; patients, not slides, are divided into roles"
    splits = [*(task.split for task in plan.config.tasks.values()), *(c.split for c in plan.config.radhical.values())]
    for column in sorted({"site", *(column for split in splits for column in split.stratify)}):
        for group in alike(filter(None, (s.value(column) for s in slides)), folded):
            yield f"values of {column} that may be one: {listed(group)}"


def _small_strata(plan: Plan) -> Iterator[str]:
    slides = plan.slides.values()
    for name in plan.trained:
        task = plan.config.tasks[name]
        if task.split.like is None:
            yield from _merged(f"task {name}", merged_strata_of_task(slides, task), task.split)
    for name, cascade in plan.config.radhical.items():
        annotated = [slide for slide in slides if slide.annotation]
        yield from _merged(f"radhical {name}", merged_strata(annotated, cascade.split), cascade.split)


def _merged(what: str, found: dict[Stratum, int], split: Split) -> Iterator[str]:
    if found:
        names = [f"{' / '.join(value or '(empty)' for value in s)} ({n})" for s, n in found.items()]
        yield (
            f"{what}: strata of fewer than {max(LEAST, split.folds)} patients are too small to balance, and are "
            f"balanced together: {listed(names)}"
        )


def _without_target(plan: Plan) -> Iterator[str]:
    """Slides that could be trained on or tested if the sheet had their target."""
    tasks: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in plan.trained:
        tasks[tuple(plan.config.tasks[name].target.sheet_columns)].append(name)
    for columns, names in tasks.items():
        others = (s for s in plan.slides.values() if columns and s.split != "predict")
        empty = [s.slide_id for s in others if not any(map(s.value, columns))]
        if empty:
            yield (
                f"task {', '.join(names)}: {len(empty)} slide(s) without a value of {' and '.join(columns)} are "
                f"predicted, and neither trained on nor tested: {listed(empty)}"
            )


def _patients_of_several_classes(plan: Plan) -> Iterator[str]:
    """Of tasks whose classes are in the sheet; annotations are compared when predictions are evaluated."""
    for name in plan.measured:
        task = plan.config.tasks[name]
        if not ACCEPTED[task.kind].patient_truth or task.target.column is None:
            continue
        found: dict[str, set[str]] = defaultdict(set)
        for slide in (plan.slides[s] for _, s in plan.slides_by_fold(name, "test")):
            if classes := classes_of(slide, task):
                found[slide.patient_id].add("+".join(sorted(classes)))
        mixed = [f"{patient} ({', '.join(sorted(c))})" for patient, c in sorted(found.items()) if len(c) > 1]
        rule = task.predict.patient_truth
        if mixed:
            what = f"task {name}: {len(mixed)} test patient(s) have slides of several classes"
            yield f"{what}; {RULES[rule]}: {listed(mixed)}"


def listed(names: list[str]) -> str:
    """The names, of many only the first."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
