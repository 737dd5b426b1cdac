# `--config plan=new`: slides that nothing has happened to since the last complete run are not planned. Their outputs are
# sources then, as the slides are: a plan of 10,000 slides takes minutes and 2 GB otherwise.
from types import SimpleNamespace

from histomake.audit.code import rules_digest
from histomake.planning import unchanged
from histomake.base.file_cache import stamps

MEMORY = LAYOUT.results / "memory" / "settled.json"


def model_files():
    """Every file that models are, or are made from, besides slides and their tables."""
    found = set(TISSUE_MODEL)
    for name in CONFIG.tasks:
        start = pretrained(SimpleNamespace(task=name))
        found |= {start} if start else set()
        for fold in folds(name):
            folder = LAYOUT.model(name, fold)
            found |= {f"{folder}.cohort.json", f"{folder}/history.csv"}
            found |= {f"{place}/model.{kind}" for place in (folder, model_in_use(name, fold)) for kind in MODEL_KINDS}
    return sorted(found)


def learned():
    """(task, fold, slide, role) of every slide that a model is made with."""
    return sorted(
        (name, a.fold, a.slide_id, a.role) for name in TRAINED for a in ROLES[name] if a.role in leakage.FITTED
    )


def sources(*patterns):
    """Files of the workflow itself."""
    return [file for pattern in patterns for file in sorted(Path(workflow.basedir).glob(pattern))]


def workflow_identity():
    """What the outputs of all slides depend on besides models: settings, code, and the slides that models are of."""
    return unchanged.digest(
        [
            CONFIG.dump(),
            [code_digest(script) for script in sorted(SCRIPTS.glob("*.py"))],
            [rules_digest(file) for file in sources("Snakefile", "rules/*.smk")],
            [sha256_file(file) for file in sources("envs/*")],
            learned(),
        ]
    )


def shared_identity():
    """What the outputs of all slides depend on, with the models as they are now."""
    models = model_files()
    return unchanged.digest([WORKFLOW_IDENTITY, list(zip(models, stamps(models), strict=True))])


def own_identity():
    """What the outputs of each slide depend on besides, by its id."""
    roles = defaultdict(list)
    for name in CONFIG.tasks:
        for a in ROLES[name]:
            roles[a.slide_id].append([name, a.fold, a.role])
    return {
        s.slide_id: unchanged.digest(
            [
                vars(s),
                FINGERPRINTS.of(s.path),
                FINGERPRINTS.of(s.annotation) if s.annotation else None,
                roles[s.slide_id],
            ]
        )
        for s in SLIDES.values()
    }


def find_settled():
    """Ids of the slides that need no plan.

    A model is made anew, and predicts every slide anew, if any slide that it learns from is not settled. Then, and with
    cascades, which are made of slides too, everything is planned.
    """
    if CONFIG.plan == "all" or CONFIG.radhical or CONFIG.patch_cascades or not workflow.is_main_process:
        return frozenset()
    found = unchanged.settled(MEMORY, shared=shared_identity(), made_of=MADE_OF)
    if not {slide_id for _, _, slide_id, _ in learned()} <= found:
        found = frozenset()
    print(f"plan: {len(SLIDES) - len(found):,} of {len(SLIDES):,} slides are new or changed", file=sys.stderr)
    return found


def remember_settled():
    """After a run that was asked for everything, keep what it left of every slide."""
    asked = workflow.dag_settings
    if set(asked.targets) - {"all"} or asked.until or asked.omit_from or asked.batch:
        return
    outputs = defaultdict(list)
    for job in workflow.dag.jobs:
        if "slide" in job.wildcards_dict:
            outputs[job.wildcards_dict["slide"]] += map(str, job.output)
    unchanged.remember(MEMORY, shared=shared_identity(), made_of=MADE_OF, outputs=outputs, left_out=SETTLED)


# Taken now and not when the run ends: a slide or a file of code that changes meanwhile is not what the outputs are of.
MADE_OF = own_identity() if workflow.is_main_process else {}
WORKFLOW_IDENTITY = workflow_identity() if workflow.is_main_process else ""

SETTLED = find_settled()
MASKED = "|".join(re.escape(s) for s in SLIDES if s not in SETTLED and is_mask(SLIDES[s].annotation)) or "no-slide"
PLANNED = [s for s in SLIDES if s not in SETTLED]
