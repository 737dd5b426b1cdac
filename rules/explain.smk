# Explanations of models on their test slides: embeddings of patches, and attributions to pixels.
from histomake.base.files import sha256_file
from histomake.planning.network_memory import attribution_mb, cohort_patches, embedding_mb

EMBEDDING, ATTRIBUTION = LAYOUT.embedding("{task}", "{fold}"), LAYOUT.attribution("{task}", "{fold}")


# Inputs and params of both rules: files of the slides that the job's model is explained on.
EXPLAINED = {
    "manifests": lambda wildcards: [LAYOUT.manifest(s) for s in OUTPUTS.explained(wildcards.task, wildcards.fold)],
    "tables": lambda wildcards: [
        LAYOUT.table(task(wildcards).grid, s) for s in OUTPUTS.explained(wildcards.task, wildcards.fold)
    ],
    "predictions": lambda wildcards: [
        LAYOUT.prediction(wildcards.task, wildcards.fold, s) for s in OUTPUTS.explained(wildcards.task, wildcards.fold)
    ],
    "weights": LAYOUT.weights("{task}", "{fold}"),
    "description": LAYOUT.description("{task}", "{fold}"),
}


rule embed:
    input:
        **EXPLAINED,
        vectors=lambda wildcards: OUTPUTS.explained_features(wildcards.task, wildcards.fold),
    output:
        features=EMBEDDING.features,
        page=identifying(
            EMBEDDING.page,
            caption="report/embedding.rst",
            category="Model",
            subcategory="{task}",
            labels={"what": "embedding, interactive", "fold": "{fold}"},
        ),
        mosaic=report(
            EMBEDDING.mosaic,
            caption="report/mosaic.rst",
            category="Model",
            subcategory="{task}",
            labels={"what": "embedding, mosaic", "fold": "{fold}"},
        ),
        record=EMBEDDING.record,
    log:
        LAYOUT.log("embed", "{task}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("embed", "{task}", "fold{fold}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(
            3000,
            per_gb=3000,
            more=lambda wildcards, input: embedding_mb(CONFIG.explain, CONFIG.grids[task(wildcards).grid]),
        ),
        runtime=minutes(60),
    params:
        cfg=CONFIG.explain.dump("embed_patches", "umap_neighbors"),
        slides=lambda wildcards: [PLAN.entry(s) for s in OUTPUTS.explained(wildcards.task, wildcards.fold)],
        sites=lambda wildcards: [SLIDES[s].site or "" for s in OUTPUTS.explained(wildcards.task, wildcards.fold)],
        seed=CONFIG.seed,
        code=code("embed.py"),
        # Not Python, so its digest is not part of the code digest.
        page=sha256_file(SCRIPTS / "histomake/explain/embedding_page.js"),
    script:
        "../scripts/embed.py"


rule attribute:
    input:
        **EXPLAINED,
        cohort=LAYOUT.training_cohort("{task}", "{fold}"),
    output:
        panels=identifying(
            ATTRIBUTION.panels,
            caption="report/attribution.rst",
            category="Model",
            subcategory="{task}",
            labels={"what": "attribution (SHAP)", "fold": "{fold}"},
        ),
        patches=ATTRIBUTION.patches,
        background=ATTRIBUTION.background,
        maps=ATTRIBUTION.maps,
        record=ATTRIBUTION.record,
    log:
        LAYOUT.log("attribute", "{task}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("attribute", "{task}", "fold{fold}")
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(
            3000,
            per_gb=3000,
            more=lambda wildcards, input: attribution_mb(
                CONFIG.explain,
                CONFIG.grids[task(wildcards).grid],
                outputs=1 + len(task(wildcards).target.classes),
                views=1 + len(task(wildcards).model.context),
                cohort=cohort_patches(input.cohort),
            ),
        ),
        runtime=minutes(60),
    params:
        cfg=CONFIG.explain.dump("shap_patches", "shap_at", "shap_background", "shap_method", "regions"),
        slides=lambda wildcards: [PLAN.entry(s) for s in OUTPUTS.explained(wildcards.task, wildcards.fold)],
        seed=CONFIG.seed,
        code=code("attribute.py"),
    script:
        "../scripts/attribute.py"


FEATURE_MAP = LAYOUT.feature_map("{encoder}")


# A map stays as it is when slides to predict are added: they are placed into it.
rule fit_map:
    input:
        features=lambda wildcards: OUTPUTS.mapped_features(wildcards.encoder, PLAN.fitted_to_map),
    output:
        map=FEATURE_MAP.fitted,
    log:
        LAYOUT.log("fit_map", "{encoder}"),
    benchmark:
        LAYOUT.benchmark("fit_map", "{encoder}")
    wildcard_constraints:
        encoder=only(CONFIG.explain.maps),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        cfg=CONFIG.explain.dump("embed_patches", "umap_neighbors"),
        grid=lambda wildcards: CONFIG.encoders[wildcards.encoder].grid,
        slides=lambda wildcards: [PLAN.entry(s) for s in PLAN.fitted_to_map],
        seed=CONFIG.seed,
        code=code("fit_map.py"),
    script:
        "../scripts/fit_map.py"


rule draw_map:
    input:
        map=FEATURE_MAP.fitted,
        features=lambda wildcards: OUTPUTS.mapped_features(wildcards.encoder, sorted(SLIDES)),
    output:
        features=FEATURE_MAP.features,
        page=identifying(
            FEATURE_MAP.page,
            caption="report/feature_map.rst",
            category="Features",
            labels={"what": "map, interactive", "encoder": "{encoder}"},
        ),
        mosaic=report(
            FEATURE_MAP.mosaic,
            caption="report/feature_map.rst",
            category="Features",
            labels={"what": "map, mosaic", "encoder": "{encoder}"},
        ),
        record=FEATURE_MAP.record,
    log:
        LAYOUT.log("draw_map", "{encoder}"),
    benchmark:
        LAYOUT.benchmark("draw_map", "{encoder}")
    wildcard_constraints:
        encoder=only(CONFIG.explain.maps),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        cfg=CONFIG.explain.dump("embed_patches"),
        grid=lambda wildcards: CONFIG.encoders[wildcards.encoder].grid,
        slides=lambda wildcards: [PLAN.entry(s) for s in sorted(SLIDES)],
        sites=lambda wildcards: [SLIDES[s].site or "" for s in sorted(SLIDES)],
        seed=CONFIG.seed,
        code=code("draw_map.py"),
        # Not Python, so its digest is not part of the code digest.
        page=sha256_file(SCRIPTS / "histomake/explain/embedding_page.js"),
    script:
        "../scripts/draw_map.py"
