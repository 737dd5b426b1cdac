# RADHicaL: a network per magnification; thresholds from validation patients; what the low ones leave to the high ones.
from dataclasses import replace

CASCADE = "<results>/radhical/{cascade}"

# Without annotation there is nothing to learn from or to be measured against: such slides are only segmented.
cascade_rows = [s if s.annotation else replace(s, split="predict") for s in SLIDES.values()]
try:
    CASCADE_ROLES = {
        name: cohort.assign(cascade_rows, settings.split, seed=CONFIG.seed, task=f"radhical.{name}")
        for name, settings in CONFIG.radhical.items()
    }
except HistomakeError as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    cascade="|".join(CONFIG.radhical) or "no-cascade",
    level=r"\d+",


def cascade(wildcards):
    return CONFIG.radhical[wildcards.cascade]


def cascade_slides(name, *roles):
    """Ids of a cascade's slides with one of the roles."""
    return [a.slide_id for a in CASCADE_ROLES[name] if a.role in roles]


def cascade_manifests(role):
    return lambda wildcards: [LAYOUT.manifest(s) for s in cascade_slides(wildcards.cascade, role)]


def cascade_annotations(role):
    return lambda wildcards: [SLIDES[s].annotation for s in cascade_slides(wildcards.cascade, role)]


def cascade_cohort(role):
    """Which patients and which annotation bytes a step works with: part of its identity."""
    return lambda wildcards: [
        [s, SLIDES[s].patient_id, FINGERPRINTS.of(SLIDES[s].annotation)]
        for s in cascade_slides(wildcards.cascade, role)
    ]


def cascade_weights(wildcards):
    levels = range(1, len(cascade(wildcards).scales) + 1)
    return [LAYOUT.results / "radhical" / wildcards.cascade / f"level{n}" / "model.safetensors" for n in levels]


def in_cascade(pattern, *roles):
    """A file for each slide of a cascade with one of the roles."""
    return lambda wildcards: [
        LAYOUT.results / "radhical" / wildcards.cascade / pattern.format(slide=s)
        for s in cascade_slides(wildcards.cascade, *roles)
    ]


def radhical_outputs():
    """Everything the cascades are asked for when no target is named."""
    wanted = []
    for name in CONFIG.radhical:
        folder = LAYOUT.results / "radhical" / name
        wanted += [folder / "metrics.json", folder / "pareto.png"]
        for s in cascade_slides(name, "test", "predict"):
            wanted += [
                folder / "slides" / f"{s}.geojson",
                folder / "levels" / f"{s}.png",
            ]
    return wanted


rule radhical:
    input:
        radhical_outputs(),


rule radhical_split:
    input:
        manifests=collect("<results>/slides/{slide}.json", slide=SLIDES),
    output:
        split=f"{CASCADE}/split.parquet",
    log:
        "<logs>/radhical_split/{cascade}.log",
    benchmark:
        "<benchmarks>/radhical_split/{cascade}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=minutes(10),
    params:
        roles=lambda wildcards: [[a.fold, a.slide_id, a.patient_id, a.role] for a in CASCADE_ROLES[wildcards.cascade]],
        code=code("split.py"),
    script:
        "../scripts/split.py"


rule radhical_train:
    input:
        manifests=cascade_manifests("train"),
        annotations=ancient(cascade_annotations("train")),
        split=ancient(f"{CASCADE}/split.parquet"),
    output:
        weights=f"{CASCADE}/level{{level}}/model.safetensors",
        description=f"{CASCADE}/level{{level}}/model.json",
        history=f"{CASCADE}/level{{level}}/history.csv",
        points=f"{CASCADE}/level{{level}}/points.parquet",
    log:
        "<logs>/radhical_train/{cascade}/level{level}.log",
    benchmark:
        "<benchmarks>/radhical_train/{cascade}/level{level}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=minutes(240),
    params:
        cfg=lambda wildcards: cascade(wildcards).fitting(),
        annotations=CONFIG.annotations.dump(),
        cohort=cascade_cohort("train"),
        seed=CONFIG.seed,
        code=code("radhical_train.py"),
    script:
        "../scripts/radhical_train.py"


