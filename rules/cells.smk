# Cells as objects: those of cascades, segmentation tasks and annotations, as a table, a label image and outlines.


# `snakemake all_cells`: everything of all names under cells.
rule all_cells:
    input:
        lambda wildcards: OUTPUTS.of_cells(),


# All files of a slide are written in one pass over its cells. `outlined_cells` is the same with outlines.
rule cells:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        store=LAYOUT.store("{slide}", packed=PACKED),
        made=lambda wildcards: PLAN.cell_files(wildcards.cells, wildcards.slide, here=True),
        drawn=ancient(lambda wildcards: PLAN.cell_files(wildcards.cells, wildcards.slide, here=False)),
    output:
        table=LAYOUT.cells("{cells}", "{slide}"),
        labels=LAYOUT.cell_labels("{cells}", "{slide}"),
    log:
        LAYOUT.log("cells", "{cells}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("cells", "{cells}", "{slide}")
    wildcard_constraints:
        cells=only([name for name, cells in CONFIG.cells.items() if not cells.outlines]),
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: CONFIG.cells[wildcards.cells].dump(),
        annotation=lambda wildcards: [
            FINGERPRINTS.of(str(path)) for path in PLAN.cell_files(wildcards.cells, wildcards.slide, here=False)
        ],
        code=code("cells.py"),
    script:
        "../scripts/cells.py"


use rule cells as outlined_cells with:
    output:
        table=LAYOUT.cells("{cells}", "{slide}"),
        labels=LAYOUT.cell_labels("{cells}", "{slide}"),
        outlines=LAYOUT.cell_outlines("{cells}", "{slide}"),
    wildcard_constraints:
        cells=only([name for name, cells in CONFIG.cells.items() if cells.outlines]),
