# Predictions of slides, scores of slides and patients, and metrics on the test slides.


# `snakemake predict`: the slides that are only to be predicted, with existing models.
rule predict:
    input:
        predictions=lambda wildcards: [path for name in CONFIG.tasks for path in OUTPUTS.predictions(name, "predict")],
        cascades=lambda wildcards: OUTPUTS.cascades.to_predict(),
        outlines=lambda wildcards: OUTPUTS.segmentations("predict"),
        scores=[LAYOUT.scores(name) for name in CONFIG.tasks],


# With the priority, the predictions of a finished fold run before the trainings of other folds.
rule predict_slide:
    input:
        manifest=lambda wildcards: OUTPUTS.transfers.manifest(wildcards.task, wildcards.slide),
        virtual=lambda wildcards: OUTPUTS.transfers.virtual_stores(wildcards.task, wildcards.slide),
        table=lambda wildcards: LAYOUT.table(task(wildcards).grid, wildcards.slide),
        annotation=LAYOUT.annotation("{slide}"),
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
    output:
        predictions=LAYOUT.prediction("{task}", "{fold}", "{slide}"),
    log:
        LAYOUT.log("predict_slide", "{task}", "fold{fold}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("predict_slide", "{task}", "fold{fold}", "{slide}")
    wildcard_constraints:
        task=only([name for name in CONFIG.tasks if name not in (*PLAN.segmented, *PLAN.on_features, *PLAN.on_bags)]),
    priority: 50
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: processes
    resources:
        gpu=1,
        mem_mb=memory(4000, batch=predicted_at_once),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: task(wildcards).predicting(),
        entry=lambda wildcards: PLAN.entry(wildcards.slide),
        code=code("predict_slide.py"),
    script:
        "../scripts/predict_slide.py"


use rule predict_slide as segment_slide with:
    output:
        predictions=LAYOUT.prediction("{task}", "{fold}", "{slide}"),
        labels=LAYOUT.segmentation("{task}", "{fold}", "{slide}"),
        outlines=LAYOUT.segmented_outlines("{task}", "{fold}", "{slide}"),
    wildcard_constraints:
        task=only(PLAN.segmented),


rule score:
    input:
        predictions=lambda wildcards: OUTPUTS.predictions(wildcards.task),
        descriptions=lambda wildcards: [LAYOUT.description(wildcards.task, f) for f in PLAN.folds(wildcards.task)],
    output:
        scores=LAYOUT.scores("{task}"),
        damage=LAYOUT.damage("{task}"),
    log:
        LAYOUT.log("score", "{task}"),
    benchmark:
        LAYOUT.benchmark("score", "{task}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        aggregate=lambda wildcards: task(wildcards).predict.aggregate,
        slides=lambda wildcards: [PLAN.entry(slide) for _, slide in PLAN.predicted(wildcards.task)],
        validated=lambda wildcards: PLAN.validated(wildcards.task),
        max_share=CONFIG.max_lost,
        code=code("score.py"),
    script:
        "../scripts/score.py"


rule evaluate:
    input:
        predictions=lambda wildcards: OUTPUTS.predictions(wildcards.task, "test"),
        validation=lambda wildcards: OUTPUTS.chosen_on(wildcards.task),
        permuted=lambda wildcards: OUTPUTS.permuted(wildcards.task),
        descriptions=lambda wildcards: [LAYOUT.description(wildcards.task, f) for f in PLAN.folds(wildcards.task)],
        leakage=LAYOUT.leakage("{task}"),
    output:
        metrics=LAYOUT.metrics("{task}"),
        table=LAYOUT.metrics_table("{task}"),
        slides=LAYOUT.slide_metrics("{task}"),
        figures=report(
            directory(LAYOUT.metrics_figures("{task}")),
            patterns=["{figure}.png"],
            caption="report/metrics.rst",
            category="Metrics",
            subcategory="{task}",
            labels={"figure": "{figure}"},
        ),
    log:
        LAYOUT.log("evaluate", "{task}"),
    benchmark:
        LAYOUT.benchmark("evaluate", "{task}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(30),
    params:
        kind=lambda wildcards: task(wildcards).kind.value,
        level=lambda wildcards: task(wildcards).level,
        target=lambda wildcards: task(wildcards).target.dump(),
        pooling=lambda wildcards: task(wildcards).predict.dump("aggregate", "patient_truth"),
        statistics=lambda wildcards: task(wildcards).evaluate.dump(),
        horizon=lambda wildcards: task(wildcards).predict.horizon,
        slides=lambda wildcards: PLAN.entries(wildcards.task, "test"),
        subgroups=lambda wildcards: PLAN.subgroups(wildcards.task),
        validation=lambda wildcards: PLAN.chosen_on(wildcards.task),
        seed=CONFIG.seed,
        code=code("evaluate.py"),
    script:
        "../scripts/evaluate.py"


# Two tasks with the same target, on the test slides that they have in common.
rule compare:
    input:
        first_predictions=lambda wildcards: OUTPUTS.predictions(wildcards.first, "test"),
        second_predictions=lambda wildcards: OUTPUTS.predictions(wildcards.second, "test"),
        first_descriptions=lambda wildcards: [
            LAYOUT.description(wildcards.first, f) for f in PLAN.folds(wildcards.first)
        ],
        second_descriptions=lambda wildcards: [
            LAYOUT.description(wildcards.second, f) for f in PLAN.folds(wildcards.second)
        ],
        leakage=lambda wildcards: [LAYOUT.leakage(wildcards.first), LAYOUT.leakage(wildcards.second)],
    output:
        record=LAYOUT.comparison("{first}", "{second}"),
    log:
        LAYOUT.log("compare", "{first}", "{second}"),
    benchmark:
        LAYOUT.benchmark("compare", "{first}", "{second}")
    wildcard_constraints:
        first=only(CONFIG.tasks),
        second=only(CONFIG.tasks),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(30),
    params:
        kind=lambda wildcards: CONFIG.tasks[wildcards.first].kind.value,
        target=lambda wildcards: CONFIG.tasks[wildcards.first].target.dump(),
        patient_truth=lambda wildcards: CONFIG.tasks[wildcards.first].predict.patient_truth,
        aggregates=lambda wildcards: [
            CONFIG.tasks[name].predict.aggregate for name in (wildcards.first, wildcards.second)
        ],
        slides=lambda wildcards: [PLAN.entries(name, "test") for name in (wildcards.first, wildcards.second)],
        seed=CONFIG.seed,
        code=code("compare.py"),
    script:
        "../scripts/compare.py"
