# Slide files to OME-Zarr stores. The manifest is the tracked file; the store lies beside it.


rule convert:
    input:
        slide=ancient(slide_path),
    output:
        manifest="<results>/slides/{slide}.json",
    log:
        "<logs>/convert/{slide}.log",
    benchmark:
        "<benchmarks>/convert/{slide}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 2
    resources:
        mem_mb=memory(1500, per_gb=200),
        runtime=minutes(30),
    params:
        slide=fingerprint,
        mpp=lambda wildcards: slide(wildcards).mpp,
        sha256=lambda wildcards: slide(wildcards).sha256,
        cfg=CONFIG.convert.dump(),
        code=code("convert.py"),
    script:
        "../scripts/convert.py"
