"""Everything that relies on internals of Snakemake. If one changes, tests/unit/test_snakemake_internals.py fails.

``workflow`` is the object of that name in a Snakefile (`snakemake.workflow.Workflow`).
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import nullcontext, suppress
from heapq import nsmallest
from pathlib import Path
from subprocess import CalledProcessError
from threading import Timer
from typing import Any

import msgspec
from snakemake.benchmark import benchmarked
from snakemake.exceptions import MissingRuleException
from snakemake.io import strip_wildcard_constraints
from snakemake.logging import DefaultFilter, logger
from snakemake.persistence import ParamsChange, PersistenceBase
from snakemake.persistence.file import FilePersistence
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.script import PythonScript
from snakemake.settings.enums import Quietness, RerunTrigger
from snakemake.settings.types import DeploymentMethod

from histomake.planning.forked_scripts import ScriptForks
from histomake.planning.unchanged import LeftOut, PlannedFiles

NOT_ENDED = ["did not end"]
"""Params that no job has."""

TRIGGERS = {RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT, RerunTrigger.SOFTWARE_ENV}
"""Reasons to run a job again (``rerun-triggers`` of ``profiles/default``)."""

FEWEST_CONSIDERED = 16
"""Ready jobs of a rule that the scheduler looks at, at least."""


def is_imported(workflow: Any) -> bool:
    """Whether the Snakefile that is being read is a module of another one. Hooks of a module do not run."""
    return not workflow.modifier.is_main_snakefile()


def runs_in_containers(workflow: Any) -> bool:
    """Whether jobs run in the images of their rules (``--sdm apptainer``)."""
    return DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method


def deployment(workflow: Any) -> list[str]:
    """Names of the ways in which the software of jobs is provided (``--sdm``)."""
    return sorted(method.name for method in workflow.deployment_settings.deployment_method)


def stores_everything_elsewhere(workflow: Any) -> bool:
    """Whether Snakemake is to keep all files in a storage (``--default-storage-provider``)."""
    return workflow.storage_settings.default_storage_provider is not None


def follow_events(handler: logging.Handler) -> None:
    """Let a handler see all events of Snakemake, whatever is printed: their kind is in ``event`` of a log record."""
    logger.addHandler(handler)


def shorten_dry_run(workflow: Any) -> None:
    """Let a dry run print the numbers of jobs, and not every job with its files: of 1,000 slides that is 100,000 lines.

    Every job is printed with ``-p`` (``--printshellcmds``), or with a ``--quiet`` of one's own.
    """
    settings = workflow.output_settings
    if not settings.dryrun or settings.quiet or settings.printshellcmds or settings.verbose:
        return
    for handler in logger.handlers:
        for found in handler.filters:
            if isinstance(found, DefaultFilter):
                found.quiet = {Quietness.RULES}


def leave_names_out_of_reports(workflow: Any) -> None:
    """Let Snakemake's report show no params of its figures and no constraints of wildcards: both list slides."""
    create = workflow.create_report

    def create_without_names(*given: Any, **named: Any) -> Any:
        # Imported here, because it takes a while, and a run writes no report.
        from snakemake import report

        describe, render = report.FileRecord.__post_init__, report.render_iofile

        def describe_without_params(record: Any) -> None:
            describe(record)
            record.params = ""

        def render_without_constraints(file: Any) -> Any:
            return strip_wildcard_constraints(render(file))

        report.FileRecord.__post_init__ = describe_without_params
        report.render_iofile = render_without_constraints
        return create(*given, **named)

    workflow.create_report = create_without_names


def fork_scripts(forks: ScriptForks, scripts: Collection[Path]) -> None:
    """Let these scripts run in forks of a warm process, where they would run as processes of their own.

    Scripts in another environment (conda, containers, modules), and those of jobs that are submitted, are not affected.
    """
    as_process, paths = PythonScript.execute_script, set(map(os.path.realpath, scripts))

    def execute_script(script: Any, fname: str, edit: bool = False) -> None:
        path = os.path.realpath(script.path.get_path_or_uri(secret_free=True))
        elsewhere = script.conda_env or script.container_img or script.env_modules or script.shadow_dir
        if elsewhere or edit or path not in paths or not forks.wanted():
            as_process(script, fname, edit=edit)
            return
        folder = script.resources.get("tmpdir")
        places = dict.fromkeys(("TMPDIR", "TMP", "TEMPDIR", "TEMP"), str(folder)) if folder else {}
        record = script.bench_record
        status = forks.run(fname, places, lambda pid: nullcontext() if record is None else benchmarked(pid, record))
        if status:
            raise CalledProcessError(status, [sys.executable, fname])

    PythonScript.execute_script = execute_script


