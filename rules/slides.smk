# Slide files to OME-Zarr stores.
from histomake.planning.object_store import slide_input


# A store is declared by its zarr.json and not as a directory(): Snakemake would write a timestamp file into the
# directory, which is hashed and served, and look for that file at every start. Before a job, Snakemake deletes only the
# zarr.json; the job then replaces the rest with a new store.
rule convert:
    input:
        slide=ancient(lambda wildcards: slide_input(storage, slide(wildcards).path)),
    output:
        manifest=LAYOUT.manifest("{slide}"),
        store=LAYOUT.store("{slide}", packed=PACKED),
    log:
        LAYOUT.log("convert", "{slide}"),
    benchmark:
        LAYOUT.benchmark("convert", "{slide}")
    wildcard_constraints:
        slide=only([s for s in SLIDES if s not in WITHOUT_FILE]) if WITHOUT_FILE else SLIDE_ID.pattern,
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 2
    resources:
        mem_mb=memory(1500, per_gb=200),
        runtime=minutes(30),
    params:
        slide=lambda wildcards: FINGERPRINTS.of(slide(wildcards).path),
        mpp=lambda wildcards: slide(wildcards).mpp,
        sha256=lambda wildcards: slide(wildcards).sha256,
        cfg=CONFIG.convert.dump(),
        code=code("convert.py"),
    script:
        "../scripts/convert.py"
