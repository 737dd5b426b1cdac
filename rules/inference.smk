# Predictions of slides the model has not seen, and how good they are.


# `snakemake predict`: the slides that are only to be predicted, with the models that are there.
rule predict:
    input:
        predictions=lambda wildcards: [p for name in CONFIG.tasks for p in prediction_paths(name, "predict")],
        outlines=lambda wildcards: [p for name in CONFIG.tasks for p in segmented_paths(name, "predict")],
        scores=[LAYOUT.scores(name) for name in CONFIG.tasks],


rule predict_slide:
    input:
        manifest="<results>/slides/{slide}.json",
        table=lambda wildcards: LAYOUT.table(task(wildcards).grid, wildcards.slide),
        annotation="<results>/annotations/{slide}.json",
        weights="<results>/models/{task}/fold{fold}/model.safetensors",
        description="<results>/models/{task}/fold{fold}/model.json",
    output:
        predictions="<results>/predictions/{task}/fold{fold}/{slide}.parquet",
    log:
        "<logs>/predict/{task}/fold{fold}/{slide}.log",
    benchmark:
        "<benchmarks>/predict/{task}/fold{fold}/{slide}.tsv"
    wildcard_constraints:
        task=only([name for name in CONFIG.tasks if name not in SEGMENTED]),
    conda:
        "../envs/learning.yaml"
    threads: processes
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: task(wildcards).predicting(),
        entry=lambda wildcards: entry(wildcards.slide),
        code=code("predict.py"),
    script:
        "../scripts/predict.py"


use rule predict_slide as segment_slide with:
    output:
        predictions="<results>/predictions/{task}/fold{fold}/{slide}.parquet",
        labels="<results>/predictions/{task}/fold{fold}/{slide}.labels.zarr/zarr.json",
        outlines="<results>/predictions/{task}/fold{fold}/{slide}.geojson",
    wildcard_constraints:
        task=only(SEGMENTED),


rule score:
    input:
        predictions=lambda wildcards: prediction_paths(wildcards.task, *PREDICTED),
        descriptions=lambda wildcards: [LAYOUT.model(wildcards.task, f) / "model.json" for f in folds(wildcards.task)],
    output:
        scores="<results>/scores/{task}.tsv",
    log:
        "<logs>/score/{task}.log",
    benchmark:
        "<benchmarks>/score/{task}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        aggregate=lambda wildcards: task(wildcards).predict.aggregate,
        slides=lambda wildcards: entries(wildcards.task, *PREDICTED),
        code=code("score.py"),
    script:
        "../scripts/score.py"


rule evaluate:
    input:
        predictions=lambda wildcards: prediction_paths(wildcards.task, "test"),
        descriptions=lambda wildcards: [LAYOUT.model(wildcards.task, f) / "model.json" for f in folds(wildcards.task)],
        leakage="<results>/splits/{task}.leakage.json",
    output:
        metrics="<results>/metrics/{task}.json",
        table="<results>/metrics/{task}.parquet",
        figures=report(
            directory("<results>/metrics/{task}"),
            patterns=["{figure}.png"],
            caption="report/metrics.rst",
            category="Metrics",
            subcategory="{task}",
            labels={"figure": "{figure}"},
        ),
    log:
        "<logs>/evaluate/{task}.log",
    benchmark:
        "<benchmarks>/evaluate/{task}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(30),
    params:
        kind=lambda wildcards: task(wildcards).kind.value,
        target=lambda wildcards: task(wildcards).target.dump(),
        aggregate=lambda wildcards: task(wildcards).predict.aggregate,
        slides=lambda wildcards: entries(wildcards.task, "test"),
        seed=CONFIG.seed,
        code=code("evaluate.py"),
    script:
        "../scripts/evaluate.py"
