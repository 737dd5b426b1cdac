# Origin of every output behind the catalog, the metrics and the cascades.


rule lineage:
    input:
        catalog=LAYOUT.catalog,
        metrics=[LAYOUT.metrics(name) for name in PLAN.measured],
        cascades=lambda wildcards: OUTPUTS.of_cascades(),
        cells=lambda wildcards: OUTPUTS.of_cells(),
        graphs=lambda wildcards: OUTPUTS.of_graphs(),
    output:
        lineage=LAYOUT.lineage,
    log:
        LAYOUT.log("lineage"),
    benchmark:
        LAYOUT.benchmark("lineage")
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
