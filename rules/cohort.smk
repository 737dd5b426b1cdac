# Who is trained on and who is tested on, and whether enough of the cohort is left.


rule split:
    input:
        manifests=of_every_slide(LAYOUT.manifest),
        models=untrained_descriptions,
    output:
        split="<results>/splits/{task}.parquet",
    log:
        "<logs>/split/{task}.log",
    benchmark:
        "<benchmarks>/split/{task}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        roles=lambda wildcards: [[a.fold, a.slide_id, a.patient_id, a.role] for a in ROLES[wildcards.task]],
        code=code("split.py"),
    script:
        "../scripts/split.py"


rule quarantine:
    input:
        manifests=of_every_slide(LAYOUT.manifest),
        annotations=of_every_slide(LAYOUT.annotation),
        tissue=of_every_slide(LAYOUT.tissue),
        quality=of_every_slide(LAYOUT.quality),
    output:
        entries="<results>/quarantine.json",
    log:
        "<logs>/quarantine.log",
    benchmark:
        "<benchmarks>/quarantine.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        max_share=0.0 if CONFIG.on_bad_slide == "fail" else CONFIG.max_quarantined,
        code=code("quarantine.py"),
    script:
        "../scripts/quarantine.py"
