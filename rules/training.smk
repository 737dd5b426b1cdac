# Models, one per task and fold: trained on patches that are read while training runs, or copied from another folder.
from histomake.model.reuse import DESCRIPTION, WEIGHTS
from histomake.planning.network_memory import cohort_patches, patch_training_mb
from histomake.planning.reader_plan import ReaderPlan

READERS = ReaderPlan(PLAN)


# One small file represents the thousands of slides of a model, so that later jobs remain cheap to plan. The slides are
# a param, because a slide that is only predicted must not train the model again. No input here may be both ancient()
# and the output of another job: when that job runs, Snakemake checks for no other reason to run the jobs after it, not
# even for changed settings.
rule training_cohort:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in PLAN.fitted_slides(wildcards.task, wildcards.fold)],
        tables=lambda wildcards: [
            LAYOUT.table(task(wildcards).grid, s) for s in PLAN.fitted_slides(wildcards.task, wildcards.fold)
        ],
        annotations=lambda wildcards: [LAYOUT.annotation(s) for s in PLAN.fitted_slides(wildcards.task, wildcards.fold)],
        vectors=lambda wildcards: PLAN.fitted_vectors(wildcards.task, wildcards.fold),
        readings=lambda wildcards: READERS.readings(wildcards.task, wildcards.fold),
    output:
        cohort=LAYOUT.training_cohort("{task}", "{fold}"),
    log:
        LAYOUT.log("training_cohort", "{task}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("training_cohort", "{task}", "fold{fold}")
    wildcard_constraints:
        task=only(PLAN.trained),
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        slides=lambda wildcards: PLAN.fitted(wildcards.task, wildcards.fold),
        readers=lambda wildcards: READERS.drawn(wildcards.task, wildcards.fold),
        code=code("training_cohort.py"),
    script:
        "../scripts/training_cohort.py"


# A retry continues from the checkpoint of the last attempt, so its time limit is not doubled.
# Weights from elsewhere are compared by their bytes, not by their date.
rule train:
    input:
        cohort=LAYOUT.training_cohort("{task}", "{fold}"),
        pretrained=ancient(lambda wildcards: PLAN.pretrained(wildcards.task, here=False)),
        pretrained_here=lambda wildcards: PLAN.pretrained(wildcards.task, here=True),
    output:
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
        history=LAYOUT.history("{task}", "{fold}"),
        details=directory(LAYOUT.training_details("{task}", "{fold}")),
    log:
        LAYOUT.log("train", "{task}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("train", "{task}", "fold{fold}")
    wildcard_constraints:
        task=only([name for name in PLAN.trained if name not in (*PLAN.on_features, *PLAN.on_bags)]),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: lambda wildcards: processes(wildcards) * task(wildcards).train.gpus
    resources:
        gpu=lambda wildcards: task(wildcards).train.gpus,
        mem_mb=memory(
            4000,
            more=lambda wildcards, input: patch_training_mb(
                task(wildcards),
                CONFIG.grids[task(wildcards).grid],
                cohort_patches(input.cohort),
                weights_mb=input.size_mb,
            ),
        ),
        runtime=24 * 60,
    params:
        cfg=lambda wildcards: task(wildcards).fitting(),
        classes=CONFIG.class_names,
        seed=CONFIG.seed,
        pretrained=lambda wildcards: [FINGERPRINTS.of(str(p)) for p in PLAN.pretrained(wildcards.task, here=False)],
        code=code("train.py"),
    script:
        "../scripts/train.py"


rule reuse_model:
    input:
        weights=ancient(lambda wildcards: PLAN.model_in_use(wildcards.task, wildcards.fold) / WEIGHTS),
        description=ancient(lambda wildcards: PLAN.model_in_use(wildcards.task, wildcards.fold) / DESCRIPTION),
    output:
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
    log:
        LAYOUT.log("reuse_model", "{task}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("reuse_model", "{task}", "fold{fold}")
    wildcard_constraints:
        task=only(PLAN.reused),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(10),
    params:
        cfg=lambda wildcards: [task(wildcards).grid, task(wildcards).target.dump()],
        model=lambda wildcards: [
            FINGERPRINTS.of(str(PLAN.model_in_use(wildcards.task, wildcards.fold) / name))
            for name in (WEIGHTS, DESCRIPTION)
        ],
        code=code("reuse_model.py"),
    script:
        "../scripts/reuse_model.py"
