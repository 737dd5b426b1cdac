"""A finished cohort of any size: the outputs of a complete run, synthesised in minutes.

Snakemake plans the jobs of a sheet. Every job of a slide or a model gets outputs of the right format, its sidecar, its
benchmark and its record in Snakemake's metadata, as if it had run. The aggregates are really run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from histomake.base.records.attribution_checks import AttributionChecks, RandomisedWeights
from histomake.base.records.manifest import Manifest
from histomake.base.records.metrics import LevelMetrics
from histomake.base.records.quality import Appearance, QualityRecord
from histomake.base.records.record import Record, StageRecord
from histomake.base.records.separation import SeparationRecord
from histomake.base.records.sidecar import Sidecar
from histomake.config import Convert
from histomake.evaluate.slide_table import SCHEMA as SLIDE_TABLE
from histomake.slide.convert import convert

from tests import sample_records
from tests.bench import finished_bags, finished_cascade
from tests.bench.finished_patches import CLASSES, SIDE, patch_table, prediction_table
from tests.bench.slides import big_slide
from tests.workshop import ROOT, Workshop

FITTED, PATTERNS = 2_000, 20
AGGREGATES = {"split", "leakage", "quarantine", "score", "catalog", "lineage", "outliers", "front_page", "all"}
"""Rules that are really run."""

PLACE = {
    "format": Sidecar.newest(),
    "log": [],
    "started": "2026-11-01T08:00:00.000+00:00",
    "seconds": 12.3,
    "threads": 1,
    "packages": {f"package-{i}": "1.2.3" for i in range(18)},
    "git": {"commit": "0" * 40, "modified": False},
    "machine": {"host": "node-01", "cpus": 16, "gpus": [], "slurm_job": "123456"},
}

Wildcards = Mapping[str, str]

MEASURES = (
    *("additivity_error", "deletion", "random_deletion", "deletion_better"),
    *("insertion", "random_insertion", "insertion_better"),
)
MODEL_RECORDS: dict[str, Callable[[Wildcards], Record]] = {
    "train": lambda wildcards: sample_records.model_card(class_names=CLASSES),
    "train_bags": lambda wildcards: finished_bags.bag_card(wildcards["task"]),
    "evaluate": lambda wildcards: _metrics(wildcards["task"]),
    "embed": lambda wildcards: SeparationRecord(silhouette={}, batch_effect={}, patches=9, slides=3, features=64),
    "attribute": lambda wildcards: AttributionChecks(
        patches=9,
        background=9,
        method="gradient",
        **dict.fromkeys(MEASURES, 0.5),
        randomised_weights=RandomisedWeights(repeat=1, random=0, patches=9),
    ),
    "cascade_search": finished_cascade.thresholds,
    "cascade_compare": finished_cascade.metrics,
}
"""Records of a model that the front page reads, by rule."""

SLIDE_RECORDS: dict[str, Callable[[str], StageRecord]] = {
    "annotate": sample_records.no_annotation,
    "presegment": sample_records.tissue,
    "quality": lambda slide: quality(slide),
    "cascade_predict": finished_cascade.cascade_record,
}
"""Records of a slide, by rule. That of its conversion is the one of the slide that all are copies of."""

TABLES: dict[str, Callable[[Wildcards, int], pa.Table]] = {
    "tabulate_patches": patch_table,
    "predict_slide": prediction_table,
    "predict_bag": finished_bags.bag_table,
    "cascade_search": finished_cascade.trials,
    "cascade_predict": finished_cascade.cascade_table,
    "attribute": lambda wildcards, number: curves(number),
}
"""Tables by rule, from the wildcards and the number of the content."""

TEXTS: dict[str, Callable[[], str]] = {
    "evaluate": lambda: ",".join(SLIDE_TABLE.names) + "\nS00001,patient-00000,0,nuclei,9,4" + ",0.5" * 8 + "\n",
    "cascade_compare": finished_cascade.metrics_text,
}
"""CSV files by rule; the others are histories of a training."""


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
    """Create a workshop with a cascade, a task on bags of chosen patches and a sheet of ``slides``; nothing has run."""
    folder.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(folder)
    workshop.copy_code()
    workshop.write_config()
    content = yaml.safe_load(workshop.config.read_text())
    del content["grids"]["x5"]
    content["explain"] |= {"qupath": False, "regions": []}
    finished_cascade.add_cascade(content)
    finished_bags.add_bags(content)
    workshop.config.write_text(yaml.safe_dump(content, sort_keys=False))
    write_sheet(workshop, slides)
    return workshop


class Maker:
    """Writes the outputs of jobs. Outputs of one kind are links to a few template files, to save disk space.

    Templates are created by each process, because an output must not be older than its inputs.
    """

    def __init__(self, folder: Path) -> None:
        self.patterns = folder.resolve() / "patterns" / str(os.getpid())
        self.patterns.mkdir(parents=True)
        self.digests: dict[str, str] = {}

    def make(self, job: Any) -> None:
        """Write outputs, sidecar and benchmark of one job."""
        wildcards = dict(job.wildcards_dict)
        outputs = {}
        for path in map(str, job.output):
            outputs[path.removesuffix("/zarr.json")] = self.digests[path] = self._write(
                job.rule.name, wildcards, Path(path)
            )
        sidecar = PLACE | {
            "rule": job.rule.name,
            "wildcards": wildcards,
            "params": dict(job.params.items()),
            "inputs": {str(path): self.digests.get(str(path)) for path in job.input},
            "outputs": outputs,
            "sizes": dict.fromkeys(outputs, 1_000),
            "log": list(map(str, job.log)),
        }
        Path(f"{job.output[0]}.meta.json").write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n")
        Path(job.benchmark).parent.mkdir(parents=True, exist_ok=True)
        Path(job.benchmark).write_text("s\tmax_rss\tcpu_time\n12.3\t500.0\t20.1\n")

    def _write(self, rule: str, wildcards: Wildcards, path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "zarr.json":
            store, manifest = self._converted
            shutil.copytree(store, path.parent, copy_function=os.link, dirs_exist_ok=True)
            return manifest.checksums[path.name]
        if path.suffix == ".json" and "slide" in wildcards:
            content = (
                json.dumps(self._record(rule, wildcards["slide"]).dump(), indent=1, sort_keys=True) + "\n"
            ).encode()
            path.write_bytes(content)
            return hashlib.sha256(content).hexdigest()
        number = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16) % PATTERNS
        of = [value for name, value in wildcards.items() if name in ("grid", "task", "group")]
        pattern = self.patterns / ".".join([rule, *of, f"{number}{path.suffix}"])
        if not pattern.exists():
            write_pattern(rule, wildcards, number, pattern)
        path.unlink(missing_ok=True)
        os.link(pattern, path)
        return digest(pattern)

    def _record(self, rule: str, slide: str) -> StageRecord:
        """Return the record of a per-slide rule."""
        if rule == "convert":
            sha256 = hashlib.sha256(slide.encode()).hexdigest()
            return msgspec.structs.replace(self._converted[1], slide_id=slide, store=f"{slide}.zarr", sha256=sha256)
        return SLIDE_RECORDS[rule](slide)

    @cached_property
    def _converted(self) -> tuple[Path, Manifest]:
        """The store that those of all slides are links to, and its manifest."""
        store = self.patterns / "slide.zarr"
        slide = big_slide(self.patterns.parents[2], SIDE)
        return store, convert(slide, store, slide_id="slide", config=Convert(), threads=2)


@cache
def digest(path: Path) -> str:
    """Return the sha256 of a template file, computed once."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def quality(slide: str) -> QualityRecord:
    """Return the record of a slide that differs from others in light, stain and focus, as those of a real cohort do."""
    random = np.random.default_rng(int(slide[1:]))
    brightness, density, hue, sharpness = random.standard_t(5, 4).tolist()
    look = Appearance(
        glass_brightness=min(255.0, 240 + 2 * brightness),
        glass_colour=float(random.random() * 4),
        density=0.3 + 0.02 * density,
        hue=100 + 3 * hue,
        haematoxylin=0.2 + 0.01 * density,
        eosin=0.1 + 0.01 * hue,
    )
    shares = dict(zip(("pen", "blur", "fold"), (0.02 * random.random(3)).tolist(), strict=True))
    clean = 1 - sum(shares.values())
    return sample_records.quality(
        slide, sharpness=2.5 + 0.2 * sharpness, shares=shares, clean_share=clean, appearance=look
    )


