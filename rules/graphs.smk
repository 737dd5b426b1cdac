# Slides as graphs of patches, cells or regions.


# `snakemake all_graphs`: the graphs of all names under graphs.
rule all_graphs:
    input:
        lambda wildcards: OUTPUTS.of_graphs(),


rule build_graph:
    input:
        unpack(lambda wildcards: OUTPUTS.graphs.files(wildcards.graph, wildcards.slide)),
        manifest=LAYOUT.manifest("{slide}"),
    output:
        graph=LAYOUT.graph("{graph}", "{slide}"),
        statistics=LAYOUT.graph_statistics("{graph}", "{slide}"),
    log:
        LAYOUT.log("build_graph", "{graph}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("build_graph", "{graph}", "{slide}")
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(4000, pixel_bytes=50, mpp=lambda wildcards: OUTPUTS.graphs.held_mpp(wildcards.graph)),
        runtime=minutes(30),
    params:
        cfg=lambda wildcards: CONFIG.graphs[wildcards.graph].dump(),
        class_names=lambda wildcards: CONFIG.graph_classes(wildcards.graph),
        seed=CONFIG.seed,
        code=code("build_graph.py"),
    script:
        "../scripts/build_graph.py"


# Only of graphs that no task uses: others are drawn with what their nodes contribute to a prediction.
rule draw_graph:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        graph=LAYOUT.graph("{graph}", "{slide}"),
    output:
        picture=identifying(
            LAYOUT.graph_view("{graph}", "{slide}"),
            caption="report/draw_graph.rst",
            category="Slides",
            subcategory="Graphs",
            labels={"slide": "{slide}", "view": "graph {graph}"},
        ),
    log:
        LAYOUT.log("draw_graph", "{graph}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("draw_graph", "{graph}", "{slide}")
    wildcard_constraints:
        graph=only(OUTPUTS.graphs.without_task),
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000, **WHOLE_PICTURE),
        runtime=minutes(10),
    params:
        mpp=CONFIG.explain.overlay_mpp,
        code=code("draw_graph.py"),
    script:
        "../scripts/draw_graph.py"
