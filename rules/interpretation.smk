# What people look at: views of slides, what the model saw, and the report around it.


# One job draws all that shows a slide before any model: a job more for every slide costs more than drawing twice.
rule overview:
    input:
        manifest="<results>/slides/{slide}.json",
        tissue="<results>/tissue/{slide}.json",
        mask="<results>/tissue/{slide}.png",
        quality="<results>/quality/{slide}.json",
        artefacts="<results>/quality/{slide}.png",
        tables=[f"<results>/patches/{grid}/{{slide}}.parquet" for grid in CONTACT_GRIDS],
    output:
        tissue=report(
            "<results>/views/tissue/{slide}.jpg",
            caption="report/tissue.rst",
            category="Slides",
            subcategory="Tissue and quality",
            labels={"slide": "{slide}", "view": "tissue"},
        ),
        contact=[
            report(
                f"<results>/contact/{grid}/{{slide}}.png",
                caption="report/contact.rst",
                category="Patches",
                subcategory=grid,
                labels={"slide": "{slide}"},
            )
            for grid in CONTACT_GRIDS
        ],
    log:
        "<logs>/overview/{slide}.log",
    benchmark:
        "<benchmarks>/overview/{slide}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        mpp=CONFIG.explain.overlay_mpp,
        patches=CONFIG.explain.contact_patches,
        seed=CONFIG.seed,
        code=code("overview.py"),
    script:
        "../scripts/overview.py"


rule views:
    input:
        manifest="<results>/slides/{slide}.json",
        table=lambda wildcards: LAYOUT.table(task(wildcards).grid, wildcards.slide),
        tissue="<results>/tissue/{slide}.json",
        quality="<results>/quality/{slide}.json",
        annotation="<results>/annotations/{slide}.json",
        geojson="<results>/annotations/{slide}.geojson",
        description="<results>/models/{task}/fold{fold}/model.json",
        predictions="<results>/predictions/{task}/fold{fold}/{slide}.parquet",
        labels=segmented_labels,
    output:
        **view_pictures(*WITH_CONFIDENCE),
    log:
        "<logs>/views/{task}/fold{fold}/{slide}.log",
    benchmark:
        "<benchmarks>/views/{task}/fold{fold}/{slide}.tsv"
    wildcard_constraints:
        task=tasks_with_views(WITH_CONFIDENCE),
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        mpp=CONFIG.explain.overlay_mpp,
        code=code("views.py"),
    script:
        "../scripts/views.py"


use rule views as views_of_other_tasks with:
    output:
        **view_pictures(*WITHOUT_CONFIDENCE),
    wildcard_constraints:
        task=tasks_with_views(WITHOUT_CONFIDENCE),


use rule views as region with:
    output:
        region=report(
            "<results>/views/{task}/fold{fold}/{slide}/region_{x}_{y}_{width}_{height}.jpg",
            caption="report/region.rst",
            category="Slides",
            subcategory="{task}",
            labels={"slide": "{slide}", "view": "region at {x}, {y}"},
        ),
    log:
        "<logs>/region/{task}/fold{fold}/{slide}/{x}_{y}_{width}_{height}.log",
    benchmark:
        "<benchmarks>/region/{task}/fold{fold}/{slide}/{x}_{y}_{width}_{height}.tsv"
    wildcard_constraints:
        task=only(CONFIG.tasks),
        x=r"-?\d+",
        y=r"-?\d+",
        width=r"\d+",
        height=r"\d+",
    params:
        box=lambda wildcards: [int(getattr(wildcards, name)) for name in ("x", "y", "width", "height")],
        code=code("views.py"),


rule embed:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in explained(wildcards)],
        tables=lambda wildcards: [LAYOUT.table(task(wildcards).grid, s) for s in explained(wildcards)],
        predictions=explained_predictions,
        weights="<results>/models/{task}/fold{fold}/model.safetensors",
        description="<results>/models/{task}/fold{fold}/model.json",
    output:
        features="<results>/embeddings/{task}/fold{fold}/features.parquet",
        page=report(
            "<results>/embeddings/{task}/fold{fold}/map.html",
            caption="report/embedding.rst",
            category="Model",
            subcategory="{task}",
            labels={"what": "embedding, interactive", "fold": "{fold}"},
        ),
        mosaic=report(
            "<results>/embeddings/{task}/fold{fold}/mosaic.png",
            caption="report/mosaic.rst",
            category="Model",
            subcategory="{task}",
            labels={"what": "embedding, mosaic", "fold": "{fold}"},
        ),
        record="<results>/embeddings/{task}/fold{fold}/separation.json",
    log:
        "<logs>/embed/{task}/fold{fold}.log",
    benchmark:
        "<benchmarks>/embed/{task}/fold{fold}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        cfg=explain_settings("embed_patches", "umap_neighbors"),
        slides=lambda wildcards: [entry(s) for s in explained(wildcards)],
        sites=lambda wildcards: [SLIDES[s].site or "" for s in explained(wildcards)],
        seed=CONFIG.seed,
        code=code("embed.py"),
        page=asset("histomake/explain/embedding_page.js"),
    script:
        "../scripts/embed.py"


