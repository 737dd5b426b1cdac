# Tissue masks and artefact maps.
PRESEGMENT = "presegment_model.py" if TISSUE_MODEL else "presegment.py"


# All rules that read pixels need the store. Only this rule, on which they depend, has it as an input. The others have
# the manifest, because each further input makes a large cohort slower to plan. A lost store is an input of rule all, which makes it again.
rule presegment:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        store=LAYOUT.store("{slide}", packed=PACKED),
        model=TISSUE_MODEL,
    output:
        record=LAYOUT.tissue("{slide}"),
        mask=LAYOUT.tissue_mask("{slide}"),
    log:
        LAYOUT.log("presegment", "{slide}"),
    benchmark:
        LAYOUT.benchmark("presegment", "{slide}")
    conda:
        "../envs/learning.yaml" if TISSUE_MODEL else "../envs/slides.yaml"
    container:
        CONFIG.containers.learning if TISSUE_MODEL else CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000, **WHOLE_MASK),
        runtime=minutes(10),
    params:
        cfg=CONFIG.tissue.dump(),
        code=code(PRESEGMENT),
    script:
        f"../scripts/{PRESEGMENT}"


# Only for cohorts of tissue microarrays (section microarray).
rule cores:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        tissue=LAYOUT.tissue("{slide}"),
        mask=LAYOUT.tissue_mask("{slide}"),
    output:
        table=LAYOUT.cores("{slide}"),
        picture=identifying(
            LAYOUT.cores_view("{slide}"),
            caption="report/cores.rst",
            category="Slides",
            subcategory="Cores",
            labels={"slide": "{slide}", "view": "cores"},
        ),
    log:
        LAYOUT.log("cores", "{slide}"),
    benchmark:
        LAYOUT.benchmark("cores", "{slide}")
    wildcard_constraints:
        slide=SLIDE_ID.pattern if CONFIG.microarray else only([]),
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000, **WHOLE_PICTURE),
        runtime=minutes(10),
    params:
        cfg=CONFIG.microarray and CONFIG.microarray.dump(),
        mpp=CONFIG.explain.overlay_mpp,
        code=code("cores.py"),
    script:
        "../scripts/cores.py"


rule quality:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        tissue=LAYOUT.tissue("{slide}"),
        mask=LAYOUT.tissue_mask("{slide}"),
    output:
        record=LAYOUT.quality("{slide}"),
        map=LAYOUT.artefact_map("{slide}"),
    log:
        LAYOUT.log("quality", "{slide}"),
    benchmark:
        LAYOUT.benchmark("quality", "{slide}")
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000, **WHOLE_MASK),
        runtime=minutes(10),
    params:
        cfg=CONFIG.quality.dump(),
        code=code("quality.py"),
    script:
        "../scripts/quality.py"