def limit_considered_jobs() -> None:
    """Let the scheduler choose among the first ready jobs of each rule, twice as many as can run at once.

    Whenever a job ends, Snakemake asks the disk for the size of all inputs of all jobs that are ready. With hundreds of
    small images that takes longer than the jobs. ``--scheduler-subsample`` draws from all rules together and so loses
    priorities, and can leave a GPU idle.
    """
    select = JobScheduler.job_selector

    def select_among_first(self: Any, jobs: Collection[Any]) -> Any:
        slots = min(self.global_resources["_cores"], self.global_resources["_nodes"])
        by_rule: dict[str, list[Any]] = defaultdict(list)
        for job in jobs:
            by_rule[job.name].append(job)
        limit = max(FEWEST_CONSIDERED, 2 * slots)
        return select(self, {job for group in by_rule.values() for job in nsmallest(limit, group, key=_turn)})

    JobScheduler.job_selector = select_among_first


def wake_scheduler_once() -> None:
    """Let the scheduler wait for one timer at a time.

    While jobs wait for resources, it starts a timer whenever it wakes up, and each timer wakes it up. Every job that
    ends adds one to the timers that follow each other, so that it wakes up hundreds of times a second.
    """

    def wake_after(self: Any, delay: float) -> None:
        if getattr(self, "waking", False):
            return
        self.waking = True

        def wake() -> None:
            self.waking = False
            self._open_jobs.release()

        Timer(delay, wake).start()

    JobScheduler._schedule_reevalutation = wake_after


def _turn(job: Any) -> tuple[int, int]:
    return -job.priority, job.jobid


def leave_out(workflow: Any, left: LeftOut, find: Callable[[], LeftOut], *, unneeded: Callable[[], None]) -> None:
    """Let runs and dry runs plan no jobs that make files of ``left``, which is filled with what ``find`` returns.

    These files are sources then, as slides are. The plan is made again with all jobs, and ``left`` is cleared, if it
    would make something that jobs left out depend on: only when Snakemake has planned it is this known. Other commands
    than runs, such as ``--report`` and ``--summary``, and runs that force jobs or look for other reasons to run them,
    plan all jobs, too.

    ``unneeded`` is called after a run that had nothing to do. Snakemake runs no hook then.
    """
    execute, prepare, build = workflow.execute, workflow._prepare_dag, workflow._build_dag
    running, prepared = False, dict[str, Any]()

    def prepare_dag(**named: Any) -> None:
        prepared.update(named)
        prepare(**named)
        if running and not _forces_jobs(workflow):
            left.fill(find())
            _leave_files_out(workflow.dag, left.files)

    def build_dag() -> None:
        build()
        if left.slides and any(path in left.common for job in workflow.dag.needrun_jobs() for path in job.output):
            left.clear()
            print("plan: all slides, because a file that all depend on is made again", file=sys.stderr)
            prepare(**prepared)
            build()

    def run(*given: Any, **named: Any) -> Any:
        nonlocal running
        running = True
        result = execute(*given, **named)
        if not workflow.dryrun and not len(workflow.dag):
            unneeded()
        return result

    workflow.execute, workflow._prepare_dag, workflow._build_dag = run, prepare_dag, build_dag


def _leave_files_out(dag: Any, files: Collection[str]) -> None:
    """Let a plan have no jobs that make ``files``, except those that are targets."""
    jobs_of = dag.file2jobs

    async def jobs_of_others(targetfile: Any, *given: Any, **named: Any) -> Any:
        if targetfile in files and targetfile not in dag.targetfiles:
            raise MissingRuleException(targetfile)
        return await jobs_of(targetfile, *given, **named)

    dag.file2jobs = jobs_of_others


def _forces_jobs(workflow: Any) -> bool:
    """Whether a run was asked for jobs whatever has changed, or for other reasons than those of the profile."""
    asked = workflow.dag_settings
    forced = asked.forceall or asked.forcetargets or asked.forcerun or asked.target_jobs or asked.allowed_rules
    return bool(forced or asked.batch or workflow.touch or asked.rerun_triggers - TRIGGERS)


def everything_was_asked(workflow: Any) -> bool:
    """Whether a run was asked for all outputs, and not for some targets, a part of the jobs, or some reasons to run."""
    asked = workflow.dag_settings
    some = set(asked.targets) - {workflow.default_target}
    some = some or asked.until or asked.omit_from or asked.batch or asked.target_jobs or asked.allowed_rules
    return not (some or TRIGGERS - asked.rerun_triggers)


