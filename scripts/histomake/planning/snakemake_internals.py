"""Everything that relies on internals of Snakemake. If one changes, tests/unit/test_snakemake_internals.py fails.

``workflow`` is the object of that name in a Snakefile (`snakemake.workflow.Workflow`).
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Any

from snakemake.logging import DefaultFilter, logger
from snakemake.settings.enums import Quietness

NOT_ENDED = ["did not end"]
"""Params that no job has."""


def is_imported(workflow: Any) -> bool:
    """Whether the Snakefile that is being read is a module of another one. Hooks of a module do not run."""
    return not workflow.modifier.is_main_snakefile()


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


def everything_was_asked(workflow: Any) -> bool:
    """Whether a run was asked for all outputs, and not for some targets or a part of the jobs."""
    asked = workflow.dag_settings
    some = set(asked.targets) - {workflow.default_target}
    return not (some or asked.until or asked.omit_from or asked.batch)


def outputs_by_slide(workflow: Any) -> dict[str, list[str]]:
    """Outputs of all planned jobs that are for one slide, by its id."""
    found: dict[str, list[str]] = defaultdict(list)
    for job in workflow.dag.jobs:
        if "slide" in job.wildcards_dict:
            found[job.wildcards_dict["slide"]] += map(str, job.output)
    return found


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