rule radhical_maps:
    input:
        manifest="<results>/slides/{slide}.json",
        weights=cascade_weights,
    output:
        maps=f"{CASCADE}/validation/{{slide}}.npz",
    log:
        "<logs>/radhical_maps/{cascade}/{slide}.log",
    benchmark:
        "<benchmarks>/radhical_maps/{cascade}/{slide}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigapixel_memory(4000, 8000),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: cascade(wildcards).fitting(),
        block=lambda wildcards: cascade(wildcards).block_px,
        code=code("radhical_maps.py"),
    script:
        "../scripts/radhical_maps.py"


rule radhical_search:
    input:
        maps=in_cascade("validation/{slide}.npz", "val"),
        manifests=cascade_manifests("val"),
        annotations=ancient(cascade_annotations("val")),
    output:
        thresholds=f"{CASCADE}/thresholds.json",
        trials=f"{CASCADE}/search.parquet",
        front=report(
            f"{CASCADE}/pareto.png",
            caption="report/radhical_pareto.rst",
            category="RADHicaL",
            labels={"cascade": "{cascade}", "figure": "thresholds: cost against F"},
        ),
    log:
        "<logs>/radhical_search/{cascade}.log",
    benchmark:
        "<benchmarks>/radhical_search/{cascade}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 2
    resources:
        mem_mb=gigapixel_memory(4000, 8000),
        runtime=minutes(120),
    params:
        cfg=lambda wildcards: cascade(wildcards).dump(),
        annotations=CONFIG.annotations.dump(),
        cohort=cascade_cohort("val"),
        test=lambda wildcards: sorted({SLIDES[s].patient_id for s in cascade_slides(wildcards.cascade, "test")}),
        seed=CONFIG.seed,
        code=code("radhical_search.py"),
    script:
        "../scripts/radhical_search.py"


rule radhical_segment:
    input:
        manifest="<results>/slides/{slide}.json",
        weights=cascade_weights,
        thresholds=f"{CASCADE}/thresholds.json",
    output:
        record=f"{CASCADE}/slides/{{slide}}.json",
        geojson=f"{CASCADE}/slides/{{slide}}.geojson",
        levels=report(
            f"{CASCADE}/levels/{{slide}}.png",
            caption="report/radhical_levels.rst",
            category="RADHicaL",
            labels={"cascade": "{cascade}", "figure": "levels of {slide}"},
        ),
    log:
        "<logs>/radhical_segment/{cascade}/{slide}.log",
    benchmark:
        "<benchmarks>/radhical_segment/{cascade}/{slide}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigapixel_memory(4000, 1000),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: cascade(wildcards).fitting(),
        block=lambda wildcards: cascade(wildcards).block_px,
        code=code("radhical_segment.py"),
    script:
        "../scripts/radhical_segment.py"


# Times are compared with each other, so one job takes them all, and on a small machine every core.
rule radhical_compare:
    input:
        manifests=cascade_manifests("test"),
        tissue=lambda wildcards: [LAYOUT.tissue(s) for s in cascade_slides(wildcards.cascade, "test")],
        masks=lambda wildcards: [
            LAYOUT.tissue(s).with_suffix(".png") for s in cascade_slides(wildcards.cascade, "test")
        ],
        annotations=ancient(cascade_annotations("test")),
        weights=cascade_weights,
        thresholds=f"{CASCADE}/thresholds.json",
    output:
        metrics=f"{CASCADE}/metrics.json",
        slides=f"{CASCADE}/metrics.parquet",
        table=f"{CASCADE}/table.txt",
        bars=report(
            f"{CASCADE}/bars.html",
            caption="report/radhical_bars.rst",
            category="RADHicaL",
            labels={"cascade": "{cascade}", "figure": "measured against the bars"},
        ),
    log:
        "<logs>/radhical_compare/{cascade}.log",
    benchmark:
        "<benchmarks>/radhical_compare/{cascade}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=gigapixel_memory(6000, 16000),
        runtime=minutes(120),
    params:
        cfg=lambda wildcards: cascade(wildcards).dump(),
        annotations=CONFIG.annotations.dump(),
        cohort=cascade_cohort("test"),
        seed=CONFIG.seed,
        code=code("radhical_compare.py"),
    script:
        "../scripts/radhical_compare.py"
