# Who is trained on and who is tested on, and whether enough of the cohort is left.


rule split:
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
        roles=lambda wildcards: roles_of(ROLES[wildcards.task]),
        code=code("split.py"),
    script:
        "../scripts/split.py"


# No figure is worked out before the slides themselves were compared, and the sooner a leak is known the less time is
# lost. Models do not wait for it, or a new slide to test would train them anew: enrol compares what it enrols.
rule leakage:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in judged(ROLES[wildcards.task])],
        models=earlier_descriptions,
    output:
        record="<results>/splits/{task}.leakage.json",
    log:
        "<logs>/leakage/{task}.log",
    benchmark:
        "<benchmarks>/leakage/{task}.tsv"
    priority: 100
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        roles=lambda wildcards: roles_of(ROLES[wildcards.task], leakage.JUDGED),
        code=code("leakage.py"),
    script:
        "../scripts/leakage.py"


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
