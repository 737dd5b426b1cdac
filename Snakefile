# histomake: whole-slide images to models, predictions, explanations and an audit trail.
import re

from snakemake.utils import min_version

min_version("9.27")

# A configuration given with --configfile stands alone: it is not laid over this one.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/settled.smk"
include: "rules/failed.smk"


pathvars:
    results=CONFIG.results,
    logs=f"{CONFIG.results}/logs",
    benchmarks=f"{CONFIG.results}/benchmarks",


wildcard_constraints:
    slide="|".join(map(re.escape, PLANNED or ["no-slide"])) if SETTLED else SLIDE_ID.pattern,
    grid="|".join(CONFIG.grids),
    task="|".join(CONFIG.tasks) or "no-task",
    fold=r"\d+",


include: "rules/slides.smk"
include: "rules/annotations.smk"
include: "rules/tissue.smk"
include: "rules/patches.smk"
include: "rules/cohort.smk"
include: "rules/training.smk"
include: "rules/inference.smk"
include: "rules/radhical.smk"
include: "rules/interpretation.smk"
include: "rules/audit.smk"


rule all:
    default_target: True
    input:
        final_outputs,
