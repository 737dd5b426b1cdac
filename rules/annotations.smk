# Annotations of every format to one geometry, in level-0 pixels: GeoJSON that QuPath opens, and label images of masks.
READING = LAYOUT.reading("{slide}", "{reader}")


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


# The label image is a store without arrays if the reader annotated outlines.
use rule annotate as annotate_reader with:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        annotation=ancient(lambda wildcards: slide(wildcards).readers[wildcards.reader]),
    output:
        record=READING.record,
        outlines=READING.outlines,
        labels=READING.labels,
    log:
        LAYOUT.log("annotate_reader", "{slide}", "{reader}"),
    benchmark:
        LAYOUT.benchmark("annotate_reader", "{slide}", "{reader}")
    wildcard_constraints:
        slide=only(sorted(PLAN.read_by_several)),
        reader=only(PLAN.readers),
    params:
        annotation=lambda wildcards: [FINGERPRINTS.of(slide(wildcards).readers[wildcards.reader])],
        cfg=CONFIG.annotations.dump(),
        roi=CONFIG.roi_classes,
        code=code("annotate.py"),


# Agreement is compared on tissue, so this rule needs the mask. Files of the readers are named in messages.
rule annotate_readers:
    input:
        manifest=LAYOUT.manifest("{slide}"),
        tissue=LAYOUT.tissue("{slide}"),
        mask=LAYOUT.tissue_mask("{slide}"),
        records=lambda wildcards: [LAYOUT.reading(wildcards.slide, r).record for r in slide(wildcards).readers],
        drawn=lambda wildcards: [LAYOUT.reading(wildcards.slide, r).outlines for r in slide(wildcards).readers],
        masks=lambda wildcards: [LAYOUT.reading(wildcards.slide, r).labels for r in slide(wildcards).readers],
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
        consensus=CONFIG.readers.dump(),
        code=code("annotate_readers.py"),
    script:
        "../scripts/annotate_readers.py"


ruleorder: annotate_readers > annotate_mask > annotate
