# RADHicaL: one network per magnification, thresholds from validation patients. Coarse levels limit what finer ones see.
from histomake.cohort.leakage import JUDGED
from histomake.planning.network_memory import level_training_mb
from histomake.planning.roles import role_table

CASCADE = LAYOUT.cascade("{cascade}")

# Resolution of the finest level, to which coarser slides are enlarged.
FINEST = {"mpp": lambda wildcards: CONFIG.radhical[wildcards.cascade].mpp, "enlarged": True}


# `snakemake radhical`: everything of all cascades.
rule radhical:
    input:
        lambda wildcards: OUTPUTS.of_cascades(),


use rule split as radhical_split with:
    output:
        split=CASCADE.split,
    log:
        LAYOUT.log("radhical_split", "{cascade}"),
    benchmark:
        LAYOUT.benchmark("radhical_split", "{cascade}")
    params:
        roles=lambda wildcards: role_table(PLAN.cascade_roles[wildcards.cascade]),


use rule leakage as radhical_leakage with:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in PLAN.cascade_slides(wildcards.cascade, *JUDGED)],
        models=[],
    output:
        record=CASCADE.leakage,
    log:
        LAYOUT.log("radhical_leakage", "{cascade}"),
    benchmark:
        LAYOUT.benchmark("radhical_leakage", "{cascade}")
    params:
        roles=lambda wildcards: role_table(PLAN.cascade_roles[wildcards.cascade], JUDGED),


