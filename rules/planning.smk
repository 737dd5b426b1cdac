# The outputs of a run, and what happens before and after it. The only file that relies on internals of Snakemake.
import functools

from histomake.audit.sidecar import SIDECAR
from histomake.cohort.originals import slides_without_file
from histomake.cohort.sheet import SLIDE_ID
from histomake.planning import snakemake_internals as internals
from histomake.planning.forked_scripts import script_forks
from histomake.planning.images import image_problems
from histomake.planning.last_run import LastRun
from histomake.planning.notes import listed, notes
from histomake.planning.object_store import results_problems, stored_slide_problems
from histomake.planning.outputs import Outputs
from histomake.planning.progress_log import ProgressLog
from histomake.planning.unchanged import LeftOut

if workflow.is_main_process:
    problems = list(results_problems(CONFIG.results, elsewhere=internals.stores_everything_elsewhere(workflow)))
    try:
        problems += stored_slide_problems(SLIDES.values(), LAYOUT, FINGERPRINTS.exists)
    except HistomakeError as error:
        problems.append(str(error))
    if internals.runs_in_containers(workflow):
        problems += image_problems(CONFIG.containers)
    if problems:
        raise WorkflowError("\n".join(problems))

IMPORTED = internals.is_imported(workflow)
# Only the main process compares with the last run: a job on a cluster is told which slide to process.
LAST_RUN = None
if workflow.is_main_process:
    software = internals.deployment(workflow)
    LAST_RUN = LastRun(PLAN, FINGERPRINTS, tissue_model=TISSUE_MODEL, root=ROOT, deployment=software)
# Slides that are unchanged since the last complete run, and their outputs, are left out of a plan, as sources. A plan of
# 10,000 slides takes more than a minute and 2 GB otherwise. It is known what to leave out when Snakemake makes the plan.
LEFT_OUT = LeftOut()


def find_left_out():
    """What is unchanged since the last complete run."""
    found = LAST_RUN.left_out()
    count = len(SLIDES) - len(found.slides)
    print(f"plan: {count:,} of {len(SLIDES):,} slides are new or changed", file=sys.stderr)
    return found


def remember_run():
    """Keep for the next run what this one leaves, if it was asked for everything."""
    if internals.everything_was_asked(workflow) and not IMPORTED:
        LAST_RUN.remember(internals.planned_files(workflow, SIDECAR), without=LEFT_OUT.slides)


def remember_unneeded():
    """The same after a run that had nothing to do: otherwise the next one would look at the same slides again."""
    if len(LEFT_OUT.slides) < len(SLIDES):
        remember_run()


if workflow.is_main_process:
    # Of many small images most of the time would be spent on starting Python.
    for scripts, forks in script_forks(SCRIPTS):
        internals.fork_scripts(forks, scripts)
    internals.limit_considered_jobs()
    internals.wake_scheduler_once()
    if not IMPORTED:
        internals.shorten_dry_run(workflow)
        PROGRESS = ProgressLog(LAYOUT.progress)
        internals.follow_events(PROGRESS)
        if CONFIG.plan == "new":
            internals.leave_out(workflow, LEFT_OUT, find_left_out, unneeded=remember_unneeded)
    elif CONFIG.plan == "new" and "plan" in CONFIG.model_fields_set:
        print(f"plan: all slides, because plan=new needs: snakemake --snakefile {ROOT}/Snakefile", file=sys.stderr)
    for note in notes(PLAN):
        print(f"plan: {note}", file=sys.stderr)
    internals.compare_params_with_sidecars(SIDECAR)
    internals.decode_records_faster()
    if not CONFIG.export.identifiers:
        internals.leave_names_out_of_reports(workflow)


@functools.cache
def without_file():
    """Slides whose files are missing. Their stores and manifests are sources then, as no rule can make them again."""
    return slides_without_file(SLIDES.values(), FINGERPRINTS.exists)


WITHOUT_FILE = without_file() if workflow.is_main_process else frozenset()
if WITHOUT_FILE:
    print(
        f"cohort: {len(WITHOUT_FILE)} without their file, used from the store: {listed(sorted(WITHOUT_FILE))}",
        file=sys.stderr,
    )
OUTPUTS = Outputs(PLAN, LEFT_OUT.slides)


def identifying(path, **shown):
    """An output that names slides or shows one: in Snakemake's report only if `export.identifiers` is set."""
    return report(path, **shown) if CONFIG.export.identifiers else path


wildcard_constraints:
    slide=SLIDE_ID.pattern,


RUN = {}
"""The record of this run, once it has started."""


def finish_run(log, succeeded):
    """Record the end of the run, and say what is missing."""
    from histomake.audit import runs

    everything, sources = internals.everything_was_asked(workflow) and not IMPORTED, LEFT_OUT.slides | WITHOUT_FILE
    outputs = internals.all_outputs(workflow) if everything else frozenset()
    jobs = runs.Jobs(
        done=internals.first_outputs_of_done_jobs(workflow),
        is_output=lambda path, slide: not everything or slide in sources or path in outputs,
    )
    run = RUN.get("started") or runs.Run(LAYOUT, CONFIG)
    run.finish(jobs, snakemake_logs=log, succeeded=succeeded)
    if not IMPORTED:
        PROGRESS.end(succeeded=succeeded)


# Imports are local because every job on a cluster reads this file, too, and should start quickly.
# Snakemake does not run the hooks of a module. The importing workflow can: `onsuccess: histomake.onsuccess()`.
onstart:
    from histomake.audit import runs

    RUN["started"] = runs.Run(LAYOUT, CONFIG)
    try:
        RUN["started"].start()
    except HistomakeError as error:
        raise WorkflowError(str(error)) from None
    if not IMPORTED:
        PROGRESS.start()
    print(runs.preflight(LAYOUT, SLIDES, FINGERPRINTS), file=sys.stderr)


onsuccess:
    remember_run()
    finish_run(log, succeeded=True)


onerror:
    internals.mark_failed_jobs(workflow)
    finish_run(log, succeeded=False)
