# Annotations of every format to one geometry, in level-0 pixels: GeoJSON that QuPath opens, and label images of masks.


rule annotate:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        annotation=ancient(lambda wildcards: slide(wildcards).annotation or []),
    output:
        record=LAYOUT.annotation("{slide}"),
        outlines=LAYOUT.outlines("{slide}"),
    log:
        LAYOUT.log("annotate", "{slide}"),
    benchmark:
        LAYOUT.benchmark("annotate", "{slide}")
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(15),
    params:
        annotation=lambda wildcards: [FINGERPRINTS.of(path) for path in [slide(wildcards).annotation] if path],
        cfg=CONFIG.annotations.dump(),
        roi=CONFIG.roi_classes,
        code=code("annotate.py"),
    script:
        "../scripts/annotate.py"


# Only masks have a label image. Where there are none, this rule costs no time when a run is planned.
use rule annotate as annotate_mask with:
    output:
        record=LAYOUT.annotation("{slide}"),
        outlines=LAYOUT.outlines("{slide}"),
        labels=LAYOUT.label_image("{slide}"),
    wildcard_constraints:
        slide=only(sorted(PLAN.masked - PLAN.read_by_several)),


# Agreement is compared on tissue, so this rule needs the mask.
rule annotate_readers:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        tissue=LAYOUT.tissue("{slide}"),
        mask=LAYOUT.tissue_mask("{slide}"),
        annotations=ancient(lambda wildcards: slide(wildcards).annotation_files),
    output:
        record=LAYOUT.annotation("{slide}"),
        outlines=LAYOUT.outlines("{slide}"),
        labels=LAYOUT.label_image("{slide}"),
    log:
        LAYOUT.log("annotate_readers", "{slide}"),
    benchmark:
        LAYOUT.benchmark("annotate_readers", "{slide}")
    wildcard_constraints:
        slide=only(sorted(PLAN.read_by_several)),
    conda:
        "../envs/slides.yaml"
    container:
        CONFIG.containers.slides
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(15),
    params:
        readers=lambda wildcards: list(slide(wildcards).readers),
        annotations=lambda wildcards: list(map(FINGERPRINTS.of, slide(wildcards).annotation_files)),
        cfg=CONFIG.annotations.dump(),
        consensus=CONFIG.readers.dump(),
        roi=CONFIG.roi_classes,
        code=code("annotate_readers.py"),
    script:
        "../scripts/annotate_readers.py"


ruleorder: annotate_readers > annotate_mask > annotate
