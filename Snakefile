# histomake: whole-slide images to models, predictions, explanations and an audit trail.
from snakemake.utils import min_version

min_version("9.27")

# A configuration given with --configfile replaces this one; the two are not merged.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/planning.smk"
include: "rules/slides.smk"
include: "rules/annotations.smk"
include: "rules/tissue.smk"
include: "rules/patches.smk"
include: "rules/cohort.smk"
include: "rules/training.smk"
include: "rules/features.smk"
include: "rules/bags.smk"
include: "rules/inference.smk"
include: "rules/radhical.smk"
include: "rules/cascades.smk"
include: "rules/cells.smk"
include: "rules/graphs.smk"
include: "rules/graph_tasks.smk"
include: "rules/transfers.smk"
include: "rules/generators.smk"
include: "rules/views.smk"
include: "rules/explain.smk"
include: "rules/report.smk"
include: "rules/audit.smk"


rule all:
    default_target: True
    input:
        lambda wildcards: OUTPUTS.all(),
