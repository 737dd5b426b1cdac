# Features of every kept patch, or of chosen ones, by encoders whose weights are not trained.
from histomake.planning.choice_plan import ChoicePlan
from histomake.planning.network_memory import cohort_patches, head_training_mb

CHOICES = ChoicePlan(PLAN)


# One job per slide and group of encoders, so that patches are decoded once for all encoders of the group. A job also
# encodes the next small slides whose patch tables exist, so tables of other slides have priority.
rule features:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        table=lambda wildcards: LAYOUT.table(PLAN.group_grid(wildcards.group), wildcards.slide),
        weights=ancient(lambda wildcards: PLAN.encoder_files(wildcards.group)),
        models=lambda wildcards: PLAN.encoder_models(wildcards.group),
        imported=ancient(lambda wildcards: PLAN.imported_files(wildcards.group, wildcards.slide)),
        coarse_table=lambda wildcards: CHOICES.tables(wildcards.group, wildcards.slide),
        scores=lambda wildcards: CHOICES.predictions(wildcards.group, wildcards.slide),
        choosers=lambda wildcards: CHOICES.descriptions(wildcards.group, wildcards.slide),
    output:
        features=LAYOUT.features("{group}", "{slide}"),
    log:
        LAYOUT.log("features", "{group}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("features", "{group}", "{slide}")
    wildcard_constraints:
        group=only(CONFIG.encoder_groups),
    priority: -1
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 8
    resources:
        gpu=1,
        # Weights are read and converted before they are moved. 1 byte per pixel: 8 KB of vectors for a patch of 90 px.
        mem_mb=memory(
            4000,
            per_gb=2000,
            pixel_bytes=1,
            mpp=lambda wildcards: CONFIG.grids[PLAN.group_grid(wildcards.group)].mpp,
            batch=lambda wildcards: batch_pixels(
                max(CONFIG.encoders[name].batch for name in CONFIG.encoder_groups[wildcards.group]),
                CONFIG.grids[PLAN.group_grid(wildcards.group)].size,
            ),
        ),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: PLAN.encoder_settings(wildcards.group),
        weights=lambda wildcards: [FINGERPRINTS.of(str(p)) for p in PLAN.encoder_files(wildcards.group)],
        models=lambda wildcards: PLAN.encoder_folders(wildcards.group),
        imported=lambda wildcards: [
            FINGERPRINTS.of(str(p)) for p in PLAN.imported_files(wildcards.group, wildcards.slide)
        ],
        folds=lambda wildcards: CHOICES.folds(wildcards.group, wildcards.slide),
        code=code("features.py"),
    script:
        "../scripts/features.py"


# The digests of the features are in the cohort file, as those of all other files of the slides.
rule train_head:
    input:
        cohort=LAYOUT.training_cohort("{task}", "{fold}"),
    output:
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
        history=LAYOUT.history("{task}", "{fold}"),
        details=directory(LAYOUT.training_details("{task}", "{fold}")),
    log:
        LAYOUT.log("train_head", "{task}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("train_head", "{task}", "fold{fold}")
    wildcard_constraints:
        task=only([name for name in PLAN.trained if name in PLAN.on_patch_features]),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        mem_mb=memory(
            3000, more=lambda wildcards, input: head_training_mb(task(wildcards), cohort_patches(input.cohort))
        ),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: task(wildcards).fitting(),
        group=lambda wildcards: PLAN.feature_group(wildcards.task),
        column=lambda wildcards: PLAN.feature_column(wildcards.task, wildcards.fold),
        seed=CONFIG.seed,
        code=code("train_head.py"),
    script:
        "../scripts/train_head.py"


rule predict_features:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        table=lambda wildcards: LAYOUT.table(task(wildcards).grid, wildcards.slide),
        annotation=LAYOUT.annotation("{slide}"),
        features=lambda wildcards: LAYOUT.features(PLAN.feature_group(wildcards.task), wildcards.slide),
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
    output:
        predictions=LAYOUT.prediction("{task}", "{fold}", "{slide}"),
    log:
        LAYOUT.log("predict_features", "{task}", "fold{fold}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("predict_features", "{task}", "fold{fold}", "{slide}")
    wildcard_constraints:
        task=only(PLAN.on_patch_features),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(15),
    params:
        cfg=lambda wildcards: task(wildcards).predicting(),
        entry=lambda wildcards: PLAN.entry(wildcards.slide),
        code=code("predict_features.py"),
    script:
        "../scripts/predict_features.py"
