"""What the jobs of a slide are planned to read of other jobs, as Snakemake finds it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def planned_links(config: Path) -> dict[str, Any]:
    """Return the links between all jobs of a run in the current folder, and what ``plan=new`` knows of them.

    ``shared`` are [rule, file] of inputs of slides' jobs that a job without a slide makes, ``others`` are [rule, slide,
    other slide] of inputs of slides' jobs that a job of another slide makes, and ``taught`` are [rule, slide] of the
    slides whose jobs a job in ``shared`` depends on. ``files``, ``fitted`` and ``together`` are the answers of
    `histomake.planning.last_run`.
    """
    from histomake.planning import last_run
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, DAGSettings, ExecutionSettings, OutputSettings, Quietness
    from snakemake.settings.types import ResourceSettings as Resources

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(Resources(cores=2), ConfigSettings(configfiles=[config]), snakefile=Path("Snakefile"))
        planned = workflow.dag(DAGSettings(forceall=True))
        planned.execute_workflow(executor="dryrun", execution_settings=ExecutionSettings(lock=False))
        dag, names = workflow._workflow.dag, workflow._workflow.globals
        shared, others, makers = set(), set(), set()
        for job in dag.jobs:
            if (own := slide_of(job)) is None:
                continue
            for maker, files in dag.dependencies[job].items():
                if (other := slide_of(maker)) is None:
                    shared |= {(job.rule.name, str(file)) for file in files}
                    makers.add(maker)
                elif other != own:
                    others.add((job.rule.name, own, other))
        taught = {(maker.rule.name, slide) for maker in makers for slide in slides_behind(dag, maker)}
        plan, model = names["PLAN"], names["TISSUE_MODEL"]
        return {
            "shared": sorted(shared),
            "others": sorted(others),
            "taught": sorted(taught),
            "files": last_run.model_files(plan, model),
            "fitted": sorted({slide for _, _, slide, _ in last_run.fitted_roles(plan)}),
            "together": last_run.slides_of_one_bag(plan),
        }


def slide_of(job: Any) -> str | None:
    """Slide that a job is for."""
    return job.wildcards_dict.get("slide")


def slides_behind(dag: Any, job: Any) -> set[str]:
    """Slides whose jobs a job depends on, directly or not."""
    found, seen, left = set(), {job}, [job]
    while left:
        for maker in dag.dependencies[left.pop()]:
            if maker not in seen:
                seen.add(maker)
                left.append(maker)
                found |= {slide_of(maker)} - {None}
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(planned_links(Path(sys.argv[1]))))
