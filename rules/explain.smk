# Explanations of models on their test slides: embeddings of patches, and attributions to pixels.
from histomake.base.files import sha256_file

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
        page=report(
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
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(8000),
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
        panels=report(
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
    threads: 2
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        cfg=CONFIG.explain.dump("shap_patches", "shap_at", "shap_background", "shap_method", "regions"),
        slides=lambda wildcards: [PLAN.entry(s) for s in OUTPUTS.explained(wildcards.task, wildcards.fold)],
        seed=CONFIG.seed,
        code=code("attribute.py"),
    script:
        "../scripts/attribute.py"
