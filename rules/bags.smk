# Slides and patients as bags of patches: models that learn from the features or the pixels of a whole bag, and their
# predictions.

from histomake.planning.network_memory import bag_training_mb, cohort_patches, pixel_bag_training_mb


# The digests of the features are in the cohort file, as those of all other files of the slides.
rule train_bags:
    input:
        cohort=LAYOUT.training_cohort("{task}", "{fold}"),
    output:
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
        history=LAYOUT.history("{task}", "{fold}"),
        details=directory(LAYOUT.training_details("{task}", "{fold}")),
    log:
        LAYOUT.log("train_bags", "{task}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("train_bags", "{task}", "fold{fold}")
    wildcard_constraints:
        task=only([name for name in PLAN.trained if name in PLAN.on_feature_bags]),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 2
    resources:
        mem_mb=memory(
            4000,
            more=lambda wildcards, input: bag_training_mb(
                task(wildcards), cohort_patches(input.cohort), CONFIG.encoders[task(wildcards).features].choose
            ),
        ),
        runtime=12 * 60,
    params:
        cfg=lambda wildcards: task(wildcards).fitting(),
        group=lambda wildcards: PLAN.feature_group(wildcards.task),
        column=lambda wildcards: PLAN.feature_column(wildcards.task, wildcards.fold),
        seed=CONFIG.seed,
        code=code("train_bags.py"),
    script:
        "../scripts/train_bags.py"


# A slide of a patient-level task is predicted together with the patient's other slides, the job's slide first.
rule predict_bag:
    input:
        manifests=lambda wildcards: [
            LAYOUT.manifest(s) for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        tables=lambda wildcards: [
            LAYOUT.table(task(wildcards).grid, s)
            for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        features=lambda wildcards: [
            LAYOUT.features(PLAN.feature_group(wildcards.task), s)
            for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
    output:
        predictions=LAYOUT.prediction("{task}", "{fold}", "{slide}"),
    log:
        LAYOUT.log("predict_bag", "{task}", "fold{fold}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("predict_bag", "{task}", "fold{fold}", "{slide}")
    wildcard_constraints:
        task=only(PLAN.on_feature_bags),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(15),
    params:
        grid=lambda wildcards: task(wildcards).grid,
        entries=lambda wildcards: [
            PLAN.entry(s) for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        code=code("predict_bag.py"),
    script:
        "../scripts/predict_bag.py"


# The network that turns patches into vectors is trained through the pooling.
rule train_pixel_bags:
    input:
        cohort=LAYOUT.training_cohort("{task}", "{fold}"),
        pretrained=ancient(lambda wildcards: PLAN.pretrained(wildcards.task, here=False)),
        pretrained_here=lambda wildcards: PLAN.pretrained(wildcards.task, here=True),
    output:
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
        history=LAYOUT.history("{task}", "{fold}"),
        details=directory(LAYOUT.training_details("{task}", "{fold}")),
    log:
        LAYOUT.log("train_pixel_bags", "{task}", "fold{fold}"),
    benchmark:
        LAYOUT.benchmark("train_pixel_bags", "{task}", "fold{fold}")
    wildcard_constraints:
        task=only([name for name in PLAN.trained if name in PLAN.on_pixel_bags]),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: processes
    resources:
        gpu=1,
        mem_mb=memory(
            4000,
            more=lambda wildcards, input: pixel_bag_training_mb(
                task(wildcards),
                CONFIG.grids[task(wildcards).grid],
                cohort_patches(input.cohort),
                weights_mb=input.size_mb,
            ),
        ),
        runtime=24 * 60,
    params:
        cfg=lambda wildcards: task(wildcards).fitting(),
        seed=CONFIG.seed,
        pretrained=lambda wildcards: [FINGERPRINTS.of(str(p)) for p in PLAN.pretrained(wildcards.task, here=False)],
        code=code("train_pixel_bags.py"),
    script:
        "../scripts/train_pixel_bags.py"


rule predict_pixel_bag:
    input:
        manifests=lambda wildcards: [
            LAYOUT.manifest(s) for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        tables=lambda wildcards: [
            LAYOUT.table(task(wildcards).grid, s)
            for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        weights=LAYOUT.weights("{task}", "{fold}"),
        description=LAYOUT.description("{task}", "{fold}"),
    output:
        predictions=LAYOUT.prediction("{task}", "{fold}", "{slide}"),
    log:
        LAYOUT.log("predict_pixel_bag", "{task}", "fold{fold}", "{slide}"),
    benchmark:
        LAYOUT.benchmark("predict_pixel_bag", "{task}", "fold{fold}", "{slide}")
    wildcard_constraints:
        task=only(PLAN.on_pixel_bags),
    conda:
        "../envs/learning.yaml"
    container:
        CONFIG.containers.learning
    threads: processes
    resources:
        gpu=1,
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        grid=lambda wildcards: task(wildcards).grid,
        entries=lambda wildcards: [
            PLAN.entry(s) for s in PLAN.bag_slides(wildcards.task, wildcards.fold, wildcards.slide)
        ],
        code=code("predict_pixel_bag.py"),
    script:
        "../scripts/predict_pixel_bag.py"
