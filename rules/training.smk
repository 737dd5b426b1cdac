# Models, one per task and fold, from patches read on the fly.


# The split and the quarantine record must exist and have passed their gates, yet a new slide that is only to be
# predicted must not train anew: which slides a model is fitted on is a param, and their tables are inputs.
rule train:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in fitted_slides(wildcards)],
        tables=lambda wildcards: [LAYOUT.table(task(wildcards).grid, s) for s in fitted_slides(wildcards)],
        annotations=lambda wildcards: [LAYOUT.annotation(s) for s in fitted_slides(wildcards)],
        split=ancient("<results>/splits/{task}.parquet"),
        quarantine=ancient("<results>/quarantine.json"),
    output:
        weights="<results>/models/{task}/fold{fold}/model.safetensors",
        description="<results>/models/{task}/fold{fold}/model.json",
        history="<results>/models/{task}/fold{fold}/history.csv",
    params:
        cfg=lambda wildcards: task(wildcards).fitting(),
        classes=CONFIG.class_names,
        seed=CONFIG.seed,
        cohort=fitted,
        code=code("train.py"),
    log:
        "<logs>/train/{task}/fold{fold}.log",
    benchmark:
        "<benchmarks>/train/{task}/fold{fold}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 2
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=minutes(24 * 60),
    script:
        "../scripts/train.py"
