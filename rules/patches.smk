# Patch tables per slide and grid.


rule tabulate_patches:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        tissue=LAYOUT.tissue("{slide}"),
        mask=LAYOUT.tissue_mask("{slide}"),
        quality=LAYOUT.quality("{slide}"),
        artefacts=LAYOUT.artefact_map("{slide}"),
        annotation=LAYOUT.annotation("{slide}"),
        outlines=LAYOUT.outlines("{slide}"),
        labels=lambda wildcards: [LAYOUT.label_image(s) for s in [wildcards.slide] if s in PLAN.masked],
    output:
        table=LAYOUT.table("{grid}", "{slide}"),
    log:
        LAYOUT.log("tabulate_patches", "{grid}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("tabulate_patches", "{grid}", "{slide}")
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000, **WHOLE_MASK),
        runtime=minutes(15),
    params:
        cfg=lambda wildcards: CONFIG.grids[wildcards.grid].dump(),
        max_share=CONFIG.quality.max_share,
        classes=CONFIG.class_names,
        code=code("tabulate_patches.py"),
    script:
        "../scripts/tabulate_patches.py"


# Only where a task learns the labels of readers. The areas differ, and nothing else.
use rule tabulate_patches as tabulate_reader with:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        tissue=LAYOUT.tissue("{slide}"),
        mask=LAYOUT.tissue_mask("{slide}"),
        quality=LAYOUT.quality("{slide}"),
        artefacts=LAYOUT.artefact_map("{slide}"),
        annotation=READING.record,
        outlines=READING.outlines,
        labels=READING.labels,
    output:
        table=READING.table("{grid}"),
    log:
        LAYOUT.log("tabulate_reader", "{grid}", "{slide}", "{reader}"),
    benchmark:
        LAYOUT.benchmark("tabulate_reader", "{grid}", "{slide}", "{reader}")
    wildcard_constraints:
        slide=only(sorted(PLAN.read_by_several)),
        reader=only(PLAN.readers),
