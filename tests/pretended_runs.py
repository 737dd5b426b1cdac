"""Snakemake's plans and runs of a workshop, in forks of one warm process, with jobs that only pretend to work.

Snakemake itself, the Snakefile and the rules are real, as are Snakemake's records, locks and hooks. A job writes small
outputs that depend on its params and on what its inputs hold, and a sidecar. So a run of hundreds of jobs takes
seconds, and a plan about one.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import msgspec

Planned = tuple[str, tuple[tuple[str, str], ...]]
"""A job: its rule, and its wildcards by name."""

LISTS = ("cohort.json", "quarantine.json", "warnings.json")
"""Files that are read while a run is planned or ends. What they list is left out."""

Change = Callable[[], Callable[[], None]]
"""Changes results, and returns what undoes it."""

JOBS, ALL_JOBS = ".jobs.json", ".all_jobs.json"


@dataclass(frozen=True)
class Fate:
    """What happens to a run: it is killed when it starts its ``killed``-th job, and some of its jobs fail.

    A job fails if the digest of its name and ``salt`` is among the share ``failing``.
    """

    killed: int | None = None
    failing: float = 0.0
    salt: str = ""


@dataclass(frozen=True)
class Answer:
    """What Snakemake planned, and what it printed. ``jobs`` is None if it refused to plan."""

    jobs: frozenset[Planned] | None
    text: str
    status: int = 0

    @property
    def said(self) -> str:
        """What was said of the plan."""
        return "; ".join(line for line in self.text.splitlines() if " slides are new" in line or "all slides" in line)


def import_libraries(scripts: Path) -> None:
    """Import what every plan needs into this process, with the library of a workshop."""
    sys.path.insert(0, str(scripts))
    import histomake.audit.runs
    import histomake.planning.last_run
    import histomake.planning.misfits
    import histomake.planning.outputs
    import histomake.planning.snakemake_internals
    import histomake.target.outputs
    import snakemake.cli
    import snakemake.executors.local
    import snakemake.scheduling.greedy
    import snakemake.scheduling.job_scheduler

    snakemake.cli.parse_args(["--dry-run"])  # looks for plugins
    assert Path(histomake.audit.runs.__file__).is_relative_to(scripts.resolve()), histomake.audit.runs.__file__


def planned(folder: Path, *arguments: str) -> Answer:
    """Plan a run: the jobs that Snakemake would run."""
    return _forked(folder, ["--dry-run", *arguments], None)


def planned_twice(folder: Path, *, alone: bool) -> tuple[Answer, Answer]:
    """Plan a run with ``plan=new`` and with ``plan=all``.

    That takes as long as one of them, because the second is made where the first was made, with nothing left out.
    With ``alone``, both are made from the start.
    """
    answer = _forked(folder, ["--dry-run", "--config", "plan=new"], None, twice=not alone)
    if alone or answer.jobs is None:
        return answer, planned(folder, "--config", "plan=all")
    return answer, Answer(_jobs(folder / ALL_JOBS), answer.text)


def planned_after(folder: Path, changes: Sequence[Change]) -> list[Answer]:
    """Plan a run after each of some changes of results, which are undone, with ``plan=new`` and with ``plan=all``.

    The Snakefile is read once for all plans. Returns the answers of both plans for each change.
    """
    for number in range(len(changes)):
        for name in (JOBS, ALL_JOBS):
            (folder / f"{name}.{number}").unlink(missing_ok=True)
    answer = _forked(folder, ["--dry-run", "--config", "plan=new"], None, twice=True, changes=changes)
    places = [folder / f"{name}.{number}" for number in range(len(changes)) for name in (JOBS, ALL_JOBS)]
    return [Answer(_jobs(place) if place.exists() else None, answer.text) for place in places]


def run(folder: Path, *arguments: str, fate: Fate | None = None) -> Answer:
    """Run Snakemake with jobs that pretend; the jobs of the answer are those that were planned."""
    return _forked(folder, arguments, fate or Fate())


def _forked(
    folder: Path,
    arguments: Collection[str],
    fate: Fate | None,
    *,
    twice: bool = False,
    changes: Sequence[Change] = (),
) -> Answer:
    told, printed = folder / JOBS, folder / ".printed.txt"
    told.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(folder)
            output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            status = _snakemake(arguments, fate, twice, changes)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    text = printed.read_text(errors="replace")
    return Answer(_jobs(told) if told.exists() else None, text, os.waitstatus_to_exitcode(status))


def _jobs(told: Path) -> frozenset[Planned]:
    return frozenset((rule, tuple(map(tuple, wildcards))) for rule, wildcards in json.loads(told.read_text()))


def _tell(workflow: Any, place: str) -> None:
    jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name != "all"]
    Path(place).write_text(json.dumps([[job.rule.name, sorted(job.wildcards_dict.items())] for job in jobs]))


def _plan_everything(workflow: Any) -> None:
    """Make the plan again, with nothing left out."""
    workflow.globals["LEFT_OUT"].clear()
    kind = type(workflow)
    kind._prepare_dag(workflow, forceall=False, ignore_incomplete=False, lock_warn_only=True)
    kind._build_dag(workflow)
    workflow.async_run(workflow.dag.postprocess(update_needrun=False, check_initial=True))


def _plan_after(changes: Sequence[Change], ending: list[str]) -> None:
    """Let a plan be made in a fork after each change, when the Snakefile has been read, instead of once."""
    from snakemake.workflow import Workflow

    execute = Workflow.execute

    def execute_after_each(self: Any, *given: Any, **named: Any) -> None:
        for number, change in enumerate(changes):
            undo = change()
            child = os.fork()
            if not child:
                ending[0] = f".{number}"
                execute(self, *given, **named)
            os.waitpid(child, 0)
            undo()
        atexit._run_exitfuncs()
        os._exit(0)

    Workflow.execute = execute_after_each


def _snakemake(arguments: Collection[str], fate: Fate | None, twice: bool, changes: Sequence[Change]) -> int:
    import snakemake.cli
    from snakemake.scheduling.job_scheduler import JobScheduler
    from snakemake.script import PythonScript

    create, ending = JobScheduler.__init__, [""]
    if changes:
        _plan_after(changes, ending)

    def create_and_tell(self: Any, workflow: Any, *given: Any, **named: Any) -> None:
        _tell(workflow, f"{JOBS}{ending[0]}")
        if twice:
            _plan_everything(workflow)
            _tell(workflow, f"{ALL_JOBS}{ending[0]}")
        if fate is None:
            atexit._run_exitfuncs()  # the memory of code digests is written
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        pretence = Pretence(fate)
        PythonScript.execute_script = lambda script, fname, edit=False: pretence.execute(script, fname)
        create(self, workflow, *given, **named)

    JobScheduler.__init__ = create_and_tell
    cores = ("--cores", "1", "--nolock", "--configfile", "small.yaml")
    try:
        snakemake.cli.main([*cores, *arguments])
    except SystemExit as error:
        return int(error.code or 0)
    return 0


class Pretence:
    """Writes the outputs of jobs in place of their scripts."""

    def __init__(self, fate: Fate) -> None:
        self.fate, self.started = fate, 0

    def execute(self, script: Any, fname: str) -> None:
        """Pretend to run a script."""
        self.started += 1
        if script.bench_record is not None:
            script.bench_record.running_time, script.bench_record.process_gone = 1.0, True
        name = str(script.output[0])
        content = hashlib.sha256()
        content.update(json.dumps(dict(script.params.items()), default=str, sort_keys=True).encode())
        for path in sorted(map(str, script.input)):
            content.update(path.encode())
            if os.path.isfile(path):
                content.update(Path(path).read_bytes())
        outputs = {}
        for number, path in enumerate(map(str, script.output)):
            if self.started == self.fate.killed and number == len(script.output) // 2:
                os._exit(137)
            outputs[path.removesuffix("/zarr.json")] = _write(path, content.hexdigest())
        if self.started == self.fate.killed:
            os._exit(137)
        if _share(f"{name}{self.fate.salt}") < self.fate.failing:
            raise CalledProcessError(1, [sys.executable, fname])
        sidecar = {
            "rule": "",
            "wildcards": {},
            "params": json.loads(json.dumps(dict(script.params.items()))),
            "inputs": {},
            "outputs": outputs,
        }
        Path(f"{script.output[0]}.meta.json").write_text(json.dumps(sidecar))


def _share(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def _write(path: str, content: str) -> str:
    """Write an output; returns its digest. Its name is part of its content."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(f"{path} {content}".encode()).hexdigest()
    if not target.suffix:
        target.mkdir(exist_ok=True)
        (target / "file.txt").write_text(digest)
    elif target.name.endswith(LISTS):
        target.write_bytes(msgspec.json.encode([]))
    else:
        target.write_text(json.dumps({"digest": digest}))
    return digest
