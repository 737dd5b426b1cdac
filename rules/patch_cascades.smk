# Cascades of classifiers of several grids: coarse ones decide which patches of finer grids are read.


rule patch_cascade:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        tables=lambda wildcards: [
            LAYOUT.table(CONFIG.tasks[name].grid, wildcards.slide)
            for name in OUTPUTS.cascades.stages(wildcards.patch_cascade)
        ],
        weights=lambda wildcards: [
            LAYOUT.weights(name, wildcards.fold) for name in OUTPUTS.cascades.stages(wildcards.patch_cascade)
        ],
        descriptions=lambda wildcards: [
            LAYOUT.description(name, wildcards.fold) for name in OUTPUTS.cascades.stages(wildcards.patch_cascade)
        ],
    output:
        predictions=LAYOUT.patch_cascade("{patch_cascade}", "{fold}", "{slide}"),
        record=LAYOUT.patch_cascade_record("{patch_cascade}", "{fold}", "{slide}"),
    log:
        LAYOUT.log("patch_cascade", "{patch_cascade}", "fold{fold}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("patch_cascade", "{patch_cascade}", "fold{fold}", "{slide}")
    conda:
        "../envs/learning.yaml"
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(
            4000,
            per_gb=3000,
            batch=lambda wildcards: max(
                batch_pixels(CONFIG.tasks[name].predict.batch, CONFIG.grids[CONFIG.tasks[name].grid].size)
                for name in OUTPUTS.cascades.stages(wildcards.patch_cascade)
            ),
        ),
        runtime=minutes(60),
    params:
        cfg=lambda wildcards: CONFIG.patch_cascades[wildcards.patch_cascade].dump(),
        batch=lambda wildcards: CONFIG.tasks[OUTPUTS.cascades.stages(wildcards.patch_cascade)[-1]].predict.batch,
        entry=lambda wildcards: PLAN.entry(wildcards.slide),
        code=code("patch_cascade.py"),
    script:
        "../scripts/patch_cascade.py"
