# Pages for people: one per slide, and the front page of the run.


rule slide_page:
    input:
        unpack(lambda wildcards: OUTPUTS.shown_on_page(wildcards.slide)),
        manifest=LAYOUT.manifest("{slide}"),
        annotation=LAYOUT.annotation("{slide}"),
        tissue=LAYOUT.tissue("{slide}"),
        quality=LAYOUT.quality("{slide}"),
        table=LAYOUT.table(min(CONFIG.grids), "{slide}"),
        overview=LAYOUT.tissue_view("{slide}"),
    output:
        page=identifying(
            LAYOUT.slide_page("{slide}"),
            caption="report/slide_page.rst",
            category="Slides",
            subcategory="Pages",
            labels={"slide": "{slide}", "view": "page"},
        ),
    log:
        LAYOUT.log("slide_page", "{slide}"),
    benchmark:
        LAYOUT.benchmark("slide_page", "{slide}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        tasks=lambda wildcards: OUTPUTS.drawn_slides.get(wildcards.slide, []),
        validated=lambda wildcards: OUTPUTS.validated_with(wildcards.slide),
        cascades=lambda wildcards: OUTPUTS.segmented_slides.get(wildcards.slide, []),
        stages=lambda wildcards: OUTPUTS.cascades.on_page(wildcards.slide),
        cells=lambda wildcards: OUTPUTS.tabulated_slides.get(wildcards.slide, []),
        graphs=lambda wildcards: OUTPUTS.graphs.pictured.get(wildcards.slide, []),
        cores=CONFIG.microarray is not None,
        regions=lambda wildcards: OUTPUTS.regions(wildcards.slide),
        patient=lambda wildcards: [
            slide(wildcards).patient_id,
            slide(wildcards).site or "",
        ],
        code=code("slide_page.py"),
    script:
        "../scripts/slide_page.py"


# The slides are counts: a new slide to predict changes no model card.
rule model_card:
    input:
        descriptions=lambda wildcards: [LAYOUT.description(wildcards.task, f) for f in PLAN.folds(wildcards.task)],
        cohorts=lambda wildcards: [LAYOUT.training_cohort(*model) for model in PLAN.trained_models(wildcards.task)],
        metrics=lambda wildcards: [LAYOUT.metrics(name) for name in PLAN.measured if name == wildcards.task],
        leakage=LAYOUT.leakage("{task}"),
    output:
        page=identifying(
            LAYOUT.model_card("{task}"),
            caption="report/model_card.rst",
            category="Model cards",
            labels={"task": "{task}"},
        ),
    log:
        LAYOUT.log("model_card", "{task}"),
    benchmark:
        LAYOUT.benchmark("model_card", "{task}")
    wildcard_constraints:
        task=only(CONFIG.tasks),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        cfg=lambda wildcards: task(wildcards).described(),
        planned=lambda wildcards: PLAN.planned_cohort(wildcards.task),
        code=code("model_card.py"),
    script:
        "../scripts/model_card.py"


# Pictures are read from the stores, which are made before the tables in the catalog.
rule outliers:
    input:
        catalog=LAYOUT.catalog,
    output:
        page=identifying(
            LAYOUT.outliers_page,
            caption="report/outliers.rst",
            category="Front page",
            labels={"what": "slides by oddness"},
        ),
    log:
        LAYOUT.log("outliers"),
    benchmark:
        LAYOUT.benchmark("outliers")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        name=min(CONFIG.grids),
        grid=CONFIG.grids[min(CONFIG.grids)].dump(),
        pages=lambda wildcards: OUTPUTS.paged_slides,
        code=code("outliers.py"),
    script:
        "../scripts/outliers.py"


# Compute times are read from the benchmark files that exist. They are not inputs, because they change without a change
# of results.
rule front_page:
    input:
        catalog=LAYOUT.catalog,
        quarantine=LAYOUT.quarantine,
        warnings=LAYOUT.warnings,
        outliers=LAYOUT.outliers_page,
        metrics=[LAYOUT.metrics(name) for name in PLAN.measured],
        comparisons=OUTPUTS.comparisons(),
        cards=[LAYOUT.model_card(name) for name in CONFIG.tasks],
        maps=[LAYOUT.embedding(*model).mosaic for model in OUTPUTS.explained_models()],
        feature_maps=[files.mosaic for files in OUTPUTS.maps()],
        panels=[LAYOUT.attribution(*model).panels for model in OUTPUTS.attributed_models()],
        cascades=lambda wildcards: OUTPUTS.done_by_cascades(),
        transfers=lambda wildcards: OUTPUTS.transfer_measures(),
        graphs=lambda wildcards: OUTPUTS.graph_views(),
    output:
        page=identifying(
            LAYOUT.front_page,
            caption="report/front_page.rst",
            category="Front page",
            labels={"what": "everything in one page"},
        ),
    log:
        LAYOUT.log("front_page"),
    benchmark:
        LAYOUT.benchmark("front_page")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(20),
    params:
        cfg=CONFIG.dump(),
        pages=lambda wildcards: OUTPUTS.paged_slides,
        code=code("front_page.py"),
    script:
        "../scripts/front_page.py"
