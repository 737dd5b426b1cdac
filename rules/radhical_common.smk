# With what the rules of cascades ask for inputs and params.
from dataclasses import replace

CASCADE = "<results>/radhical/{cascade}"

# Without annotation there is nothing to learn from or to be measured against: such slides are only segmented.
cascade_rows = [s if s.annotation else replace(s, split="predict") for s in SLIDES.values()]
try:
    CASCADE_ROLES = {
        name: cohort_folds.assign(cascade_rows, settings.split, seed=CONFIG.seed, task=f"radhical.{name}")
        for name, settings in CONFIG.radhical.items()
    }
except HistomakeError as error:
    raise WorkflowError(str(error)) from None


def cascade(wildcards):
    return CONFIG.radhical[wildcards.cascade]


def cascade_slides(name, *roles):
    """Ids of a cascade's slides with one of the roles."""
    return [a.slide_id for a in CASCADE_ROLES[name] if a.role in roles]


def cascade_manifests(*roles):
    return lambda wildcards: [LAYOUT.manifest(s) for s in cascade_slides(wildcards.cascade, *roles)]


def cascade_stores(*roles):
    return lambda wildcards: [LAYOUT.store(s, packed=PACKED) for s in cascade_slides(wildcards.cascade, *roles)]


def cascade_annotations(role):
    return lambda wildcards: [SLIDES[s].annotation for s in cascade_slides(wildcards.cascade, role)]


def cascade_cohort(role):
    """Which patients and which annotation bytes a step works with: part of its identity."""
    return lambda wildcards: [
        [s, SLIDES[s].patient_id, FINGERPRINTS.of(SLIDES[s].annotation)]
        for s in cascade_slides(wildcards.cascade, role)
    ]


def cascade_weights(wildcards):
    levels = range(1, len(cascade(wildcards).scales) + 1)
    return [LAYOUT.results / "radhical" / wildcards.cascade / f"level{n}" / "model.safetensors" for n in levels]


def in_cascade(pattern, *roles):
    """A file for each slide of a cascade with one of the roles."""
    return lambda wildcards: [
        LAYOUT.results / "radhical" / wildcards.cascade / pattern.format(slide=s)
        for s in cascade_slides(wildcards.cascade, *roles)
    ]


def radhical_outputs():
    """Everything the cascades are asked for when no target is named.

    Asked by the rules that want it, so that new slides alone can still be predicted with the tasks' models.
    """
    if CONFIG.radhical and all(s.split == "predict" for s in cascade_rows):
        raise WorkflowError(
            f"radhical: no slide of {CONFIG.sheet} has an annotation to learn from; "
            "name label masks or outlines of nuclei in its annotation column"
        )
    wanted = []
    for name in CONFIG.radhical:
        folder = LAYOUT.results / "radhical" / name
        wanted += [folder / "split.parquet", folder / "metrics.json", folder / "pareto.png"]
        for s in cascade_slides(name, "test", "predict"):
            wanted += [
                folder / "slides" / f"{s}.json",
                folder / "slides" / f"{s}.zarr" / "zarr.json",
                folder / "slides" / f"{s}.geojson",
                folder / "levels" / f"{s}.png",
            ]
    return wanted + [
        LAYOUT.results / "cascades" / name / f"fold{fold}" / f"{s}.parquet"
        for name in CONFIG.patch_cascades
        for fold, s in cascade_unseen(name)
    ]


def patch_cascade(wildcards):
    return CONFIG.patch_cascades[wildcards.patch_cascade]


def cascade_unseen(name):
    """(fold, slide) of every slide that no stage of a patch cascade was made with."""
    tasks = [stage.task for stage in CONFIG.patch_cascades[name].stages]
    shared = range(min(CONFIG.tasks[t].split.folds for t in tasks))
    unseen = {f: set.intersection(*(set(slides_in(t, f, "test", "predict")) for t in tasks)) for f in shared}
    return [(fold, s) for fold in shared for s in sorted(unseen[fold])]


def stage_paths(path):
    """A file of every stage of a patch cascade: ``path`` of (wildcards, task)."""
    return lambda wildcards: [path(wildcards, stage.task) for stage in patch_cascade(wildcards).stages]
