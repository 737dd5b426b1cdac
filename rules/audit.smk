# What a run is asked for, where each result came from, and what is said when the run ends.


rule lineage:
    input:
        catalog="<results>/catalog.duckdb",
        metrics=collect("<results>/metrics/{task}.json", task=MEASURED),
        cascades=lambda wildcards: radhical_outputs(),
    output:
        lineage="<results>/audit/lineage.parquet",
    log:
        "<logs>/lineage.log",
    benchmark:
        "<benchmarks>/lineage.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        code=code("lineage.py"),
    script:
        "../scripts/lineage.py"


# Imported where they are needed: every job of a cluster reads these files too, and is to start quickly.
onstart:
    from histomake.audit import runs

    print(runs.preflight(LAYOUT, SLIDES, FINGERPRINTS), file=sys.stderr)


onsuccess:
    from histomake.audit import runs

    remember_settled()
    runs.finish(LAYOUT, CONFIG, snakemake_logs=log, succeeded=True)


onerror:
    from histomake.audit import runs

    mark_failed()
    runs.finish(LAYOUT, CONFIG, snakemake_logs=log, succeeded=False)
