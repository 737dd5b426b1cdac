"""A finished cohort of any size: the outputs of a complete run, synthesised in minutes.

Snakemake plans the jobs of a sheet. Every job of a slide or a model gets outputs of the right format, its sidecar, its
benchmark and its record in Snakemake's metadata, as if it had run. The aggregates are really run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from histomake.base.records.attribution_checks import AttributionChecks, RandomisedWeights
from histomake.base.records.metrics import LevelMetrics
from histomake.base.records.record import Record, StageRecord
from histomake.base.records.separation import SeparationRecord
from histomake.patch.table import METADATA_KEY

from tests import sample_records
from tests.workshop import ROOT, Workshop

FITTED, PATCHES, PATTERNS = 2_000, 1_250, 20
AGGREGATES = {"split", "leakage", "quarantine", "score", "catalog", "lineage", "outliers", "front_page", "all"}
"""Rules that are really run."""

PLACE = {
    "log": [],
    "started": "2026-11-01T08:00:00.000+00:00",
    "seconds": 12.3,
    "threads": 1,
    "packages": {f"package-{i}": "1.2.3" for i in range(18)},
    "git": {"commit": "0" * 40, "modified": False},
    "machine": {"host": "node-01", "cpus": 16, "gpus": [], "slurm_job": "123456"},
}


CLASSES = ["skin", "nuclei"]
MEASURES = (
    *("additivity_error", "deletion", "random_deletion", "deletion_better"),
    *("insertion", "random_insertion", "insertion_better"),
)
MODEL_RECORDS: dict[str, Record] = {
    "train": sample_records.model_card(class_names=CLASSES),
    "evaluate": sample_records.metrics(
        {"patch": LevelMetrics(count=9, patients=3, metrics={"all": {}}, confusion=[[5, 1], [1, 2]])}, classes=CLASSES
    ),
    "embed": SeparationRecord(silhouette={}, batch_effect={}, patches=9, slides=3, features=64),
    "attribute": AttributionChecks(
        patches=9,
        background=9,
        method="gradient",
        **dict.fromkeys(MEASURES, 0.5),
        randomised_weights=RandomisedWeights(repeat=1, random=0, patches=9),
    ),
}
"""Records of a model that the front page reads."""


def write_sheet(workshop: Workshop, slides: int) -> None:
    """Write a sheet of ``slides``, 10 to 20 % for training and the others to predict, and their files."""
    folder = workshop.folder / "demo"
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    rows = ["slide_id\tpath\tpatient_id\tsite\tsplit\tnuclei_rich"]
    for number in range(slides):
        path = folder / "slides" / f"S{number:05d}.svs"
        if not path.exists():
            path.write_bytes(f"slide {number}".encode() * 20)
        split = "" if number < min(FITTED, slides // 5) else "predict"
        place = f"demo/slides/{path.name}"
        rich = ("no", "yes")[number // 2 % 2]
        rows.append(f"S{number:05d}\t{place}\tpatient-{number // 2:05d}\tsite-{number % 3}\t{split}\t{rich}")
    workshop.write_rows(rows)


def build_workshop(folder: Path, slides: int) -> Workshop:
    """Create a workshop with one grid, one task and a sheet of ``slides``, in which nothing has run."""
    folder.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(folder)
    workshop.copy_code()
    workshop.write_config()
    content = yaml.safe_load(workshop.config.read_text())
    del content["grids"]["x5"]
    content["explain"] |= {"qupath": False, "regions": []}
    workshop.config.write_text(yaml.safe_dump(content, sort_keys=False))
    write_sheet(workshop, slides)
    return workshop


class Maker:
    """Writes the outputs of jobs. Outputs of one kind are links to a few template files, to save disk space.

    Templates are created by each process, because an output must not be older than its inputs.
    """

    def __init__(self, folder: Path) -> None:
        self.patterns = folder / "patterns" / str(os.getpid())
        self.patterns.mkdir(parents=True)
        self.digests: dict[str, str] = {}

    def make(self, job: Any) -> None:
        """Write outputs, sidecar and benchmark of one job."""
        slide = job.wildcards_dict.get("slide")
        outputs = {}
        for path in map(str, job.output):
            outputs[path.removesuffix("/zarr.json")] = self.digests[path] = self._write(
                job.rule.name, slide, Path(path)
            )
        sidecar = PLACE | {
            "rule": job.rule.name,
            "wildcards": dict(job.wildcards_dict),
            "params": dict(job.params.items()),
            "inputs": {str(path): self.digests.get(str(path)) for path in job.input},
            "outputs": outputs,
            "log": list(map(str, job.log)),
        }
        Path(f"{job.output[0]}.meta.json").write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n")
        Path(job.benchmark).parent.mkdir(parents=True, exist_ok=True)
        Path(job.benchmark).write_text("s\tmax_rss\tcpu_time\n12.3\t500.0\t20.1\n")

    def _write(self, rule: str, slide: str | None, path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json" and slide:
            content = (json.dumps(record(rule, slide).dump(), indent=1, sort_keys=True) + "\n").encode()
            path.write_bytes(content)
            return hashlib.sha256(content).hexdigest()
        number = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16) % PATTERNS
        pattern = self.patterns / f"{rule}.{number}{path.suffix}"
        if not pattern.exists():
            write_pattern(rule, number, pattern)
        path.unlink(missing_ok=True)
        os.link(pattern, path)
        return digest(pattern)


def digest(path: Path, _known: dict[Path, str] = {}) -> str:  # noqa: B006
    """Return the sha256 of a template file, computed once."""
    if path not in _known:
        _known[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _known[path]


def record(rule: str, slide: str) -> StageRecord:
    """Return the record of a per-slide rule."""
    if rule == "convert":
        sha256 = hashlib.sha256(slide.encode()).hexdigest()
        return sample_records.manifest(slide, width=60_000, height=40_000, mpp=0.25, sha256=sha256, bytes_in=10**9)
    return {
        "annotate": sample_records.no_annotation,
        "presegment": sample_records.tissue,
        "quality": sample_records.quality,
    }[rule](slide)


def write_pattern(rule: str, number: int, path: Path) -> None:
    """Return one of the few contents shared by all outputs of a rule."""
    random = np.random.default_rng(number)
    if path.suffix == ".parquet" and rule in ("tabulate_patches", "predict_slide"):
        pq.write_table(
            (patch_table if rule == "tabulate_patches" else prediction_table)(random), path, compression="zstd"
        )
    elif path.suffix == ".parquet" and rule == "attribute":
        curves = [list(curve) for curve in random.random((8, 17))]
        kinds = ("deletion", "random_deletion", "insertion", "random_insertion")
        pq.write_table(pa.table({f"{kind}_curve": curves for kind in kinds}), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(MODEL_RECORDS[rule].dump() if rule in MODEL_RECORDS else {}))
    elif path.suffix == ".csv":
        path.write_text("step,train_loss,val_loss\n1,0.9,0.9\n2,0.5,0.6\n")
    elif path.suffix == ".png":
        cv2.imwrite(str(path), random.integers(0, 255, (32, 32, 3), np.uint8))
    else:
        path.write_bytes(random.bytes(2_000))


def patch_table(random: np.random.Generator) -> pa.Table:
    """Return a patch table of one slide, with columns as written by `tabulate`."""
    excluded = pa.array(random.choice(["", "background"], PATCHES)).dictionary_encode()
    table = pa.table(
        {
            **positions(),
            "tissue": random.random(PATCHES).astype(np.float32),
            "area_skin": np.zeros(PATCHES, np.float32),
            "area_nuclei": np.zeros(PATCHES, np.float32),
            "excluded": excluded,
        }
    )
    return table.replace_schema_metadata({METADATA_KEY: sample_records.patch_table().encode("table")})


def prediction_table(random: np.random.Generator) -> pa.Table:
    """Return a prediction table of one slide, with columns as written by `predict`."""
    score = random.random(PATCHES).astype(np.float32)
    names = pa.array(CLASSES)
    codes = pa.array((score > 0.5).astype(np.int32))
    return pa.table(
        {
            **positions(),
            "tissue": random.random(PATCHES).astype(np.float32),
            "score_skin": 1 - score,
            "score_nuclei": score,
            "predicted": pa.DictionaryArray.from_arrays(codes, names),
            "label": pa.nulls(PATCHES, pa.dictionary(pa.int32(), pa.string())),
        }
    )


def positions() -> dict[str, np.ndarray]:
    """Return the positions of the patches of every slide."""
    number = np.arange(PATCHES)
    x, y = (number % 40 * 512).astype(np.int32), (number // 40 * 512).astype(np.int32)
    return {"patch_id": number.astype(np.uint32), "x": x, "y": y}


def pretend(config: Path, targets: Iterable[str] = ()) -> int:
    """Synthesise the outputs of planned jobs in the current folder, except aggregates and jobs that depend on them.

    ``targets`` are the files to plan, all by default. Returns the number of jobs.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, DAGSettings, ExecutionSettings, OutputSettings, Quietness
    from snakemake.settings.types import ResourceSettings as Resources

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(Resources(cores=2), ConfigSettings(configfiles=[config]), snakefile=Path("Snakefile"))
        planned = workflow.dag(DAGSettings(targets=set(targets), rerun_triggers=frozenset()))
        planned.execute_workflow(executor="dryrun", execution_settings=ExecutionSettings(lock=False))
        dag, maker = workflow._workflow.dag, Maker(Path())
        jobs, waiting = [], set()
        for job in (job for level in dag.toposorted() for job in level if dag.needrun(job)):
            if job.rule.name in AGGREGATES or waiting & set(dag.dependencies[job]):
                waiting.add(job)
            else:
                jobs.append(job)
                maker.make(job)
        # The cache says that outputs do not exist, and records would not hold their modification times.
        dag.workflow.iocache.deactivate()
        asyncio.run(_remember(dag.workflow.persistence, jobs))
    return len(jobs)


async def _remember(persistence: Any, jobs: list[Any]) -> None:
    """Write those jobs whose outputs all exist into Snakemake's metadata."""
    for job in jobs:
        await persistence.finished(job)


def pretend_jobs(workshop: Workshop, *targets: str) -> None:
    """Run `pretend` in a separate process, like a run."""
    command = [sys.executable, "-m", "tests.bench.finished_cohort", str(workshop.config), *targets]
    # The library of the workshop: the one beside its scripts.
    environment = workshop.environment() | {
        "PYTHONPATH": os.pathsep.join([str(workshop.folder / "scripts"), str(ROOT)])
    }
    subprocess.run(command, cwd=workshop.folder, env=environment, check=True)


def finish(workshop: Workshop) -> None:
    """Finish all jobs of a workshop: first the inputs of leakage and quarantine, then models and later jobs."""
    for targets in (("results/splits/tissue_kind.leakage.json", "results/quarantine.json"), ()):
        pretend_jobs(workshop, *targets)
        workshop.snakemake("--quiet", "all", "--", *targets)


if __name__ == "__main__":
    sys.stderr.write(f"{pretend(Path(sys.argv[1]), sys.argv[2:]):,} jobs synthesised\n")
