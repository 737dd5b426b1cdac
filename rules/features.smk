# Features of every kept patch, by encoders whose weights stay as they are.


# One job per slide and group of encoders, so that patches are decoded once for all encoders of the group. A job also
# encodes the next small slides whose patch tables are there, so tables of other slides go first.
rule features:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        table=lambda wildcards: LAYOUT.table(PLAN.group_grid(wildcards.group), wildcards.slide),
        weights=ancient(lambda wildcards: PLAN.encoder_files(wildcards.group)),
        models=lambda wildcards: PLAN.encoder_models(wildcards.group),
    output:
        features=LAYOUT.features("{group}", "{slide}"),
    log:
        LAYOUT.log("features", "{group}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("features", "{group}", "{slide}")
    wildcard_constraints:
        group=only(CONFIG.encoder_groups),
    priority: -1
    conda:
        "../envs/learning.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: PLAN.encoder_settings(wildcards.group),
        weights=lambda wildcards: [FINGERPRINTS.of(str(p)) for p in PLAN.encoder_files(wildcards.group)],
        models=lambda wildcards: PLAN.encoder_folders(wildcards.group),
        code=code("features.py"),
    script:
        "../scripts/features.py"
