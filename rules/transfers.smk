# Stain transfer: generators are learned from the slides of two stains, which are not paired.
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
