# RADHicaL: a network per magnification; thresholds from validation patients; what the low ones leave to the high ones.
include: "radhical_common.smk"


wildcard_constraints:
    cascade="|".join(CONFIG.radhical) or "no-cascade",
    patch_cascade="|".join(CONFIG.patch_cascades) or "no-cascade",
    level=r"\d+",


rule radhical:
    input:
        lambda wildcards: radhical_outputs(),


rule radhical_split:
    output:
        split=f"{CASCADE}/split.parquet",
    log:
        "<logs>/radhical_split/{cascade}.log",
    benchmark:
        "<benchmarks>/radhical_split/{cascade}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        roles=lambda wildcards: roles_of(CASCADE_ROLES[wildcards.cascade]),
        code=code("split.py"),
    script:
        "../scripts/split.py"


rule radhical_leakage:
    input:
        manifests=cascade_manifests(*leakage.JUDGED),
        models=[],
    output:
        record=f"{CASCADE}/leakage.json",
    log:
        "<logs>/radhical_leakage/{cascade}.log",
    benchmark:
        "<benchmarks>/radhical_leakage/{cascade}.tsv"
    priority: 100
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        roles=lambda wildcards: roles_of(CASCADE_ROLES[wildcards.cascade], leakage.JUDGED),
        code=code("leakage.py"),
    script:
        "../scripts/leakage.py"


rule radhical_train:
    input:
        manifests=cascade_manifests("train"),
        stores=cascade_stores("train"),
        annotations=ancient(cascade_annotations("train")),
    output:
        weights=f"{CASCADE}/level{{level}}/model.safetensors",
        description=f"{CASCADE}/level{{level}}/model.json",
        history=f"{CASCADE}/level{{level}}/history.csv",
        points=f"{CASCADE}/level{{level}}/points.parquet",
    log:
        "<logs>/radhical_train/{cascade}/level{level}.log",
    benchmark:
        "<benchmarks>/radhical_train/{cascade}/level{level}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(240),
    params:
        cfg=lambda wildcards: cascade(wildcards).fitting(),
        annotations=CONFIG.annotations.dump(),
        cohort=cascade_cohort("train"),
        seed=CONFIG.seed,
        code=code("radhical_train.py"),
    script:
        "../scripts/radhical_train.py"


rule radhical_maps:
    input:
        manifest="<results>/slides/{slide}.json",
        store=STORE,
        weights=cascade_weights,
    output:
        maps=f"{CASCADE}/validation/{{slide}}.npz",
    log:
        "<logs>/radhical_maps/{cascade}/{slide}.log",
    benchmark:
        "<benchmarks>/radhical_maps/{cascade}/{slide}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: cascade(wildcards).fitting(),
        block=lambda wildcards: cascade(wildcards).block_px,
        code=code("radhical_maps.py"),
    script:
        "../scripts/radhical_maps.py"


rule radhical_search:
    input:
        maps=in_cascade("validation/{slide}.npz", "val"),
        manifests=cascade_manifests("val"),
        annotations=ancient(cascade_annotations("val")),
    output:
        thresholds=f"{CASCADE}/thresholds.json",
        trials=f"{CASCADE}/search.parquet",
        front=report(
            f"{CASCADE}/pareto.png",
            caption="report/radhical_pareto.rst",
            category="RADHicaL",
            labels={"cascade": "{cascade}", "figure": "thresholds: cost against F"},
        ),
    log:
        "<logs>/radhical_search/{cascade}.log",
    benchmark:
        "<benchmarks>/radhical_search/{cascade}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 2
    resources:
        mem_mb=memory(8000),
        runtime=minutes(120),
    params:
        cfg=lambda wildcards: cascade(wildcards).dump(),
        annotations=CONFIG.annotations.dump(),
        cohort=cascade_cohort("val"),
        test=lambda wildcards: sorted({SLIDES[s].patient_id for s in cascade_slides(wildcards.cascade, "test")}),
        seed=CONFIG.seed,
        code=code("radhical_search.py"),
    script:
        "../scripts/radhical_search.py"


