# Where tissue is, and where it is spoilt.


rule presegment:
    input:
        manifest="<results>/slides/{slide}.json",
    output:
        record="<results>/tissue/{slide}.json",
        mask="<results>/tissue/{slide}.png",
    params:
        cfg=CONFIG.tissue.dump(),
        code=code("presegment.py"),
    log:
        "<logs>/presegment/{slide}.log",
    benchmark:
        "<benchmarks>/presegment/{slide}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=gigapixel_memory(2000, 0),
        runtime=minutes(10),
    script:
        "../scripts/presegment.py"


rule quality:
    input:
        manifest="<results>/slides/{slide}.json",
        tissue="<results>/tissue/{slide}.json",
        mask="<results>/tissue/{slide}.png",
    output:
        record="<results>/quality/{slide}.json",
        map="<results>/quality/{slide}.png",
    params:
        cfg=CONFIG.quality.dump(),
        code=code("quality.py"),
    log:
        "<logs>/quality/{slide}.log",
    benchmark:
        "<benchmarks>/quality/{slide}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=gigapixel_memory(2000, 0),
        runtime=minutes(10),
    script:
        "../scripts/quality.py"
