# Patch tables per slide and magnification, and the cohort's catalog over them.


rule tabulate:
    input:
        manifest="<results>/slides/{slide}.json",
        tissue="<results>/tissue/{slide}.json",
        mask="<results>/tissue/{slide}.png",
        quality="<results>/quality/{slide}.json",
        artefacts="<results>/quality/{slide}.png",
        annotation="<results>/annotations/{slide}.json",
        geojson="<results>/annotations/{slide}.geojson",
        labels=label_image,
    output:
        table="<results>/patches/{grid}/{slide}.parquet",
    log:
        "<logs>/tabulate/{grid}/{slide}.log",
    benchmark:
        "<benchmarks>/tabulate/{grid}/{slide}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(15),
    params:
        cfg=lambda wildcards: CONFIG.grids[wildcards.grid].dump(),
        max_share=CONFIG.quality.max_share,
        classes=CONFIG.class_names,
        code=code("tabulate_patches.py"),
    script:
        "../scripts/tabulate_patches.py"


# The quarantine record stands for every slide's records and first table, the scores for every prediction.
rule catalog:
    input:
        quarantine="<results>/quarantine.json",
        tables=of_every_slide(*(partial(LAYOUT.table, grid) for grid in sorted(CONFIG.grids) if grid != FIRST_GRID)),
        splits=collect("<results>/splits/{task}.parquet", task=sorted(CONFIG.tasks)),
        scores=[LAYOUT.scores(name) for name in sorted(CONFIG.tasks)],
    output:
        catalog="<results>/catalog.duckdb",
    log:
        "<logs>/catalog.log",
    benchmark:
        "<benchmarks>/catalog.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 2
    resources:
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        sheet=lambda wildcards: [
            [s.slide_id, s.patient_id, s.site, dict(sorted(s.labels.items()))] for s in SLIDES.values()
        ],
        grids=sorted(CONFIG.grids),
        predictions=lambda wildcards: {n: list(map(str, prediction_paths(n, *PREDICTED))) for n in sorted(CONFIG.tasks)},
        code=code("catalog.py"),
    script:
        "../scripts/catalog.py"
