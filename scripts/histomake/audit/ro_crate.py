"""Export of a results folder's provenance as an RO-Crate 1.3."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from histomake.audit import run_chain
from histomake.audit.lineage import SCHEMA, LineageRow
from histomake.audit.pseudonyms import Pseudonyms
from histomake.base.errors import HistomakeError
from histomake.base.files import write_json
from histomake.base.layout import Layout
from histomake.base.records.metrics import MetricsRecord

LINEAGE, CATALOG = "audit/lineage.parquet", "catalog.duckdb"
TOLD = ("event", "time", "git", "packages", "succeeded", "sidecars")
"""Fields of a run record that name nobody: neither a user, a computer, a path nor a slide."""


class _Settings(msgspec.Struct):
    """The part of a run's configuration that an export depends on."""

    class Exported(msgspec.Struct):
        """Section ``export``."""

        identifiers: bool = False

    export: Exported = msgspec.field(default_factory=Exported)
    tasks: dict[str, object] = msgspec.field(default_factory=dict)


def write_crate(layout: Layout, snakefile: Path, target: Path) -> Path:
    """Write a crate with the last run's record, the metrics and the lineage.

    Slides and stores are named by their sha256 and stay where they are. Every job becomes a CreateAction whose
    results carry their digests. Names of slides, patients and files are pseudonyms, and settings are left out, unless
    the run's configuration sets ``export.identifiers``. Returns the folder. Raises HistomakeError when no run was
    recorded.
    """
    ends = [link for link in run_chain.read_links(layout) if link.record.event == "finished"]
    if not ends or not layout.lineage.is_file():
        raise HistomakeError(f"{layout.results}: no finished run is recorded here; run the workflow first")
    end = ends[-1]
    started = layout.runs / end.record.run
    settings = msgspec.json.decode((started / "config.json").read_bytes(), type=_Settings)
    crate = ROCrate()
    crate.name = f"histomake run {end.record.time}"
    crate.description = (
        "Provenance of a histomake run: every output, what it was made from, by which code and settings."
    )
    crate.add_workflow(snakefile, "Snakefile", main=True, lang="snakemake")
    rows: list[LineageRow] = pq.read_table(layout.lineage).to_pylist()
    metrics = [layout.metrics(task) for task in sorted(settings.tasks) if layout.metrics(task).is_file()]
    with tempfile.TemporaryDirectory() as folder:
        if settings.export.identifiers:
            _add_files(crate, layout, [started, layout.runs / end.name], metrics)
        else:
            rows = _add_pseudonymous(crate, layout, Path(folder), [started, layout.runs / end.name], metrics, rows)
        _add_actions(crate, rows, commit=end.record.git.commit if end.record.git else None)
        crate.write(target)
    return target


def _add_files(crate: ROCrate, layout: Layout, runs: Sequence[Path], metrics: Sequence[Path]) -> None:
    """Add the records of the run, the metrics and the lineage as they are."""
    for folder in dict.fromkeys(runs):
        for file in sorted(folder.iterdir()):
            crate.add_file(file, f"run/{folder.name}/{file.name}")
    for file in (layout.lineage, *metrics):
        crate.add_file(file, str(file.relative_to(layout.results)))


def _add_pseudonymous(
    crate: ROCrate,
    layout: Layout,
    folder: Path,
    runs: Sequence[Path],
    metrics: Sequence[Path],
    rows: list[LineageRow],
) -> list[LineageRow]:
    """Add what names nobody, written into ``folder`` first; returns the rows of the lineage with pseudonyms."""
    slides, patients = _people(runs[0] / "slides.tsv")
    # Paths of a run start in the folder in which it was started.
    root = next((PurePath(row["output"]).parent for row in rows if PurePath(row["output"]).name == CATALOG), None)
    names = Pseudonyms(layout, slides | {row["slide_id"] for row in rows if row["slide_id"]}, root=root)
    for patient in patients:
        names.of("patient", patient)
    for run in dict.fromkeys(runs):
        content = json.loads((run / run_chain.RECORD).read_bytes())
        place = folder / "run" / run.name / run_chain.RECORD
        write_json(place, {key: content.get(key) for key in TOLD})
        crate.add_file(place, f"run/{run.name}/{run_chain.RECORD}")
    for path in metrics:
        record = MetricsRecord.read(path)
        several = [names.of("patient", patient) for patient in record.patients_of_several_classes]
        place = folder / path.name
        # Values of subgroups may name sites, and a group of one patient is about that patient.
        levels = {name: msgspec.structs.replace(found, subgroups={}) for name, found in record.levels.items()}
        msgspec.structs.replace(record, levels=levels, patients_of_several_classes=several).write(place)
        crate.add_file(place, str(path.relative_to(layout.results)))
    rows = [_pseudonymous(row, names) for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "lineage.parquet")
    crate.add_file(folder / "lineage.parquet", LINEAGE)
    names.write_map()
    return rows


def _people(sheet: Path) -> tuple[set[str], set[str]]:
    """Slides and patients in the sheet of a run."""
    with sheet.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    found = ({(row.get(column) or "").strip() for row in rows} - {""} for column in ("slide_id", "patient_id"))
    return cast("tuple[set[str], set[str]]", tuple(found))


def _pseudonymous(row: LineageRow, names: Pseudonyms) -> LineageRow:
    """A row of the lineage without machine, log and settings; of the settings, it has a keyed digest."""
    params = json.loads(row["params"])
    return {
        **row,
        "output": names.path(row["output"]),
        "slide_id": row["slide_id"] and names.of("slide", row["slide_id"]),
        "inputs": [names.path(path) for path in row["inputs"]],
        "params": json.dumps({"code": params.get("code"), "settings": names.of("settings", row["params"])}),
        "host": None,
        "slurm_job": None,
        "log": None,
    }


def _add_actions(crate: ROCrate, rows: Iterable[LineageRow], *, commit: str | None) -> None:
    """One CreateAction per job, its results as File entities known by their digests."""
    jobs: dict[tuple[str, ...], list[LineageRow]] = {}
    for row in rows:
        jobs.setdefault((row["rule"], row["started"], row["log"] or "", *row["inputs"]), []).append(row)
    for number, ((rule, *_), outputs) in enumerate(sorted(jobs.items())):
        results = [_file(crate, row["output"], row["sha256"]) for row in outputs]
        sources = [_file(crate, path, None) for path in outputs[0]["inputs"]]
        properties = {
            "@type": "CreateAction",
            "name": f"{rule} {outputs[0]['slide_id'] or ''}".strip(),
            "startTime": outputs[0]["started"],
            "instrument": {"@id": "Snakefile"},
            "object": sources,
            "result": results,
            "description": f"parameters: {outputs[0]['params']}; code: {outputs[0]['commit'] or commit}",
            "actionStatus": "http://schema.org/CompletedActionStatus",
        }
        crate.add(ContextEntity(crate, f"#job-{number}", properties=properties))


def _file(crate: ROCrate, path: str, sha256: str | None) -> ContextEntity:
    """The entity of a file that is not in the crate; its digest is added when it is known."""
    identifier = f"#{path}"
    entity = crate.dereference(identifier)
    if entity is None:
        entity = crate.add(ContextEntity(crate, identifier, properties={"@type": "File", "name": Path(path).name}))
    if sha256:
        entity["sha256"] = sha256
    return entity
