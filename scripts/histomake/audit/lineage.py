"""Lineage: the chain of sidecars from a result back to the slide's bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypedDict

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from histomake.audit.sidecar import SIDECAR
from histomake.base.errors import HistomakeError
from histomake.base.file_cache import FileCache
from histomake.base.files import atomic_file, existing
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.sidecar import Sidecar

SCHEMA = pa.schema(
    [
        ("output", pa.string()),
        ("sha256", pa.string()),
        ("rule", pa.string()),
        ("slide_id", pa.string()),
        ("inputs", pa.list_(pa.string())),
        ("params", pa.string()),
        ("commit", pa.string()),
        ("host", pa.string()),
        ("slurm_job", pa.string()),
        ("started", pa.string()),
        ("seconds", pa.float64()),
        ("log", pa.string()),
    ]
)


class LineageRow(TypedDict):
    """A row of `SCHEMA`."""

    output: str
    sha256: str
    rule: str
    slide_id: str | None
    inputs: list[str]
    params: str
    commit: str | None
    host: str | None
    slurm_job: str | None
    started: str
    seconds: float
    log: str | None


def walk(
    roots: Iterable[Path | str], cache: FileCache | None = None, *, follow: Callable[[str], bool] = lambda _: True
) -> Iterator[Sidecar]:
    """The sidecars of ``roots`` and of everything they were made from, each once, roots first.

    An output without a sidecar of its own is described by that of the first output of its job, which every rule that
    reads the one also reads. ``cache``: sidecars read before; ``follow``: whether to go on to an input.
    """
    cache = cache or FileCache()
    level = list(dict.fromkeys(map(str, roots)))
    seen = set(level)
    while level:
        places = [f"{path}{SIDECAR}" for path in level]
        level = []
        for place, text in zip(places, cache.read_texts(places), strict=True):
            if text is None:
                continue
            sidecar = Sidecar.decode(text, place)
            yield sidecar
            fresh = [path for path in sidecar.inputs if path not in seen and follow(path)]
            seen.update(fresh)
            level += fresh


def of_other_slides(layout: Layout, slide: str) -> Callable[[str], bool]:
    """Whether a path is a file of a slide other than ``slide``: it lies in a folder of slides, under another name."""
    records = (layout.manifest, layout.annotation, layout.tissue, layout.quality)
    files = [*(place(slide) for place in records), layout.table("*", slide), layout.prediction("*", "*", slide)]

    def check(path: str) -> bool:
        return Path(path).stem != slide and any(Path(path).match(str(file.with_name("*"))) for file in files)

    return check


def write_lineage(sidecars: Iterable[Sidecar], path: Path | str, *, batch: int = 10_000) -> None:
    """Write one row per output: its digest, its job and its inputs. Memory use is bounded."""
    with atomic_file(path) as aside, pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
        rows: list[LineageRow] = []
        for sidecar in sidecars:
            rows += _rows(sidecar)
            if len(rows) >= batch:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


def _rows(sidecar: Sidecar) -> Iterator[LineageRow]:
    inputs, params = sorted(sidecar.inputs), msgspec.json.encode(sidecar.params, order="sorted").decode()
    for path, digest in sidecar.outputs.items():
        yield LineageRow(
            output=path,
            sha256=digest,
            rule=sidecar.rule,
            slide_id=sidecar.wildcards.get("slide"),
            inputs=inputs,
            params=params,
            commit=sidecar.git.commit if sidecar.git else None,
            host=sidecar.machine.host,
            slurm_job=sidecar.machine.slurm_job,
            started=sidecar.started,
            seconds=sidecar.seconds,
            log=next(iter(sidecar.log), None),
        )


def prediction_row(layout: Layout, task: str, slide: str, patch_id: int) -> tuple[Path, Mapping[str, object]]:
    """The prediction of one patch, and its file; from the first fold that predicted the slide."""
    for path in existing(layout.prediction(task, "*", slide), under=layout.results):
        if rows := pq.read_table(path, filters=[("patch_id", "=", patch_id)]).to_pylist():
            return path, rows[0]
    raise HistomakeError(f"no prediction of task {task} for patch {patch_id} of slide {slide} under {layout.results}")


def describe(path: Path, row: Mapping[str, object], chain: list[Sidecar], *, slide: str) -> str:
    """Describe the chain, prediction first: outputs, inputs, code, settings, machine and time of each job."""
    lines = [f"{path}: " + ", ".join(f"{key} {value}" for key, value in row.items())]
    for sidecar in chain:
        # A model's chain includes all slides it was trained on; only the steps of this slide are described.
        if sidecar.wildcards.get("slide", slide) != slide:
            continue
        machine, git = sidecar.machine, sidecar.git
        lines += ["", f"{sidecar.rule} {' '.join(f'{k}={v}' for k, v in sidecar.wildcards.items())}".rstrip()]
        lines += [f"  made      {output}  sha256 {digest}" for output, digest in sidecar.outputs.items()]
        lines += [f"  from      {source}" for source in list(sidecar.inputs)[:6]]
        if len(sidecar.inputs) > 6:
            lines.append(f"  from      … {len(sidecar.inputs) - 6} more files")
        code = f"{git.commit}{' (modified)' if git.modified else ''}" if git else "unknown"
        lines.append(f"  code      {code}, digest {sidecar.params.get('code')}")
        lines.append(f"  settings  {json.dumps(sidecar.params.get('cfg'), sort_keys=True)}")
        job_id = f", Slurm job {machine.slurm_job}" if machine.slurm_job else ""
        lines.append(f"  ran       {sidecar.started} on {machine.host}{job_id}, {sidecar.seconds} s")
        lines.append(f"  log       {next(iter(sidecar.log), None)}")
        if is_conversion(sidecar):
            lines.append(f"  slide     sha256 {_source_digest(sidecar)}")
    return "\n".join(lines)


def is_conversion(sidecar: Sidecar) -> bool:
    """Whether a job converted a slide. Its rule has another name where the workflow is a module of another one."""
    return {"slide", "mpp", "sha256"} <= set(sidecar.params)


def _source_digest(sidecar: Sidecar) -> str:
    manifest = Manifest.read(next(iter(sidecar.outputs)))
    return manifest.sha256 if isinstance(manifest, Manifest) else "unknown: the slide is in quarantine"
