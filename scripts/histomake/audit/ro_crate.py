"""Export of a results folder's provenance as an RO-Crate 1.3."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from histomake.audit import run_chain
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout


def write_crate(layout: Layout, snakefile: Path, target: Path) -> Path:
    """Write a crate with the last run's record, the metrics, the models' descriptions and the lineage.

    Slides and stores are named by their sha256 and stay where they are. Every job becomes a CreateAction whose
    results carry their digests. Returns the folder. Raises HistomakeError when no run was recorded.
    """
    ends = [link for link in run_chain.read_links(layout) if link.record.event == "finished"]
    if not ends or not layout.lineage.is_file():
        raise HistomakeError(f"{layout.results}: no finished run is recorded here; run the workflow first")
    end = ends[-1]
    crate = ROCrate()
    crate.name = f"histomake run {end.record.time}"
    crate.description = (
        "Provenance of a histomake run: every output, what it was made from, by which code and settings."
    )
    crate.add_workflow(snakefile, "Snakefile", main=True, lang="snakemake")
    for folder in dict.fromkeys((end.record.run, end.name)):
        for file in sorted((layout.runs / folder).iterdir()):
            crate.add_file(file, f"run/{folder}/{file.name}")
    for file in (layout.lineage, *sorted(layout.metrics("x").parent.glob("*.json"))):
        crate.add_file(file, str(file.relative_to(layout.results)))
    rows = pq.read_table(layout.lineage).to_pylist()
    _add_actions(crate, rows, commit=end.record.git.commit if end.record.git else None)
    crate.write(target)
    return target


def _add_actions(crate: ROCrate, rows: Iterable[dict[str, Any]], *, commit: str | None) -> None:
    """One CreateAction per job, its results as File entities known by their digests."""
    jobs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        jobs.setdefault((row["rule"], row["started"] + (row["log"] or "")), []).append(row)
    for number, ((rule, _), outputs) in enumerate(sorted(jobs.items())):
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
