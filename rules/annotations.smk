# Annotations of every format to one geometry, in level-0 pixels, as GeoJSON that QuPath opens.


rule annotate:
    input:
        manifest="<results>/slides/{slide}.json",
        annotation=ancient(annotation_path),
    output:
        record="<results>/annotations/{slide}.json",
        geojson="<results>/annotations/{slide}.geojson",
    log:
        "<logs>/annotate/{slide}.log",
    benchmark:
        "<benchmarks>/annotate/{slide}.tsv"
    conda:
        "../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(15),
    params:
        annotation=annotation_fingerprint,
        cfg=CONFIG.annotations.dump(),
        code=code("annotate.py"),
    script:
        "../scripts/annotate.py"


# Only a mask becomes a label image.
use rule annotate as annotate_mask with:
    output:
        record="<results>/annotations/{slide}.json",
        geojson="<results>/annotations/{slide}.geojson",
        labels="<results>/annotations/{slide}.labels.zarr/zarr.json",
    wildcard_constraints:
        slide=MASKED,


ruleorder: annotate_mask > annotate
