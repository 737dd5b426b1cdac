# Models, one per task and fold, from patches read on the fly, or taken over.


# The slides a model is made with. One small file stands for their thousands, so that the jobs behind the model stay
# cheap to plan. Who is enrolled is a param, for a slide that is only to be predicted must not train anew. No input here
# may be ancient() and another job's: when that job runs, Snakemake looks for no other reason to run those behind it,
# not even for settings that changed.
rule enrol:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in fitted_slides(wildcards)],
        tables=lambda wildcards: [LAYOUT.table(task(wildcards).grid, s) for s in fitted_slides(wildcards)],
        annotations=lambda wildcards: [LAYOUT.annotation(s) for s in fitted_slides(wildcards)],
    output:
        cohort="<results>/models/{task}/fold{fold}.cohort.json",
    log:
        "<logs>/enrol/{task}/fold{fold}.log",
    benchmark:
        "<benchmarks>/enrol/{task}/fold{fold}.tsv"
    wildcard_constraints:
        task=only(TRAINED),
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        slides=fitted,
        code=code("enrol.py"),
    script:
        "../scripts/enrol.py"


# Another attempt goes on where the one before was stopped, so it needs no more time: the minutes do not double.
rule train:
    input:
        cohort="<results>/models/{task}/fold{fold}.cohort.json",
        pretrained=ancient(pretrained_elsewhere),
        pretrained_here=pretrained_here,
    output:
        weights="<results>/models/{task}/fold{fold}/model.safetensors",
        description="<results>/models/{task}/fold{fold}/model.json",
        history="<results>/models/{task}/fold{fold}/history.csv",
        details=directory("<results>/models/{task}/fold{fold}/training"),
    log:
        "<logs>/train/{task}/fold{fold}.log",
    benchmark:
        "<benchmarks>/train/{task}/fold{fold}.tsv"
    wildcard_constraints:
        task=only(TRAINED),
    conda:
        "../envs/learning.yaml"
    threads: lambda wildcards: processes(wildcards) * task(wildcards).train.gpus
    resources:
        gpu=lambda wildcards: task(wildcards).train.gpus,
        mem_mb=memory(16000),
        runtime=24 * 60,
    params:
        cfg=lambda wildcards: task(wildcards).fitting(),
        classes=CONFIG.class_names,
        seed=CONFIG.seed,
        pretrained=lambda wildcards: [FINGERPRINTS.of(path) for path in [pretrained_elsewhere(wildcards)] if path],
        code=code("train.py"),
    script:
        "../scripts/train.py"


rule adopt:
    input:
        weights=ancient(adopted("model.safetensors")),
        description=ancient(adopted("model.json")),
    output:
        weights="<results>/models/{task}/fold{fold}/model.safetensors",
        description="<results>/models/{task}/fold{fold}/model.json",
    log:
        "<logs>/adopt/{task}/fold{fold}.log",
    benchmark:
        "<benchmarks>/adopt/{task}/fold{fold}.tsv"
    wildcard_constraints:
        task=only(ADOPTED),
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(10),
    params:
        cfg=lambda wildcards: [task(wildcards).grid, task(wildcards).target.dump()],
        model=lambda wildcards: [
            FINGERPRINTS.of(str(adopted(name)(wildcards))) for name in ("model.safetensors", "model.json")
        ],
        code=code("adopt.py"),
    script:
        "../scripts/adopt.py"
