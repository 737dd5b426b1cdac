# What a run is asked for, where each result came from, and what is said when the run ends.


rule lineage:
    input:
        catalog="<results>/catalog.duckdb",
        metrics=collect("<results>/metrics/{task}.json", task=MEASURED),
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
    from histomake import runs

    print(runs.preflight(LAYOUT, SLIDES, FINGERPRINTS), file=sys.stderr)


onsuccess:
    from histomake import runs

    remember_settled()
    runs.finish(LAYOUT, CONFIG, snakemake_logs=log, succeeded=True)


# Snakemake removes what a failed job made before, and yet notes the new settings as those it was made with. Where results
# of the old settings are still there behind it, the next run would find nothing to do.
def mark_failed():
    """Have the next run find other settings at every job that did not end and whose outputs are gone."""
    records = workflow.persistence
    for job in workflow.dag.needrun_jobs():
        if all(map(os.path.exists, job.output)):
            continue
        for key in map(records._get_key, job.output):
            if record := records._read_record(key):
                record.params = ["did not end"]
                records._write_record(key, record)


onerror:
    from histomake import runs

    mark_failed()
    runs.finish(LAYOUT, CONFIG, snakemake_logs=log, succeeded=False)
