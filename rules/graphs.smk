# Slides as graphs of patches, cells or regions.


# `snakemake all_graphs`: the graphs of all names under graphs.
rule all_graphs:
    input:
        lambda wildcards: OUTPUTS.of_graphs(),


rule build_graph:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        table=lambda wildcards: PLAN.graph_files(wildcards.graph, wildcards.slide)["table"],
        features=lambda wildcards: PLAN.graph_files(wildcards.graph, wildcards.slide)["features"],
        scores=lambda wildcards: PLAN.graph_files(wildcards.graph, wildcards.slide)["scores"],
        cells=lambda wildcards: PLAN.graph_files(wildcards.graph, wildcards.slide)["cells"],
        labels=lambda wildcards: PLAN.graph_files(wildcards.graph, wildcards.slide)["labels"],
    output:
        graph=LAYOUT.graph("{graph}", "{slide}"),
        statistics=LAYOUT.graph_statistics("{graph}", "{slide}"),
    log:
        LAYOUT.log("build_graph", "{graph}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("build_graph", "{graph}", "{slide}")
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        cfg=lambda wildcards: CONFIG.graphs[wildcards.graph].dump(),
        class_names=lambda wildcards: CONFIG.graph_classes(wildcards.graph),
        seed=CONFIG.seed,
        code=code("build_graph.py"),
    script:
        "../scripts/build_graph.py"