def first_outputs_of_done_jobs(workflow: Any) -> list[str]:
    """The first output of every job that ran and ended well."""
    return [str(job.output[0]) for job in workflow.dag.finished_jobs if job.output]


def all_outputs(workflow: Any) -> set[str]:
    """All outputs of planned jobs, including those of jobs that need not run."""
    return {str(path) for job in workflow.dag.jobs for path in job.output}


def planned_files(workflow: Any, ending: str) -> PlannedFiles:
    """Files of all planned jobs that are for one slide, and of those that these depend on and that are not.

    ``ending`` is that of sidecars, which are among the files.
    """
    slides: dict[str, list[str]] = defaultdict(list)
    common: dict[str, None] = {}
    for job in workflow.dag.jobs:
        if "slide" in job.wildcards_dict:
            slides[job.wildcards_dict["slide"]] += _files(job, ending)
            for maker in workflow.dag.dependencies[job]:
                if "slide" not in maker.wildcards_dict:
                    common |= dict.fromkeys(_files(maker, ending))
    return PlannedFiles(slides, list(common))


def _files(job: Any, ending: str) -> list[str]:
    return [*map(str, job.output), f"{job.output[0]}{ending}"]


def mark_failed_jobs(workflow: Any) -> None:
    """Make the next run repeat every job that did not end and whose outputs are gone.

    Snakemake removes the outputs of a job before it starts it again. If the job then fails, Snakemake keeps the record
    of its last success, but with the new params. Where results of the old params still exist downstream, the next run
    would find nothing to do. So the record gets params that differ from those of any job.
    """
    records = workflow.persistence
    for job in workflow.dag.needrun_jobs():
        if all(map(os.path.exists, job.output)):
            continue
        for key in map(records._get_key, job.output):
            if record := records._read_record(key):
                record.params = NOT_ENDED
                records._write_record(key, record)


def decode_records_faster() -> None:
    """Let Snakemake's records be decoded by msgspec, in two thirds of the time: a run reads that of every output."""
    read_slowly = FilePersistence._io_read

    def read_record(self: Any, subject: str, key: str) -> Any:
        try:
            with open(self._record_path(subject, key), "rb") as file:
                return msgspec.json.decode(file.read())
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError:
            # Snakemake warns of damaged records, and its decoder accepts infinite numbers.
            return read_slowly(self, subject, key)

    FilePersistence._io_read = read_record


class StatedParams(msgspec.Struct):
    """The part of a sidecar that has the params of the job."""

    params: dict[str, object]


def compare_params_with_sidecars(ending: str) -> None:
    """Where Snakemake's record of a job is missing or of an older result, compare its params with the sidecar's.

    Snakemake keeps its records in the folder it is started in. If they are lost, or if a result was made from another
    checkout since, it would find nothing to do although the settings differ. ``ending`` is that of sidecars.
    """
    has_metadata, params_changed = PersistenceBase.has_metadata, PersistenceBase.params_changed

    def has_metadata_or_sidecar(self: Any, job: Any) -> bool:
        return has_metadata(self, job) or (bool(job.output) and os.path.exists(f"{job.output[0]}{ending}"))

    def params_differ(self: Any, job: Any, file: Any = None) -> Any:
        # The rule that only names targets has no output.
        if file is not None or not job.output or _is_recorded(self, job):
            return params_changed(self, job, file)
        return _difference(job, Path(f"{job.output[0]}{ending}"))

    PersistenceBase.has_metadata = has_metadata_or_sidecar
    PersistenceBase.params_changed = params_differ


def _is_recorded(records: Any, job: Any) -> bool:
    """Whether the record is of the job that wrote the first output: it holds its modification time."""
    record = records.metadata(job.output[0])
    with suppress(FileNotFoundError):
        return record is not None and record.endtime == os.stat(job.output[0]).st_mtime
    return record is not None


def _difference(job: Any, sidecar: Path) -> ParamsChange:
    """The params that differ from those in the sidecar; a missing or damaged sidecar differs in all."""
    try:
        before = msgspec.json.decode(sidecar.read_bytes(), type=StatedParams).params
    except (FileNotFoundError, msgspec.MsgspecError):
        before = {}
    now = json.loads(json.dumps(dict(job.params.items())))
    differing = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    return ParamsChange(
        only_old={repr(before[name]) for name in differing if name in before},
        only_new={repr(now[name]) for name in differing if name in now},
        files=set(job.output) if differing else set(),
    )
