# Stain transfer: generators are learned from the slides of two stains, which are not paired, and make virtual slides.
from histomake.planning.network_memory import cohort_patches, transfer_training_mb

TRANSFER = LAYOUT.transfer("{transfer}")


# `snakemake all_transfers`: everything of all stain transfers.
rule all_transfers:
    input:
        lambda wildcards: OUTPUTS.of_transfers(),


# As for tasks, one small file represents the slides, and no slide that is only tested or predicted.
rule transfer_cohort:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in OUTPUTS.transfers.slides(wildcards.transfer, "train")],
        tables=lambda wildcards: [
            LAYOUT.table(CONFIG.stain_transfers[wildcards.transfer].grid, s)
            for s in OUTPUTS.transfers.slides(wildcards.transfer, "train")
        ],
    output:
        cohort=TRANSFER.cohort,
    log:
        LAYOUT.log("transfer_cohort", "{transfer}"),
    benchmark:
        LAYOUT.benchmark("transfer_cohort", "{transfer}")
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        slides=lambda wildcards: OUTPUTS.transfers.cohort(wildcards.transfer),
        code=code("transfer_cohort.py"),
    script:
        "../scripts/transfer_cohort.py"


# A retry continues from the checkpoint of the last attempt, so its time limit is not doubled.
rule train_transfer:
    input:
        cohort=TRANSFER.cohort,
    output:
        weights=TRANSFER.weights,
        description=TRANSFER.description,
        history=TRANSFER.history,
        details=directory(TRANSFER.training_details),
    log:
        LAYOUT.log("train_transfer", "{transfer}"),
    benchmark:
        LAYOUT.benchmark("train_transfer", "{transfer}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: lambda wildcards: OUTPUTS.transfers.cores(wildcards.transfer)
    resources:
        gpu=1,
        mem_mb=memory(
            4000,
            more=lambda wildcards, input: transfer_training_mb(
                CONFIG.stain_transfers[wildcards.transfer],
                CONFIG.grids[CONFIG.stain_transfers[wildcards.transfer].grid],
                cohort_patches(input.cohort),
            ),
        ),
        runtime=48 * 60,
    params:
        cfg=lambda wildcards: CONFIG.stain_transfers[wildcards.transfer].fitting(),
        seed=CONFIG.seed,
        code=code("train_transfer.py"),
    script:
        "../scripts/train_transfer.py"


rule transfer_slide:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        store=LAYOUT.store("{slide}", packed=PACKED),
        tissue=LAYOUT.tissue("{slide}"),
        mask=LAYOUT.tissue_mask("{slide}"),
        weights=TRANSFER.weights,
        description=TRANSFER.description,
    output:
        manifest=TRANSFER.manifest("{slide}"),
        store=TRANSFER.store("{slide}"),
        view=identifying(
            TRANSFER.view("{slide}"),
            caption="report/transfer_slide.rst",
            category="Stain transfer",
            subcategory="{transfer}",
            labels={"slide": "{slide}", "view": "in silico"},
        ),
    log:
        LAYOUT.log("transfer_slide", "{transfer}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("transfer_slide", "{transfer}", "{slide}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(240),
    params:
        cfg=CONFIG.convert.dump("codec", "quality", "tile_px", "shard_px"),
        side=lambda wildcards: OUTPUTS.transfers.side(wildcards.transfer, wildcards.slide),
        code=code("transfer_slide.py"),
    script:
        "../scripts/transfer_slide.py"


# Measured are the virtual slides of held-out patients, which are made for this whatever `apply.roles` says.
rule measure_transfer:
    input:
        cohort=TRANSFER.cohort,
        weights=TRANSFER.weights,
        description=TRANSFER.description,
        virtual=lambda wildcards: [
            LAYOUT.transfer(wildcards.transfer).manifest(s)
            for s in OUTPUTS.transfers.measured(wildcards.transfer, wildcards.direction)
        ],
        stores=lambda wildcards: [
            LAYOUT.transfer(wildcards.transfer).store(s)
            for s in OUTPUTS.transfers.measured(wildcards.transfer, wildcards.direction)
        ],
        tissue=lambda wildcards: [
            LAYOUT.tissue(s) for s in OUTPUTS.transfers.measured(wildcards.transfer, wildcards.direction)
        ],
        masks=lambda wildcards: [
            LAYOUT.tissue_mask(s) for s in OUTPUTS.transfers.measured(wildcards.transfer, wildcards.direction)
        ],
        manifests=lambda wildcards: [
            LAYOUT.manifest(s) for s in OUTPUTS.transfers.compared(wildcards.transfer, wildcards.direction)
        ],
        tables=lambda wildcards: [
            LAYOUT.table(CONFIG.stain_transfers[wildcards.transfer].grid, s)
            for s in OUTPUTS.transfers.compared(wildcards.transfer, wildcards.direction)
        ],
        encoder=ancient(lambda wildcards: OUTPUTS.transfers.encoder_files(wildcards.transfer)),
    output:
        measures=TRANSFER.measures("{direction}"),
        invented=identifying(
            TRANSFER.invented("{direction}"),
            caption="report/measure_transfer.rst",
            category="Stain transfer",
            subcategory="{transfer}",
            labels={"slide": "held-out slides", "view": "nuclei that they do not have, {direction}"},
        ),
    log:
        LAYOUT.log("measure_transfer", "{transfer}", "{direction}"),
    benchmark:
        LAYOUT.benchmark("measure_transfer", "{transfer}", "{direction}")
    wildcard_constraints:
        direction="forward|backward",
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(240),
    params:
        cfg=lambda wildcards: CONFIG.stain_transfers[wildcards.transfer].measure.dump(),
        encoder=lambda wildcards: OUTPUTS.transfers.encoder_settings(wildcards.transfer),
        encoder_files=lambda wildcards: [
            FINGERPRINTS.of(str(p)) for p in OUTPUTS.transfers.encoder_files(wildcards.transfer)
        ],
        slides=lambda wildcards: OUTPUTS.transfers.held_out(wildcards.transfer, wildcards.direction),
        seed=CONFIG.seed,
        code=code("measure_transfer.py"),
    script:
        "../scripts/measure_transfer.py"
