# Cascades of patch classifiers: coarse stages decide which patches of finer grids are read. Thresholds are searched on
# the validation slides of each fold.
PATCHES = LAYOUT.patch_cascade("{patch_cascade}")


# `snakemake all_cascades`: everything of all cascades, of nuclei too.
rule all_cascades:
    input:
        lambda wildcards: OUTPUTS.of_cascades(),


rule cascade_search:
    input:
        predictions=lambda wildcards: OUTPUTS.cascades.validation_predictions(wildcards.patch_cascade, wildcards.fold),
        tables=lambda wildcards: OUTPUTS.cascades.tables(
            wildcards.patch_cascade, OUTPUTS.cascades.with_role(wildcards.patch_cascade, wildcards.fold, "val")
        ),
    output:
        thresholds=PATCHES.thresholds("{fold}"),
        trials=PATCHES.trials("{fold}"),
        front=report(
            PATCHES.pareto_front("{fold}"),
            caption="report/cascade_pareto.rst",
            category="Cascades",
            labels={"cascade": "{patch_cascade}", "figure": "thresholds of fold {fold}: cost against AUROC"},
        ),
    log:
        LAYOUT.log("cascade_search", "{patch_cascade}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("cascade_search", "{patch_cascade}", "fold{fold}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        mem_mb=memory(8000),
        runtime=minutes(120),
    params:
        cfg=lambda wildcards: CONFIG.cascades[wildcards.patch_cascade].dump(),
        tasks=lambda wildcards: OUTPUTS.cascades.learned(wildcards.patch_cascade),
        slides=lambda wildcards: [
            PLAN.entry(s) for s in OUTPUTS.cascades.with_role(wildcards.patch_cascade, wildcards.fold, "val")
        ],
        seed=CONFIG.seed,
        code=code("cascade_search.py"),
    script:
        "../scripts/cascade_search.py"


rule cascade_predict:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        tables=lambda wildcards: OUTPUTS.cascades.tables(wildcards.patch_cascade, [wildcards.slide]),
        weights=lambda wildcards: OUTPUTS.cascades.models(wildcards.patch_cascade, wildcards.fold),
        descriptions=lambda wildcards: OUTPUTS.cascades.descriptions(wildcards.patch_cascade, wildcards.fold),
        encoders=ancient(lambda wildcards: OUTPUTS.cascades.encoder_files(wildcards.patch_cascade)),
        thresholds=PATCHES.thresholds("{fold}"),
    output:
        predictions=PATCHES.prediction("{fold}", "{slide}"),
        record=PATCHES.record("{fold}", "{slide}"),
        levels=identifying(
            PATCHES.levels_view("{fold}", "{slide}"),
            caption="report/cascade_levels.rst",
            category="Cascades",
            labels={"cascade": "{patch_cascade}", "figure": "stages of {slide}, fold {fold}"},
        ),
    log:
        LAYOUT.log("cascade_predict", "{patch_cascade}", "fold{fold}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("cascade_predict", "{patch_cascade}", "fold{fold}", "{slide}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(
            4000, per_gb=3000, batch=lambda wildcards: OUTPUTS.cascades.pixels_at_once(wildcards.patch_cascade)
        ),
        runtime=minutes(60),
    params:
        use=lambda wildcards: OUTPUTS.cascades.use(wildcards.patch_cascade),
        encoders=lambda wildcards: OUTPUTS.cascades.encoders(wildcards.patch_cascade),
        encoder_files=lambda wildcards: [
            FINGERPRINTS.of(str(p)) for p in OUTPUTS.cascades.encoder_files(wildcards.patch_cascade)
        ],
        batches=lambda wildcards: OUTPUTS.cascades.batches(wildcards.patch_cascade),
        entry=lambda wildcards: PLAN.entry(wildcards.slide),
        code=code("cascade_predict.py"),
    script:
        "../scripts/cascade_predict.py"


# Run times are compared with each other, so one job measures all of them.
rule cascade_compare:
    input:
        predictions=lambda wildcards: OUTPUTS.cascades.dense_predictions(
            wildcards.patch_cascade, OUTPUTS.cascades.tested(wildcards.patch_cascade)
        ),
        tables=lambda wildcards: OUTPUTS.cascades.tables(
            wildcards.patch_cascade, [slide for _, slide in OUTPUTS.cascades.tested(wildcards.patch_cascade)]
        ),
        deployed=lambda wildcards: [
            LAYOUT.patch_cascade(wildcards.patch_cascade).prediction(*place)
            for place in OUTPUTS.cascades.tested(wildcards.patch_cascade)
        ],
        encoders=ancient(lambda wildcards: OUTPUTS.cascades.encoder_files(wildcards.patch_cascade)),
        leakage=lambda wildcards: [LAYOUT.leakage(task) for task in OUTPUTS.cascades.stages(wildcards.patch_cascade)],
        thresholds=lambda wildcards: [
            LAYOUT.patch_cascade(wildcards.patch_cascade).thresholds(fold)
            for fold in OUTPUTS.cascades.folds(wildcards.patch_cascade)
        ],
    output:
        metrics=PATCHES.metrics,
        slides=PATCHES.metrics_table,
        front=report(
            PATCHES.front,
            caption="report/cascade_front.rst",
            category="Cascades",
            labels={"cascade": "{patch_cascade}", "figure": "seconds against AUROC"},
        ),
    log:
        LAYOUT.log("cascade_compare", "{patch_cascade}"),
    benchmark:
        LAYOUT.benchmark("cascade_compare", "{patch_cascade}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(
            6000, per_gb=3000, batch=lambda wildcards: OUTPUTS.cascades.pixels_at_once(wildcards.patch_cascade)
        ),
        runtime=minutes(240),
    params:
        cfg=lambda wildcards: CONFIG.cascades[wildcards.patch_cascade].dump(),
        tasks=lambda wildcards: OUTPUTS.cascades.learned(wildcards.patch_cascade),
        use=lambda wildcards: OUTPUTS.cascades.use(wildcards.patch_cascade),
        encoders=lambda wildcards: OUTPUTS.cascades.encoders(wildcards.patch_cascade),
        encoder_files=lambda wildcards: [
            FINGERPRINTS.of(str(p)) for p in OUTPUTS.cascades.encoder_files(wildcards.patch_cascade)
        ],
        batches=lambda wildcards: OUTPUTS.cascades.batches(wildcards.patch_cascade),
        slides=lambda wildcards: [
            [fold, PLAN.entry(slide)] for fold, slide in OUTPUTS.cascades.tested(wildcards.patch_cascade)
        ],
        seed=CONFIG.seed,
        code=code("cascade_compare.py"),
    script:
        "../scripts/cascade_compare.py"
