# Roles of the slides, leakage between roles, slides in quarantine, and the catalog of the cohort.
from histomake.cohort.leakage import JUDGED
from histomake.planning.roles import judged_slides, role_table

FIRST_GRID = min(CONFIG.grids)


rule split:
    output:
        split=LAYOUT.split("{task}"),
    log:
        LAYOUT.log("split", "{task}"),
    benchmark:
        LAYOUT.benchmark("split", "{task}")
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        roles=lambda wildcards: role_table(PLAN.roles[wildcards.task]),
        code=code("split.py"),
    script:
        "../scripts/split.py"


# Metrics depend on this comparison. Models do not, because a new test slide would then train them again; rule
# training_cohort compares the slides of its model instead. The priority reports a leak early.
rule leakage:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in judged_slides(PLAN.roles[wildcards.task])],
        models=lambda wildcards: PLAN.earlier_descriptions(wildcards.task),
    output:
        record=LAYOUT.leakage("{task}"),
    log:
        LAYOUT.log("leakage", "{task}"),
    benchmark:
        LAYOUT.benchmark("leakage", "{task}")
    priority: 100
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        roles=lambda wildcards: role_table(PLAN.roles[wildcards.task], JUDGED),
        code=code("leakage.py"),
    script:
        "../scripts/leakage.py"


# The inputs are one patch table per slide; the records that it was made from are read by path. Snakemake searches all
# earlier jobs for each input of a job, so tens of thousands of inputs would take minutes. The rule has priority because
# it stops a run that lost too many slides.
rule quarantine:
    input:
        tables=lambda wildcards: [LAYOUT.table(FIRST_GRID, s) for s in SLIDES],
    output:
        entries=LAYOUT.quarantine,
        warnings=LAYOUT.warnings,
    log:
        LAYOUT.log("quarantine"),
    benchmark:
        LAYOUT.benchmark("quarantine")
    priority: 100
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        slides=list(SLIDES),
        grid=FIRST_GRID,
        without_file=lambda wildcards: sorted(without_file()),
        other_grids={name: CONFIG.grids[name].dump() for name in sorted(CONFIG.grids) if name != FIRST_GRID},
        max_share=CONFIG.max_lost,
        code=code("quarantine.py"),
    script:
        "../scripts/quarantine.py"


# `snakemake preprocess`: stores, tissue, artefacts and patch tables of all slides, without any task.
rule preprocess:
    input:
        lambda wildcards: OUTPUTS.preprocessed(),


# quarantine.json is made after the records and the first table of every slide, the scores after every prediction. These
# files are therefore read by path and are not inputs.
rule catalog:
    input:
        quarantine=LAYOUT.quarantine,
        tables=lambda wildcards: [LAYOUT.table(g, s) for g in sorted(CONFIG.grids) if g != FIRST_GRID for s in SLIDES],
        splits=[LAYOUT.split(name) for name in sorted(CONFIG.tasks)],
        scores=[LAYOUT.scores(name) for name in sorted(CONFIG.tasks)],
        damage=[LAYOUT.damage(name) for name in sorted(CONFIG.tasks)],
        metrics=[LAYOUT.metrics(name) for name in sorted(PLAN.measured)],
        cores=lambda wildcards: OUTPUTS.core_tables(),
        cells=lambda wildcards: [path for name in sorted(CONFIG.cells) for path in OUTPUTS.cell_tables(name)],
        graphs=lambda wildcards: [path for name in sorted(CONFIG.graphs) for path in OUTPUTS.graph_tables(name)],
        transfers=lambda wildcards: OUTPUTS.transfer_measures(),
        generators=lambda wildcards: OUTPUTS.generator_measures(),
        cascades=lambda wildcards: [path for name in sorted(CONFIG.cascades) for path in OUTPUTS.cascades.tabled(name)],
    output:
        catalog=LAYOUT.catalog,
    log:
        LAYOUT.log("catalog"),
    benchmark:
        LAYOUT.benchmark("catalog")
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 2
    resources:
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        sheet=lambda wildcards: [
            [s.slide_id, s.patient_id, s.site, dict(sorted((s.labels | s.groups).items()))] for s in SLIDES.values()
        ],
        measured=sorted(PLAN.measured),
        grids=sorted(CONFIG.grids),
        predictions=lambda wildcards: {name: list(map(str, OUTPUTS.predictions(name))) for name in sorted(CONFIG.tasks)},
        cores=lambda wildcards: list(map(str, OUTPUTS.core_tables())),
        cells=lambda wildcards: {name: list(map(str, OUTPUTS.cell_tables(name))) for name in sorted(CONFIG.cells)},
        graphs=lambda wildcards: {name: list(map(str, OUTPUTS.graph_tables(name))) for name in sorted(CONFIG.graphs)},
        cascades=lambda wildcards: {
            name: list(map(str, OUTPUTS.cascades.tabled(name))) for name in sorted(CONFIG.cascades)
        },
        code=code("catalog.py"),
    script:
        "../scripts/catalog.py"
