# Origin of every output behind the catalog, the metrics, the cascades and the graphs.


rule lineage:
    input:
        catalog=LAYOUT.catalog,
        metrics=[LAYOUT.metrics(name) for name in PLAN.measured],
        cascades=lambda wildcards: OUTPUTS.done_by_cascades(),
        graphs=lambda wildcards: OUTPUTS.done_graphs(),
    output:
        lineage=LAYOUT.lineage,
    log:
        LAYOUT.log("lineage"),
    benchmark:
        LAYOUT.benchmark("lineage")
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        code=code("lineage.py"),
    script:
        "../scripts/lineage.py"