def write_pattern(rule: str, wildcards: Wildcards, number: int, path: Path) -> None:
    """Write one of the few contents shared by all outputs of a rule."""
    random = np.random.default_rng(number)
    if path.suffix == ".parquet" and rule in TABLES:
        pq.write_table(TABLES[rule](wildcards, number), path, compression="zstd")
    elif path.suffix == ".arrow":
        finished_bags.write_feature_file(wildcards, number, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(MODEL_RECORDS[rule](wildcards).dump() if rule in MODEL_RECORDS else {}))
    elif path.suffix == ".csv":
        path.write_text(TEXTS[rule]() if rule in TEXTS else "step,train_loss,val_loss\n1,0.9,0.9\n2,0.5,0.6\n")
    elif path.suffix == ".png":
        cv2.imwrite(str(path), random.integers(0, 255, (32, 32, 3), np.uint8))
    else:
        path.write_bytes(random.bytes(2_000))


def curves(number: int) -> pa.Table:
    """Return the curves of attributed patches that the front page draws."""
    kinds = ("deletion", "random_deletion", "insertion", "random_insertion")
    found = [list(curve) for curve in np.random.default_rng(number).random((8, 17))]
    return pa.table({f"{kind}_curve": found for kind in kinds})


def _metrics(task: str) -> Record:
    if task in finished_bags.ENCODER_OF:
        return finished_bags.bag_metrics()
    found = LevelMetrics(count=9, patients=3, metrics={"all": {}}, confusion=[[5, 1], [1, 2]])
    return sample_records.metrics({"patch": found}, classes=CLASSES)


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
    tasks = yaml.safe_load(workshop.config.read_text())["tasks"]
    compared = [f"results/splits/{name}.leakage.json" for name in tasks]
    for targets in ((*compared, "results/quarantine.json"), ()):
        pretend_jobs(workshop, *targets)
        workshop.snakemake("--quiet", "all", "--", *targets)


if __name__ == "__main__":
    sys.stderr.write(f"{pretend(Path(sys.argv[1]), sys.argv[2:]):,} jobs synthesised\n")
