# Where tissue is, and where it is spoilt.


# Every rule that reads pixels needs the store. This one, which is behind them all, asks for it, so a lost store is made
# again; the others name the manifest alone, for every further input makes a large cohort slower to plan.
rule presegment:
    input:
        manifest="<results>/slides/{slide}.json",
        store=STORE,
        model=TISSUE_MODEL,
    output:
        record="<results>/tissue/{slide}.json",
        mask="<results>/tissue/{slide}.png",
    log:
        "<logs>/presegment/{slide}.log",
    benchmark:
        "<benchmarks>/presegment/{slide}.tsv"
    conda:
        "../envs/learning.yaml" if TISSUE_MODEL else "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        cfg=CONFIG.tissue.dump(),
        code=code(PRESEGMENT),
    script:
        f"../scripts/{PRESEGMENT}"


rule quality:
    input:
        manifest="<results>/slides/{slide}.json",
        tissue="<results>/tissue/{slide}.json",
        mask="<results>/tissue/{slide}.png",
    output:
        record="<results>/quality/{slide}.json",
        map="<results>/quality/{slide}.png",
    log:
        "<logs>/quality/{slide}.log",
    benchmark:
        "<benchmarks>/quality/{slide}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        cfg=CONFIG.quality.dump(),
        code=code("quality.py"),
    script:
        "../scripts/quality.py"
