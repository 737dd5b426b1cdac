# Pictures of slides: tissue and artefacts, patches, predictions, regions at higher resolution, and tiles for QuPath.
from histomake.pictures.kinds import WITH_ATTENTION, WITH_CONFIDENCE, WITH_GRAPH, WITHOUT_CONFIDENCE
from histomake.planning.choice_plan import ChoicePlan

CHOSEN = ChoicePlan(PLAN)
CONTACT_GRIDS = sorted({t.grid for t in CONFIG.tasks.values()} or CONFIG.grids)

# Views of a slide by name, with their place in the report.
VIEWS = {
    view: identifying(
        LAYOUT.view("{task}", "{fold}", "{slide}", view),
        caption=f"report/{view}.rst",
        category="Slides",
        subcategory="{task}",
        labels={"slide": "{slide}", "view": view},
    )
    for view in (*WITH_CONFIDENCE, *WITH_GRAPH)
}


# One job draws all pictures that need no model: a second job per slide would cost more than drawing both again.
rule overview:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        tissue=LAYOUT.tissue("{slide}"),
        mask=LAYOUT.tissue_mask("{slide}"),
        quality=LAYOUT.quality("{slide}"),
        artefacts=LAYOUT.artefact_map("{slide}"),
        tables=[LAYOUT.table(grid, "{slide}") for grid in CONTACT_GRIDS],
    output:
        tissue=identifying(
            LAYOUT.tissue_view("{slide}"),
            caption="report/tissue.rst",
            category="Slides",
            subcategory="Tissue and quality",
            labels={"slide": "{slide}", "view": "tissue"},
        ),
        contact=[
            identifying(
                LAYOUT.contact_sheet(grid, "{slide}"),
                caption="report/contact.rst",
                category="Patches",
                subcategory=grid,
                labels={"slide": "{slide}", "grid": grid},
            )
            for grid in CONTACT_GRIDS
        ],
    log:
        LAYOUT.log("overview", "{slide}"),
    benchmark:
        LAYOUT.benchmark("overview", "{slide}")
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
        patches=CONFIG.explain.contact_patches,
        seed=CONFIG.seed,
        code=code("overview.py"),
    script:
        "../scripts/overview.py"


rule views:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        table=lambda wildcards: LAYOUT.table(task(wildcards).grid, wildcards.slide),
        tissue=LAYOUT.tissue("{slide}"),
        quality=LAYOUT.quality("{slide}"),
        annotation=LAYOUT.annotation("{slide}"),
        outlines=LAYOUT.outlines("{slide}"),
        description=LAYOUT.description("{task}", "{fold}"),
        predictions=LAYOUT.prediction("{task}", "{fold}", "{slide}"),
        labels=lambda wildcards: [
            LAYOUT.segmentation(name, wildcards.fold, wildcards.slide)
            for name in [wildcards.task]
            if name in PLAN.segmented
        ],
        graph=lambda wildcards: [
            LAYOUT.graph(task(wildcards).graph, wildcards.slide) for name in [wildcards.task] if name in PLAN.on_graphs
        ],
        nodes=lambda wildcards: [
            LAYOUT.predicted_nodes(name, wildcards.fold, wildcards.slide)
            for name in [wildcards.task]
            if name in PLAN.on_graphs
        ],
        choosing=lambda wildcards: CHOSEN.chosen_by(wildcards.task, int(wildcards.fold), wildcards.slide),
    output:
        **{view: VIEWS[view] for view in WITHOUT_CONFIDENCE},
    log:
        LAYOUT.log("views", "{task}", "fold{fold}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("views", "{task}", "fold{fold}", "{slide}")
    wildcard_constraints:
        task=only(PLAN.tasks_with_views(WITHOUT_CONFIDENCE)),
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
        code=code("views.py"),
    script:
        "../scripts/views.py"


use rule views as views_with_confidence with:
    output:
        **{view: VIEWS[view] for view in WITH_CONFIDENCE},
    wildcard_constraints:
        task=only(PLAN.tasks_with_views(WITH_CONFIDENCE)),


use rule views as views_with_attention with:
    output:
        **{view: VIEWS[view] for view in WITH_ATTENTION},
    wildcard_constraints:
        task=only(PLAN.tasks_with_views(WITH_ATTENTION)),


use rule views as views_with_graph with:
    output:
        **{view: VIEWS[view] for view in WITH_GRAPH},
    wildcard_constraints:
        task=only(PLAN.tasks_with_views(WITH_GRAPH)),


use rule views as region with:
    output:
        region=identifying(
            LAYOUT.region("{task}", "{fold}", "{slide}", ("{x}", "{y}", "{width}", "{height}")),
            caption="report/region.rst",
            category="Slides",
            subcategory="{task}",
            labels={"slide": "{slide}", "view": "region at {x}, {y}"},
        ),
    log:
        LAYOUT.log("region", "{task}", "fold{fold}", "{slide}", "{x}_{y}_{width}_{height}"),
    benchmark:
        LAYOUT.benchmark("region", "{task}", "fold{fold}", "{slide}", "{x}_{y}_{width}_{height}")
    wildcard_constraints:
        task=only(CONFIG.tasks),
        x=r"-?\d+",
        y=r"-?\d+",
        width=r"\d+",
        height=r"\d+",
    params:
        box=lambda wildcards: [int(getattr(wildcards, name)) for name in ("x", "y", "width", "height")],


rule export_qupath:
    input:
        table=lambda wildcards: LAYOUT.table(task(wildcards).grid, wildcards.slide),
        predictions=LAYOUT.prediction("{task}", "{fold}", "{slide}"),
        description=LAYOUT.description("{task}", "{fold}"),
    output:
        tiles=LAYOUT.qupath_tiles("{task}", "{fold}", "{slide}"),
    log:
        LAYOUT.log("export_qupath", "{task}", "fold{fold}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("export_qupath", "{task}", "fold{fold}", "{slide}")
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        code=code("export_qupath.py"),
    script:
        "../scripts/export_qupath.py"
