# The sheet, the typed configuration, and the named functions with which rules ask for inputs and params.
import atexit
import gc
import os
import sys
from collections import defaultdict
from functools import cache, partial
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Planning makes millions of objects that live to its end. Looking for garbage among them takes a quarter of the time,
# and at the end as long again.
gc.set_threshold(100_000, 50, 50)
atexit.register(gc.freeze)

SCRIPTS = Path(str(workflow.current_basedir)).parent / "scripts"
# The library beside the scripts runs, here and in the jobs, also where another copy is installed. Where conda removes
# PYTHONPATH, the folder that Snakemake appends to the path of every script serves.
SEARCHED = [str(SCRIPTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
os.environ.update(PYTHONPATH=os.pathsep.join(dict.fromkeys(filter(None, SEARCHED))))
sys.path.insert(0, str(SCRIPTS))

from histomake.annotation.formats import is_mask
from histomake.audit.code import code_digest, require_library
from histomake.audit.fingerprints import Fingerprints
from histomake.cohort import folds as cohort_folds
from histomake.cohort import leakage
from histomake.config import parse_config
from histomake.config.kinds import ACCEPTED
from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import Layout
from histomake.model import reuse
from histomake.pictures.kinds import PICTURED, WITH_CONFIDENCE, WITHOUT_CONFIDENCE
from histomake.cohort.sheet import SLIDE_ID, read_sheet

try:
    require_library(SCRIPTS)
    CONFIG = parse_config(config, origin=", ".join(map(str, workflow.configfiles)))
    SLIDES = read_sheet(CONFIG.sheet, CONFIG, check_files=workflow.is_main_process)
    ROLES = {
        name: (
            cohort_folds.assign_unfitted(SLIDES.values(), folds=len(reuse.folds(task)))
            if task.trained
            else cohort_folds.assign_task(SLIDES.values(), task, seed=CONFIG.seed, name=name)
        )
        for name, task in CONFIG.tasks.items()
    }
except HistomakeError as error:
    raise WorkflowError(str(error)) from None

LAYOUT = Layout(Path(CONFIG.results))
config["results"] = CONFIG.results  # for the scripts, which find files with it
FINGERPRINTS = Fingerprints(LAYOUT.fingerprints, remember=workflow.is_main_process)

# Where the sheet gives a task slides to fit, its models are trained. Elsewhere they are taken over from the folder the
# task names, or used as they lie in the results: no rule makes those, so that none can train them anew.
TRAINED = [name for name in CONFIG.tasks if any(a.role in leakage.FITTED for a in ROLES[name])]
ADOPTED = [
    name
    for name, settings in CONFIG.tasks.items()
    if settings.trained and Path(settings.trained).resolve() != LAYOUT.models(name).resolve()
]
MODEL_KINDS = ("safetensors", "json")
PACKED = CONFIG.convert.store == "zip"
STORE = str(LAYOUT.store("{slide}", packed=PACKED))
FIRST_GRID = min(CONFIG.grids)
CONTACT_GRIDS = sorted({t.grid for t in CONFIG.tasks.values()} or CONFIG.grids)
SEGMENTED = [name for name, settings in CONFIG.tasks.items() if ACCEPTED[settings.kind].label_image]
MEASURED = [name for name in CONFIG.tasks if any(a.role == "test" for a in ROLES[name])]


# With a model in place of thresholds, presegment runs another script, in the environment that has torch.
TISSUE_MODEL = [f"{CONFIG.tissue.model}/{name}" for name in ("model.safetensors", "model.json") if CONFIG.tissue.model]
PRESEGMENT = "presegment_model.py" if TISSUE_MODEL else "presegment.py"


def slide(wildcards):
    """The sheet's row of the job's slide."""
    try:
        return SLIDES[wildcards.slide]
    except KeyError:
        raise WorkflowError(f"no slide {wildcards.slide!r} in {CONFIG.sheet}") from None


def slide_path(wildcards):
    return slide(wildcards).path


def annotation_path(wildcards):
    return slide(wildcards).annotation or []


def fingerprint(wildcards):
    """Which bytes the slide has; the job runs again when it changes."""
    return FINGERPRINTS.of(slide(wildcards).path)


def label_image(wildcards):
    """The label image of a slide that is annotated with a mask."""
    return LAYOUT.label_image(wildcards.slide) if is_mask(slide(wildcards).annotation) else []


def annotation_fingerprint(wildcards):
    path = slide(wildcards).annotation
    return FINGERPRINTS.of(path) if path else None


def code(script):
    """Which code the rule's script runs; the job runs again when it changes.

    A job of a cluster digests that of its own rule only; the main process needs all, and a function per job costs more.
    """
    path = SCRIPTS / script
    return code_digest(path) if workflow.is_main_process else lambda wildcards: code_digest(path)


def task(wildcards):
    return CONFIG.tasks[wildcards.task]


def folds(task_name):
    return reuse.folds(CONFIG.tasks[task_name])


def only(names):
    """Wildcard constraint to some tasks."""
    return "|".join(names) or "no-task"


def model_in_use(task_name, fold):
    """The folder of a model that is not trained here."""
    if task_name in ADOPTED:
        return reuse.model_folder(CONFIG.tasks[task_name].trained, fold)
    return LAYOUT.model(task_name, fold)


def untrained_models():
    """(task, folder, whether it is used where it lies) of every model that is not trained here."""
    return [(n, model_in_use(n, f), n not in ADOPTED) for n in CONFIG.tasks if n not in TRAINED for f in folds(n)]


def adopted(name):
    """A file of the model that a job's task takes over."""
    return lambda wildcards: model_in_use(wildcards.task, int(wildcards.fold)) / name


def earlier_descriptions(wildcards):
    """Descriptions of the models that the task's were not made by it, or start from: what those have seen counts."""
    if wildcards.task not in TRAINED:
        return [LAYOUT.model(wildcards.task, f) / "model.json" for f in folds(wildcards.task)]
    found = [Path(start).with_name("model.json") for start in [pretrained(wildcards)] if start]
    return [path for path in found if made_here(path) or path.is_file()]


def of_every_slide(*places):
    """Files of every slide, each at ``place(slide_id)``; listed only where the rule has a job, so not in other jobs."""
    return lambda wildcards: [place(s) for place in places for s in SLIDES]


@cache
def members(task_name):
    """Ids of a task's slides by fold and role."""
    found = defaultdict(list)
    for a in ROLES[task_name]:
        found[a.fold, a.role].append(a.slide_id)
    return found


def slides_in(task_name, fold, *roles):
    """Ids of the slides with one of the roles in a fold, sorted."""
    return sorted(s for role in roles for s in members(task_name)[int(fold), role])


def entry(slide_id):
    """What a script must know of a slide besides its files: id, patient, labels."""
    row = SLIDES[slide_id]
    return [row.slide_id, row.patient_id, dict(sorted(row.labels.items()))]


def fitted(wildcards):
    """The slides a fold's model is made with, by role: part of the model's identity."""
    return {role: [entry(s) for s in slides_in(wildcards.task, wildcards.fold, role)] for role in leakage.FITTED}


def fitted_slides(wildcards):
    """Ids of the slides a fold's model is made with, in the order of `fitted`."""
    return [slide_id for entries in fitted(wildcards).values() for slide_id, _, _ in entries]


def pretrained(wildcards):
    """The weights a task starts from, when they are a file or an earlier model and not the hub's."""
    path = task(wildcards).model.pretrained
    if isinstance(path, bool):
        return []
    return path if path.endswith(".safetensors") else f"{path}/model.safetensors"


def made_here(path):
    """Whether a file is of a model that this very workflow trains."""
    return any(Path(path).is_relative_to(LAYOUT.models(name)) for name in TRAINED)


def pretrained_here(wildcards):
    """The weights a task starts from, if they are made here: with them, the task is trained anew."""
    path = pretrained(wildcards)
    return str(Path(path)) if path and made_here(path) else []


def pretrained_elsewhere(wildcards):
    """The weights a task starts from, if they are not made here: their bytes count, and not their date."""
    return [] if pretrained_here(wildcards) else pretrained(wildcards)


def roles_of(assignments, roles=None):
    """What a script must know of who is trained on and tested on; of some roles only, if they are given."""
    return [[a.fold, a.slide_id, a.patient_id, a.role] for a in assignments if roles is None or a.role in roles]


def judged(assignments):
    """Ids of the slides that no other role may share, each once."""
    return list(dict.fromkeys(a.slide_id for a in assignments if a.role in leakage.JUDGED))


def prediction_paths(task_name, *roles):
    return [
        LAYOUT.prediction(task_name, fold, s) for fold in folds(task_name) for s in slides_in(task_name, fold, *roles)
    ]


def segmented_paths(task_name, *roles):
    """The outlines of every slide with one of the roles; none if the task is no segmentation."""
    if task_name not in SEGMENTED:
        return []
    found = ((fold, s) for fold in folds(task_name) for s in slides_in(task_name, fold, *roles))
    return [LAYOUT.segmented_outlines(task_name, fold, s) for fold, s in found if s not in SETTLED]


def entries(task_name, *roles):
    """What a script must know of the slide of every prediction file, in the order of prediction_paths."""
    return [entry(s) for fold in folds(task_name) for s in slides_in(task_name, fold, *roles)]


def memory(base_mb, per_gb=0):
    """Memory in MB that doubles with every attempt; ``per_gb`` adds to it for every GB of input (a·size + b)."""
    if not per_gb:
        return lambda wildcards, attempt: base_mb * 2 ** (attempt - 1)
    return lambda wildcards, input, attempt: int((base_mb + per_gb * input.size_mb / 1000) * 2 ** (attempt - 1))


def processes(wildcards):
    """CPU cores a GPU is fed with: one computes, the others load patches. Snakemake gives fewer where there are fewer."""
    workers = task(wildcards).train.workers
    return 1 + (LOADERS if workers is None else workers)


def minutes(base):
    """Run time in minutes that doubles with every attempt."""
    return lambda wildcards, attempt: base * 2 ** (attempt - 1)


PREDICTED = ("test", "predict")

# Loader processes that keep up with a GPU.
LOADERS = 7


def tasks_with_views(views):
    """Wildcard constraint to the tasks that have exactly these views."""
    return only([name for name, settings in CONFIG.tasks.items() if PICTURED[settings.kind].views == views])


def segmented_labels(wildcards):
    """The label image of a slide that the job's task segments."""
    if wildcards.task not in SEGMENTED:
        return []
    return LAYOUT.segmentation(wildcards.task, wildcards.fold, wildcards.slide)


def view_pictures(*views):
    """The outputs of a rule that draws a slide, by view, with what the report says of them."""
    return {
        view: report(
            f"<results>/views/{{task}}/fold{{fold}}/{{slide}}/{view}.jpg",
            caption=f"report/{view}.rst",
            category="Slides",
            subcategory="{task}",
            labels={"slide": "{slide}", "view": view},
        )
        for view in views
    }


def explained_models():
    """(task, fold) of every model that is looked into: those made here, with the patches they were trained on."""
    return [(name, fold) for name in TRAINED for fold in folds(name)]


@cache
def viewed_slides():
    """(task, fold, aggregation, views) of every prediction that is drawn, by slide, sorted."""
    viewed = defaultdict(list)
    for name, settings in CONFIG.tasks.items():
        for fold in folds(name):
            for s in slides_in(name, fold, "test", "predict"):
                viewed[s].append([name, fold, settings.predict.aggregate, PICTURED[settings.kind].views])
    return dict(sorted(viewed.items()))


def paged_slides():
    """Slides that have a page of their own."""
    segmented = {s for name in CONFIG.radhical for s in cascade_slides(name, "test", "predict")}
    return sorted(segmented | set(viewed_slides()))


def slide_tasks(wildcards):
    """(task, fold, aggregation, views) of every prediction of a slide."""
    return viewed_slides().get(wildcards.slide, [])


def slide_cascades(wildcards):
    """The nucleus cascades that segment a slide."""
    return [name for name in CONFIG.radhical if wildcards.slide in cascade_slides(name, "test", "predict")]


def regions(wildcards):
    """The parts of a slide that are to be looked at closely: x, y, width and height of each."""
    return [box for slide_id, *box in CONFIG.explain.regions if slide_id == wildcards.slide]


def explained(wildcards):
    """The slides a fold's model is explained on: its test slides, so that a new one to predict explains nothing anew.

    Where there are none, those to predict.
    """
    return slides_in(wildcards.task, wildcards.fold, "test") or slides_in(wildcards.task, wildcards.fold, "predict")


def explained_predictions(wildcards):
    return [LAYOUT.prediction(wildcards.task, wildcards.fold, s) for s in explained(wildcards)]


def model_pictures(pattern):
    """A picture of every model that is looked into."""
    return [LAYOUT.results / pattern.format(task=name, fold=fold) for name, fold in explained_models()]


def explain_settings(*keys):
    """Some keys of the explain section: those a rule heeds, so that it does not run again for the others."""
    settings = CONFIG.explain.dump()
    return {key: settings[key] for key in keys}


def asset(path):
    """Digest of a file of the library that is no Python; the job runs again when it changes."""
    return sha256_file(SCRIPTS / path)


def interpretation_outputs():
    """Everything a person may open, asked for when no target is named; of settled slides it is there."""
    tissue = [LAYOUT.tissue_view(s) for s in PLANNED]
    pages = [LAYOUT.results / "report" / "slides" / f"{s}.html" for s in paged_slides() if s not in SETTLED]
    exports = [
        LAYOUT.results / "qupath" / n / f"fold{f}" / f"{s}.geojson"
        for s, tasks in viewed_slides().items()
        for n, f, *_ in tasks
        if s not in SETTLED
    ]
    return [LAYOUT.results / "report" / "index.html", *pages, *tissue, *(exports if CONFIG.explain.qupath else [])]


def final_outputs(wildcards):
    """Everything `snakemake` makes when no target is named."""
    return [
        LAYOUT.catalog,
        LAYOUT.lineage,
        *(LAYOUT.metrics(name) for name in MEASURED),
        *(LAYOUT.scores(name) for name in CONFIG.tasks),
        *(path for name in CONFIG.tasks for path in segmented_paths(name, *PREDICTED)),
        *interpretation_outputs(),
        *radhical_outputs(),
    ]


if workflow.is_main_process:
    problems = reuse.problems(untrained_models(), CONFIG)
    if problems:
        raise WorkflowError("\n".join(["models and tasks do not fit together:", *(f"  {p}" for p in problems)]))
