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
LAST_RUN = LastRun(PLAN, FINGERPRINTS, tissue_model=TISSUE_MODEL, root=ROOT) if workflow.is_main_process else None


def find_unchanged():
    """With `--config plan=new`, ids of the slides that are unchanged since the last complete run. They are not planned.

    Their outputs are then sources, as the slides are. A plan of 10,000 slides takes minutes and 2 GB otherwise. Where
    this workflow is a module of another one, that one says what a run is asked for, so all slides are planned.
    """
    if LAST_RUN is None or CONFIG.plan == "all":
        return frozenset()
    if IMPORTED:
        print(f"plan: all slides, because plan=new needs: snakemake --snakefile {ROOT}/Snakefile", file=sys.stderr)
        return frozenset()
    found = LAST_RUN.unchanged()
    print(f"plan: {len(SLIDES) - len(found):,} of {len(SLIDES):,} slides are new or changed", file=sys.stderr)
    return found


if workflow.is_main_process:
    # Of many small images most of the time would be spent on starting Python.
    for scripts, forks in script_forks(SCRIPTS):
        internals.fork_scripts(forks, scripts)
    internals.limit_considered_jobs()
    internals.wake_scheduler_once()
    if not IMPORTED:
        internals.shorten_dry_run(workflow)
    for note in notes(PLAN):
        print(f"plan: {note}", file=sys.stderr)
    internals.compare_params_with_sidecars(SIDECAR)
    internals.decode_records_faster()
    if not CONFIG.export.identifiers:
        internals.leave_names_out_of_reports(workflow)
UNCHANGED = find_unchanged()


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
SOURCES = UNCHANGED | WITHOUT_FILE
OUTPUTS = Outputs(PLAN, UNCHANGED)


def identifying(path, **shown):
    """An output that names slides or shows one: in Snakemake's report only if `export.identifiers` is set."""
    return report(path, **shown) if CONFIG.export.identifiers else path


wildcard_constraints:
    slide=only([s for s in SLIDES if s not in UNCHANGED]) if UNCHANGED else SLIDE_ID.pattern,


RUN = {}
"""The record of this run, once it has started."""


def finish_run(log, succeeded):
    """Record the end of the run, and say what is missing."""
    from histomake.audit import runs

    everything = internals.everything_was_asked(workflow) and not IMPORTED
    outputs = internals.all_outputs(workflow) if everything else frozenset()
    jobs = runs.Jobs(
        done=internals.first_outputs_of_done_jobs(workflow),
        is_output=lambda path, slide: not everything or slide in SOURCES or path in outputs,
    )
    run = RUN.get("started") or runs.Run(LAYOUT, CONFIG)
    run.finish(jobs, snakemake_logs=log, succeeded=succeeded)


# Imports are local because every job on a cluster reads this file, too, and should start quickly.
# Snakemake does not run the hooks of a module. The importing workflow can: `onsuccess: histomake.onsuccess()`.
onstart:
    from histomake.audit import runs

    RUN["started"] = runs.Run(LAYOUT, CONFIG)
    try:
        RUN["started"].start()
    except HistomakeError as error:
        raise WorkflowError(str(error)) from None
    print(runs.preflight(LAYOUT, SLIDES, FINGERPRINTS), file=sys.stderr)


onsuccess:
    if internals.everything_was_asked(workflow) and not IMPORTED:
        LAST_RUN.remember(internals.outputs_by_slide(workflow), left_out=UNCHANGED)
    finish_run(log, succeeded=True)


onerror:
    internals.mark_failed_jobs(workflow)
    finish_run(log, succeeded=False)