# A retry continues from the checkpoint of the last attempt, so its time limit is not doubled.
rule radhical_train:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in PLAN.cascade_slides(wildcards.cascade, "train")],
        stores=lambda wildcards: [
            LAYOUT.store(s, packed=PACKED) for s in PLAN.cascade_slides(wildcards.cascade, "train")
        ],
        annotations=ancient(lambda wildcards: PLAN.cascade_annotations(wildcards.cascade, "train")),
    output:
        weights=CASCADE.weights("{level}"),
        description=CASCADE.description("{level}"),
        history=CASCADE.history("{level}"),
        points=CASCADE.points("{level}"),
        details=directory(CASCADE.training_details("{level}")),
    log:
        LAYOUT.log("radhical_train", "{cascade}", "level{level}"),
    benchmark:
        LAYOUT.benchmark("radhical_train", "{cascade}", "level{level}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: lambda wildcards: PLAN.level_cores(wildcards.cascade)
    resources:
        gpu=lambda wildcards: CONFIG.radhical[wildcards.cascade].train.gpus,
        mem_mb=memory(
            4000,
            more=lambda wildcards, input: level_training_mb(
                CONFIG.radhical[wildcards.cascade], slides=len(input.manifests)
            ),
        ),
        runtime=240,
    params:
        cfg=lambda wildcards: CONFIG.radhical[wildcards.cascade].fitting(),
        annotations=CONFIG.annotations.dump(),
        cohort=lambda wildcards: [
            [s, SLIDES[s].patient_id, FINGERPRINTS.of(SLIDES[s].annotation)]
            for s in PLAN.cascade_slides(wildcards.cascade, "train")
        ],
        seed=CONFIG.seed,
        code=code("radhical_train.py"),
    script:
        "../scripts/radhical_train.py"


rule radhical_maps:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        store=LAYOUT.store("{slide}", packed=PACKED),
        weights=lambda wildcards: PLAN.cascade_weights(wildcards.cascade),
    output:
        maps=CASCADE.validation_maps("{slide}"),
    log:
        LAYOUT.log("radhical_maps", "{cascade}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("radhical_maps", "{cascade}", "{slide}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        gpu=1,
        mem_mb=memory(4000, pixel_bytes=16, **FINEST),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: CONFIG.radhical[wildcards.cascade].fitting(),
        block=lambda wildcards: CONFIG.radhical[wildcards.cascade].block_px,
        code=code("radhical_maps.py"),
    script:
        "../scripts/radhical_maps.py"


rule radhical_search:
    input:
        maps=lambda wildcards: [
            LAYOUT.cascade(wildcards.cascade).validation_maps(s) for s in PLAN.cascade_slides(wildcards.cascade, "val")
        ],
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in PLAN.cascade_slides(wildcards.cascade, "val")],
        annotations=ancient(lambda wildcards: PLAN.cascade_annotations(wildcards.cascade, "val")),
    output:
        thresholds=CASCADE.thresholds,
        trials=CASCADE.trials,
        front=report(
            CASCADE.pareto_front,
            caption="report/radhical_pareto.rst",
            category="RADHicaL",
            labels={"cascade": "{cascade}", "figure": "thresholds: cost against F"},
        ),
    log:
        LAYOUT.log("radhical_search", "{cascade}"),
    benchmark:
        LAYOUT.benchmark("radhical_search", "{cascade}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        mem_mb=memory(4000, per_gb=3000, pixel_bytes=16, **FINEST),
        runtime=minutes(120),
    params:
        cfg=lambda wildcards: CONFIG.radhical[wildcards.cascade].dump(),
        annotations=CONFIG.annotations.dump(),
        cohort=lambda wildcards: [
            [s, SLIDES[s].patient_id, FINGERPRINTS.of(SLIDES[s].annotation)]
            for s in PLAN.cascade_slides(wildcards.cascade, "val")
        ],
        test=lambda wildcards: sorted({SLIDES[s].patient_id for s in PLAN.cascade_slides(wildcards.cascade, "test")}),
        seed=CONFIG.seed,
        code=code("radhical_search.py"),
    script:
        "../scripts/radhical_search.py"


rule radhical_segment:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        store=LAYOUT.store("{slide}", packed=PACKED),
        weights=lambda wildcards: PLAN.cascade_weights(wildcards.cascade),
        thresholds=CASCADE.thresholds,
    output:
        record=CASCADE.segmentation("{slide}"),
        store=CASCADE.store("{slide}"),
        outlines=CASCADE.outlines("{slide}"),
        levels=identifying(
            CASCADE.levels_view("{slide}"),
            caption="report/radhical_levels.rst",
            category="RADHicaL",
            labels={"cascade": "{cascade}", "figure": "levels of {slide}"},
        ),
    log:
        LAYOUT.log("radhical_segment", "{cascade}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("radhical_segment", "{cascade}", "{slide}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        gpu=1,
        mem_mb=memory(4000, pixel_bytes=2, **FINEST),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: CONFIG.radhical[wildcards.cascade].fitting(),
        use=lambda wildcards: CONFIG.radhical[wildcards.cascade].dump("block_px"),
        code=code("radhical_segment.py"),
    script:
        "../scripts/radhical_segment.py"


# Run times are compared with each other, so one job measures all of them; on a small machine it uses every core.
rule radhical_compare:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in PLAN.cascade_slides(wildcards.cascade, "test")],
        tissue=lambda wildcards: [LAYOUT.tissue(s) for s in PLAN.cascade_slides(wildcards.cascade, "test")],
        masks=lambda wildcards: [LAYOUT.tissue_mask(s) for s in PLAN.cascade_slides(wildcards.cascade, "test")],
        annotations=ancient(lambda wildcards: PLAN.cascade_annotations(wildcards.cascade, "test")),
        weights=lambda wildcards: PLAN.cascade_weights(wildcards.cascade),
        thresholds=CASCADE.thresholds,
        leakage=CASCADE.leakage,
    output:
        metrics=CASCADE.metrics,
        slides=CASCADE.metrics_table,
        table=CASCADE.table,
        bars=report(
            CASCADE.bars,
            caption="report/radhical_bars.rst",
            category="RADHicaL",
            labels={"cascade": "{cascade}", "figure": "measured against the bars"},
        ),
    log:
        LAYOUT.log("radhical_compare", "{cascade}"),
    benchmark:
        LAYOUT.benchmark("radhical_compare", "{cascade}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory(6000, pixel_bytes=64, **FINEST),
        runtime=minutes(120),
    params:
        cfg=lambda wildcards: CONFIG.radhical[wildcards.cascade].dump(),
        annotations=CONFIG.annotations.dump(),
        cohort=lambda wildcards: [
            [s, SLIDES[s].patient_id, FINGERPRINTS.of(SLIDES[s].annotation)]
            for s in PLAN.cascade_slides(wildcards.cascade, "test")
        ],
        sites=lambda wildcards: [[s, SLIDES[s].site] for s in PLAN.cascade_slides(wildcards.cascade, "test")],
        seed=CONFIG.seed,
        code=code("radhical_compare.py"),
    script:
        "../scripts/radhical_compare.py"
