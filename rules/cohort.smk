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


# A slide's table stands for the records it is made from. Snakemake looks for every input of a job among all jobs before
# it: tens of thousands of inputs take minutes. The rule ends a run that lost too much, so it goes before all else.
rule quarantine:
    input:
        tables=of_every_slide(partial(LAYOUT.table, FIRST_GRID)),
    output:
        entries="<results>/quarantine.json",
    log:
        "<logs>/quarantine.log",
    benchmark:
        "<benchmarks>/quarantine.tsv"
    priority: 100
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        slides=list(SLIDES),
        max_share=0.0 if CONFIG.on_bad_slide == "fail" else CONFIG.max_quarantined,
        code=code("quarantine.py"),
    script:
        "../scripts/quarantine.py"
