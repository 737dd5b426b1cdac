# The configuration, the slide sheet, the plan, and the functions that several rule files use.
import atexit
import gc
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# A plan consists of millions of objects that live until the process ends. Garbage collection would take a quarter of
# the planning time, and as long again at the end. The process that plans a single job on a cluster makes few.
gc.set_threshold(100_000 if workflow.is_main_process else 0, 50, 50)
atexit.register(gc.freeze)

# The folder of this file, not of the main Snakefile, which may be that of a workflow that uses this one as a module.
ROOT = Path(str(workflow.current_basedir)).parent
SCRIPTS = ROOT / "scripts"
if not SCRIPTS.is_dir():
    raise WorkflowError(f"{ROOT} is not a local folder: clone the repository and use the Snakefile in the clone")
# Use the library next to the scripts, here and in the jobs, even if another copy is installed. With conda, for which
# Snakemake removes PYTHONPATH, the folder that Snakemake appends to the path of a script has the same effect.
SEARCHED = [str(SCRIPTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
os.environ.update(PYTHONPATH=os.pathsep.join(dict.fromkeys(filter(None, SEARCHED))))
sys.path.insert(0, str(SCRIPTS))

from histomake.audit.code import code_digest, require_library, use_memory
from histomake.audit.fingerprints import Fingerprints
from histomake.base.errors import HistomakeError
from histomake.cohort.sheet import read_sheet
from histomake.config import parse_config
from histomake.planning.misfits import misfits
from histomake.planning.object_store import ObjectStore
from histomake.planning.plan import make_plan
from histomake.planning.resources import batch_pixels, memory, minutes

try:
    require_library(SCRIPTS)
    files = workflow.configfiles if workflow.is_main_process else []
    CONFIG = parse_config(config, origin=", ".join(map(str, workflow.configfiles)), files=files)
    MAIN = workflow.is_main_process
    SLIDES = read_sheet(CONFIG.sheet, CONFIG, check_files=MAIN, compare=MAIN)
    PLAN = make_plan(CONFIG, SLIDES)
    found = misfits(PLAN) if MAIN else []
except HistomakeError as error:
    raise WorkflowError(str(error)) from None
if found:
    raise WorkflowError("\n".join(["models and tasks do not fit together:", *(f"  {line}" for line in found)]))

LAYOUT = PLAN.layout
use_memory(LAYOUT.code_digests, save=workflow.is_main_process)
config["results"] = CONFIG.results  # where scripts find it, also if it is the default
FINGERPRINTS = Fingerprints(LAYOUT.fingerprints, remember=MAIN, stored=ObjectStore(storage, many=MAIN).find)
PACKED = CONFIG.convert.store == "zip"
# With a model instead of thresholds, rule presegment runs another script, in the environment that has torch.
TISSUE_MODEL = PLAN.tissue_model_files()
# Of rules that hold a whole slide at once, at the resolution of its mask or of its pictures. Measured: at most 48 bytes.
WHOLE_MASK = {"pixel_bytes": 64, "mpp": CONFIG.tissue.mpp}
WHOLE_PICTURE = {"pixel_bytes": 64, "mpp": min(CONFIG.tissue.mpp, CONFIG.explain.overlay_mpp)}


def slide(wildcards):
    """Row of the sheet of the job's slide."""
    try:
        return SLIDES[wildcards.slide]
    except KeyError:
        raise WorkflowError(f"no slide {wildcards.slide!r} in {CONFIG.sheet}") from None


def task(wildcards):
    """Settings of the job's task."""
    return CONFIG.tasks[wildcards.task]


def predicted_at_once(wildcards):
    """Pixels of a batch of the job's task."""
    return batch_pixels(task(wildcards).predict.batch, CONFIG.grids[task(wildcards).grid].size)


def only(names):
    """Wildcard constraint to some names; without any, one that nothing matches."""
    return "|".join(map(re.escape, names)) or "(?!)"


def code(script):
    """Digest of the code that the rule's script runs: a param, so that the job runs again when it changes.

    A job on a cluster digests the code of its own rule only. The main process needs all, and a function per job would
    cost more.
    """
    path = SCRIPTS / script
    return code_digest(path) if workflow.is_main_process else lambda wildcards: code_digest(path)


def processes(wildcards):
    """CPU cores for a GPU: one process computes, the others load patches. Snakemake gives no more than there are."""
    workers = task(wildcards).train.workers
    return 1 + (7 if workers is None else workers)  # seven loaders keep up with a GPU


wildcard_constraints:
    grid=only(CONFIG.grids),
    task=only(CONFIG.tasks),
    fold=r"\d+",
    cascade=only(CONFIG.radhical),
    patch_cascade=only(CONFIG.cascades),
    cells=only(CONFIG.cells),
    graph=only(CONFIG.graphs),
    transfer=only(CONFIG.stain_transfers),
    level=r"\d+",
