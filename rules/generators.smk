# Growing generators: networks that make fields of view out of random numbers, learned from the slides' tissue.
from histomake.patch.field_grid import grid_name
from histomake.planning.network_memory import cohort_patches, generator_training_mb

GENERATOR = LAYOUT.generator("{generator}")


wildcard_constraints:
    generator=only(CONFIG.generators),


# `snakemake all_generators`: everything of all generators.
rule all_generators:
    input:
        lambda wildcards: OUTPUTS.of_generators(),


# The fields of generators are placed like patches, by grids of their own.
use rule tabulate_patches as tabulate_fields with:
    output:
        table=LAYOUT.table("{grid}", "{slide}"),
    log:
        LAYOUT.log("tabulate_fields", "{grid}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("tabulate_fields", "{grid}", "{slide}")
    wildcard_constraints:
        grid=only(OUTPUTS.generators.grids),
    params:
        cfg=lambda wildcards: OUTPUTS.generators.grids[wildcards.grid].dump(),
        max_share=CONFIG.quality.max_share,
        classes=CONFIG.class_names,
        code=code("tabulate_patches.py"),


# As for tasks, one small file represents the slides, and no slide that is held out.
rule generator_cohort:
    input:
        manifests=lambda wildcards: [
            LAYOUT.manifest(s) for s in OUTPUTS.generators.slides(wildcards.generator, "train")
        ],
        tables=lambda wildcards: [
            LAYOUT.table(grid_name(wildcards.generator), s)
            for s in OUTPUTS.generators.slides(wildcards.generator, "train")
        ],
    output:
        cohort=GENERATOR.cohort,
    log:
        LAYOUT.log("generator_cohort", "{generator}"),
    benchmark:
        LAYOUT.benchmark("generator_cohort", "{generator}")
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        slides=lambda wildcards: OUTPUTS.generators.cohort(wildcards.generator, "train"),
        label=lambda wildcards: CONFIG.generators[wildcards.generator].label,
        code=code("generator_cohort.py"),
    script:
        "../scripts/generator_cohort.py"


# A retry continues from the checkpoint of the last attempt, so its time limit is not doubled.
rule train_generator:
    input:
        cohort=GENERATOR.cohort,
    output:
        weights=GENERATOR.weights,
        description=GENERATOR.description,
        history=GENERATOR.history,
        phases=report(
            GENERATOR.phases,
            caption="report/train_generator.rst",
            category="Generators",
            subcategory="{generator}",
            labels={"view": "training, in silico"},
        ),
        details=directory(GENERATOR.training_details),
    log:
        LAYOUT.log("train_generator", "{generator}"),
    benchmark:
        LAYOUT.benchmark("train_generator", "{generator}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: lambda wildcards: OUTPUTS.generators.cores(wildcards.generator)
    resources:
        gpu=1,
        mem_mb=memory(
            4000,
            more=lambda wildcards, input: generator_training_mb(
                CONFIG.generators[wildcards.generator], cohort_patches(input.cohort)
            ),
        ),
        runtime=48 * 60,
    params:
        cfg=lambda wildcards: CONFIG.generators[wildcards.generator].fitting(),
        seed=CONFIG.seed,
        code=code("train_generator.py"),
    script:
        "../scripts/train_generator.py"


rule sample_generator:
    input:
        weights=GENERATOR.weights,
        description=GENERATOR.description,
    output:
        samples=report(
            GENERATOR.samples,
            caption="report/sample_generator.rst",
            category="Generators",
            subcategory="{generator}",
            labels={"view": "samples, in silico"},
        ),
    log:
        LAYOUT.log("sample_generator", "{generator}"),
    benchmark:
        LAYOUT.benchmark("sample_generator", "{generator}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        seed=CONFIG.seed,
        code=code("sample_generator.py"),
    script:
        "../scripts/sample_generator.py"


# On request: `snakemake results/generators/renal/samples/1000_seed7` makes 1000 images.
rule draw_samples:
    input:
        weights=GENERATOR.weights,
        description=GENERATOR.description,
    output:
        folder=directory(GENERATOR.drawn("{images}", "{seed}")),
    log:
        LAYOUT.log("draw_samples", "{generator}", "{images}_seed{seed}"),
    benchmark:
        LAYOUT.benchmark("draw_samples", "{generator}", "{images}_seed{seed}")
    wildcard_constraints:
        images=r"[1-9]\d{0,5}",
        seed=r"\d{1,9}",
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(120),
    params:
        code=code("draw_samples.py"),
    script:
        "../scripts/draw_samples.py"


# Training fields are read by the cohort, whose digests are checked.
rule measure_generator:
    input:
        cohort=GENERATOR.cohort,
        weights=GENERATOR.weights,
        description=GENERATOR.description,
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in OUTPUTS.generators.slides(wildcards.generator, "test")],
        tables=lambda wildcards: [
            LAYOUT.table(grid_name(wildcards.generator), s)
            for s in OUTPUTS.generators.slides(wildcards.generator, "test")
        ],
        encoder=ancient(lambda wildcards: OUTPUTS.generators.encoder_files(wildcards.generator)),
    output:
        measures=GENERATOR.measures,
        nearest=identifying(
            GENERATOR.nearest,
            caption="report/measure_generator.rst",
            category="Generators",
            subcategory="{generator}",
            labels={"slide": "training slides", "view": "nearest to samples"},
        ),
    log:
        LAYOUT.log("measure_generator", "{generator}"),
    benchmark:
        LAYOUT.benchmark("measure_generator", "{generator}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(120),
    params:
        cfg=lambda wildcards: CONFIG.generators[wildcards.generator].measure.dump(),
        encoder=lambda wildcards: OUTPUTS.generators.encoder_settings(wildcards.generator),
        encoder_files=lambda wildcards: [
            FINGERPRINTS.of(str(p)) for p in OUTPUTS.generators.encoder_files(wildcards.generator)
        ],
        slides=lambda wildcards: OUTPUTS.generators.cohort(wildcards.generator, "test"),
        seed=CONFIG.seed,
        code=code("measure_generator.py"),
    script:
        "../scripts/measure_generator.py"