rule radhical_segment:
    input:
        manifest="<results>/slides/{slide}.json",
        store=STORE,
        weights=cascade_weights,
        thresholds=f"{CASCADE}/thresholds.json",
    output:
        record=f"{CASCADE}/slides/{{slide}}.json",
        store=f"{CASCADE}/slides/{{slide}}.zarr/zarr.json",
        geojson=f"{CASCADE}/slides/{{slide}}.geojson",
        levels=report(
            f"{CASCADE}/levels/{{slide}}.png",
            caption="report/radhical_levels.rst",
            category="RADHicaL",
            labels={"cascade": "{cascade}", "figure": "levels of {slide}"},
        ),
    log:
        "<logs>/radhical_segment/{cascade}/{slide}.log",
    benchmark:
        "<benchmarks>/radhical_segment/{cascade}/{slide}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=memory(6000),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: cascade(wildcards).fitting(),
        block=lambda wildcards: cascade(wildcards).block_px,
        code=code("radhical_segment.py"),
    script:
        "../scripts/radhical_segment.py"


# Times are compared with each other, so one job takes them all, and on a small machine every core.
rule radhical_compare:
    input:
        manifests=cascade_manifests("test"),
        tissue=lambda wildcards: [LAYOUT.tissue(s) for s in cascade_slides(wildcards.cascade, "test")],
        masks=lambda wildcards: [
            LAYOUT.tissue(s).with_suffix(".png") for s in cascade_slides(wildcards.cascade, "test")
        ],
        annotations=ancient(cascade_annotations("test")),
        weights=cascade_weights,
        thresholds=f"{CASCADE}/thresholds.json",
        leakage=f"{CASCADE}/leakage.json",
    output:
        metrics=f"{CASCADE}/metrics.json",
        slides=f"{CASCADE}/metrics.parquet",
        table=f"{CASCADE}/table.txt",
        bars=report(
            f"{CASCADE}/bars.html",
            caption="report/radhical_bars.rst",
            category="RADHicaL",
            labels={"cascade": "{cascade}", "figure": "measured against the bars"},
        ),
    log:
        "<logs>/radhical_compare/{cascade}.log",
    benchmark:
        "<benchmarks>/radhical_compare/{cascade}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory(12000),
        runtime=minutes(120),
    params:
        cfg=lambda wildcards: cascade(wildcards).dump(),
        annotations=CONFIG.annotations.dump(),
        cohort=cascade_cohort("test"),
        seed=CONFIG.seed,
        code=code("radhical_compare.py"),
    script:
        "../scripts/radhical_compare.py"


rule patch_cascade:
    input:
        manifest="<results>/slides/{slide}.json",
        tables=stage_paths(lambda wildcards, task: LAYOUT.table(CONFIG.tasks[task].grid, wildcards.slide)),
        weights=stage_paths(lambda wildcards, task: LAYOUT.model(task, wildcards.fold) / "model.safetensors"),
        descriptions=stage_paths(lambda wildcards, task: LAYOUT.model(task, wildcards.fold) / "model.json"),
    output:
        predictions="<results>/cascades/{patch_cascade}/fold{fold}/{slide}.parquet",
        record="<results>/cascades/{patch_cascade}/fold{fold}/{slide}.json",
    log:
        "<logs>/patch_cascade/{patch_cascade}/fold{fold}/{slide}.log",
    benchmark:
        "<benchmarks>/patch_cascade/{patch_cascade}/fold{fold}/{slide}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: patch_cascade(wildcards).dump(),
        batch=lambda wildcards: CONFIG.tasks[patch_cascade(wildcards).stages[-1].task].predict.batch,
        entry=lambda wildcards: entry(wildcards.slide),
        code=code("patch_cascade.py"),
    script:
        "../scripts/patch_cascade.py"
