# Slide files to OME-Zarr stores.


# A store is declared by its zarr.json and not as a directory(): Snakemake would write a timestamp file into a directory,
# which is hashed and served, and look for it at every start. Before a job Snakemake deletes that one file; the job then
# puts a whole new store in the place of what is left.


rule convert:
    input:
        slide=ancient(slide_path),
    output:
        manifest="<results>/slides/{slide}.json",
        store=STORE,
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