rule attribute:
    input:
        cohort="<results>/models/{task}/fold{fold}.cohort.json",
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in explained(wildcards)],
        tables=lambda wildcards: [LAYOUT.table(task(wildcards).grid, s) for s in explained(wildcards)],
        predictions=explained_predictions,
        weights="<results>/models/{task}/fold{fold}/model.safetensors",
        description="<results>/models/{task}/fold{fold}/model.json",
    output:
        panels=report(
            "<results>/attributions/{task}/fold{fold}/panels.png",
            caption="report/attribution.rst",
            category="Model",
            subcategory="{task}",
            labels={"what": "attribution (SHAP)", "fold": "{fold}"},
        ),
        patches="<results>/attributions/{task}/fold{fold}/patches.parquet",
        background="<results>/attributions/{task}/fold{fold}/background.parquet",
        maps="<results>/attributions/{task}/fold{fold}/maps.npz",
        record="<results>/attributions/{task}/fold{fold}/checks.json",
    log:
        "<logs>/attribute/{task}/fold{fold}.log",
    benchmark:
        "<benchmarks>/attribute/{task}/fold{fold}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        cfg=explain_settings("shap_patches", "shap_at", "shap_background", "shap_method", "regions"),
        slides=lambda wildcards: [entry(s) for s in explained(wildcards)],
        seed=CONFIG.seed,
        code=code("attribute.py"),
    script:
        "../scripts/attribute.py"


rule slide_page:
    input:
        manifest="<results>/slides/{slide}.json",
        annotation="<results>/annotations/{slide}.json",
        tissue="<results>/tissue/{slide}.json",
        quality="<results>/quality/{slide}.json",
        overview="<results>/views/tissue/{slide}.jpg",
        predictions=lambda wildcards: [LAYOUT.prediction(n, f, wildcards.slide) for n, f, *_ in slide_tasks(wildcards)],
        descriptions=lambda wildcards: [LAYOUT.model(n, f) / "model.json" for n, f, *_ in slide_tasks(wildcards)],
        views=lambda wildcards: [
            LAYOUT.view(n, f, wildcards.slide, view) for n, f, _, views in slide_tasks(wildcards) for view in views
        ],
        levels=lambda wildcards: [LAYOUT.cascade_levels(name, wildcards.slide) for name in slide_cascades(wildcards)],
        regions=lambda wildcards: [
            LAYOUT.region(n, f, wildcards.slide, box)
            for n, f, *_ in slide_tasks(wildcards)
            for box in regions(wildcards)
        ],
    output:
        page=report(
            "<results>/report/slides/{slide}.html",
            caption="report/slide_page.rst",
            category="Slides",
            subcategory="Pages",
            labels={"slide": "{slide}", "view": "page"},
        ),
    log:
        "<logs>/slide_page/{slide}.log",
    benchmark:
        "<benchmarks>/slide_page/{slide}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        tasks=slide_tasks,
        cascades=slide_cascades,
        regions=regions,
        patient=lambda wildcards: [
            slide(wildcards).patient_id,
            slide(wildcards).site or "",
        ],
        code=code("slide_page.py"),
    script:
        "../scripts/slide_page.py"


# Compute times are read from whatever benchmark files there are: they change without a result having changed.
rule front_page:
    input:
        catalog="<results>/catalog.duckdb",
        quarantine="<results>/quarantine.json",
        metrics=collect("<results>/metrics/{task}.json", task=MEASURED),
        maps=model_pictures("embeddings/{task}/fold{fold}/mosaic.png"),
        panels=model_pictures("attributions/{task}/fold{fold}/panels.png"),
        cascades=lambda wildcards: radhical_outputs(),
    output:
        page=report(
            "<results>/report/index.html",
            caption="report/front_page.rst",
            category="Front page",
            labels={"what": "everything in one page"},
        ),
    log:
        "<logs>/front_page.log",
    benchmark:
        "<benchmarks>/front_page.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(20),
    params:
        cfg=CONFIG.dump(),
        pages=lambda wildcards: paged_slides(),
        code=code("front_page.py"),
    script:
        "../scripts/front_page.py"


rule export_qupath:
    input:
        table=lambda wildcards: LAYOUT.table(task(wildcards).grid, wildcards.slide),
        predictions="<results>/predictions/{task}/fold{fold}/{slide}.parquet",
        description="<results>/models/{task}/fold{fold}/model.json",
    output:
        tiles="<results>/qupath/{task}/fold{fold}/{slide}.geojson",
    log:
        "<logs>/export_qupath/{task}/fold{fold}/{slide}.log",
    benchmark:
        "<benchmarks>/export_qupath/{task}/fold{fold}/{slide}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        code=code("export_qupath.py"),
    script:
        "../scripts/export_qupath.py"
