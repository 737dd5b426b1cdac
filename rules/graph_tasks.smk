# Slides and patients as graphs: models that learn from their nodes and edges, and their predictions.
from histomake.planning.network_memory import cohort_patches, graph_prediction_mb, graph_training_mb


# The digests of the graphs are in the cohort file, as those of all other files of the slides.
rule train_graphs:
    input:
        cohort=LAYOUT.training_cohort("{task}", "{fold}"),
    output:
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
        history=LAYOUT.history("{task}", "{fold}"),
        details=directory(LAYOUT.training_details("{task}", "{fold}")),
    log:
        LAYOUT.log("train_graphs", "{task}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("train_graphs", "{task}", "fold{fold}")
    wildcard_constraints:
        task=only([name for name in PLAN.trained if name in PLAN.on_graphs]),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        mem_mb=memory(
            500, more=lambda wildcards, input: graph_training_mb(task(wildcards), cohort_patches(input.cohort))
        ),
        runtime=12 * 60,
    params:
        cfg=lambda wildcards: task(wildcards).fitting(),
        graph=lambda wildcards: task(wildcards).graph,
        seed=CONFIG.seed,
        code=code("train_graphs.py"),
    script:
        "../scripts/train_graphs.py"


# A slide of a patient-level task is predicted together with the patient's other slides, the job's slide first.
rule predict_graph:
    input:
        manifests=lambda wildcards: [
            LAYOUT.manifest(s) for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        tables=lambda wildcards: [
            LAYOUT.table(task(wildcards).grid, s)
            for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        graphs=lambda wildcards: [
            LAYOUT.graph(task(wildcards).graph, s)
            for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
    output:
        predictions=LAYOUT.prediction("{task}", "{fold}", "{slide}"),
        nodes=LAYOUT.predicted_nodes("{task}", "{fold}", "{slide}"),
    log:
        LAYOUT.log("predict_graph", "{task}", "fold{fold}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("predict_graph", "{task}", "fold{fold}", "{slide}")
    wildcard_constraints:
        task=only(PLAN.on_graphs),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(2500, per_gb=20_000),
        runtime=minutes(15),
    params:
        grid=lambda wildcards: task(wildcards).grid,
        entries=lambda wildcards: [
            PLAN.entry(s) for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        code=code("predict_graph.py"),
    script:
        "../scripts/predict_graph.py"


# What a trained network makes of its test slides without one group of the features of their nodes.
rule permute_features:
    input:
        manifests=lambda wildcards: [LAYOUT.manifest(s) for s in PLAN.slides_in(wildcards.task, wildcards.fold, "test")],
        tables=lambda wildcards: [
            LAYOUT.table(task(wildcards).grid, s) for s in PLAN.slides_in(wildcards.task, wildcards.fold, "test")
        ],
        graphs=lambda wildcards: [
            LAYOUT.graph(task(wildcards).graph, s) for s in PLAN.slides_in(wildcards.task, wildcards.fold, "test")
        ],
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
    output:
        scores=LAYOUT.permuted_scores("{task}", "{fold}"),
    log:
        LAYOUT.log("permute_features", "{task}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("permute_features", "{task}", "fold{fold}")
    wildcard_constraints:
        task=only(PLAN.on_graphs),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(2500, more=lambda wildcards, input: graph_prediction_mb(input.graphs)),
        runtime=4 * 60,
    params:
        grid=lambda wildcards: task(wildcards).grid,
        entries=lambda wildcards: [PLAN.entry(s) for s in PLAN.slides_in(wildcards.task, wildcards.fold, "test")],
        repeats=lambda wildcards: task(wildcards).evaluate.permutations,
        seed=CONFIG.seed,
        code=code("permute_features.py"),
    script:
        "../scripts/permute_features.py"
