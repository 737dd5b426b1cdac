"""Verification of a results folder: every file is compared with what its job and the run records state.

A file of the results is an output that a sidecar has the digest of, and a sidecar is registered in the record of a run.
Run records form a chain. So a file that was altered, removed or added is found, unless everything up to the head of the
chain was replaced; an anchor (`histomake.audit.run_chain`) shows that as well. Remarks say what nothing proves: records
without an anchor, and files that a run found and did not make.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from histomake.audit import register, run_chain
from histomake.audit.lineage import is_conversion
from histomake.audit.register import Entry
from histomake.audit.sidecar import SIDECAR
from histomake.base.addresses import in_object_store
from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file, sha256_tree, size_of
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined, RecordError
from histomake.base.records.sidecar import Sidecar
from histomake.slide.verify import verify_slide

THREADS = 4
"""Files hashed at once: hashing waits for the disk or the file server."""


@dataclass
class Findings:
    """Result of a verification: problems, remarks that are not problems, and the number of compared outputs."""

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    outputs: int = 0


@dataclass(frozen=True)
class Placed:
    """A sidecar, its place, and the working directory of its job, in which its paths start."""

    place: Path
    sidecar: Sidecar
    directory: Path

    def file(self, path: str) -> Path:
        """A path that the sidecar names."""
        return self.directory / path


def read_placed(place: Path) -> Placed:
    """Read a sidecar. Raises RecordError when it is damaged, or does not lie beside its first output."""
    sidecar = Sidecar.read(place)
    path = str(place.absolute())
    for output in sidecar.outputs:
        if path == f"{output}{SIDECAR}" or path.endswith(f"/{output}{SIDECAR}"):
            return Placed(place, sidecar, Path(path.removesuffix(f"{output}{SIDECAR}") or "/"))
    raise RecordError(f"{place}: it is the sidecar of other files: {', '.join(sidecar.outputs)}")


def verify(
    layout: Layout,
    slides: Collection[str] = (),
    *,
    anchor: Path | None = None,
    quick: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Compare the files of a results folder with their digests.

    Args:
        layout: The results folder.
        slides: Only files of these slides; empty for the whole folder.
        anchor: Folder with the digests of run records; by default the one that the last run used.
        quick: Compare the sizes of outputs, and hash none.
        progress: Called with the number of compared and of all outputs.

    Raises HistomakeError when one of ``slides`` is unknown to the run records.
    """
    chain = run_chain.read(layout, anchor)
    found = Findings(problems=list(chain.problems), remarks=_not_proved(chain))
    expected = _expected(layout, chain, found)
    _require_known(slides, expected, layout)
    wanted = {name: entry for name, entry in expected.items() if not slides or entry.slide_id in slides}
    present = [name for name in register.sidecar_paths(layout) if not slides or name in wanted]
    _compare_sidecars(layout, chain, wanted, present, found)
    placed = list(_readable(layout, present, found))
    _compare_outputs(placed, found, quick=quick, progress=progress)
    if not slides:
        found.problems += _undeclared(layout, placed)
    return found


def _expected(layout: Layout, chain: run_chain.Chain, found: Findings) -> dict[str, Entry]:
    """The registered sidecars; it is a problem if there are none."""
    try:
        expected = register.registered(layout, chain.links)
    except HistomakeError as error:
        found.problems.append(str(error))
        return {}
    if not expected:
        found.problems.append(f"{layout.runs}: no record of a run says which files must exist")
    return expected


def _not_proved(chain: run_chain.Chain) -> list[str]:
    """Remarks on what the records leave open."""
    remarks = []
    if chain.anchor is None:
        remarks.append(
            "the records of runs are compared with no anchor, so whoever can write into the results could have "
            "replaced all of them: set audit.anchor, or give --anchor"
        )
    for link in chain.links:
        adopted = link.record.sidecars.adopted if link.record.sidecars else 0
        if adopted:
            remarks.append(
                f"{adopted:,} sidecar(s) were found by the run that ended at {link.record.time}, after one that was "
                "killed or had no record: files altered before it would not show"
            )
    return remarks


def _require_known(slides: Collection[str], expected: dict[str, Entry], layout: Layout) -> None:
    unknown = sorted(set(slides) - {entry.slide_id for entry in expected.values()})
    if unknown:
        raise HistomakeError(f"{layout.results}: no run has made anything of slide {', '.join(unknown)}")


def _compare_sidecars(
    layout: Layout, chain: run_chain.Chain, expected: dict[str, Entry], present: Sequence[str], found: Findings
) -> None:
    """Compare the sidecars with the register."""
    here = set(present)
    found.problems += [f"{layout.results / name}: missing" for name in sorted(set(expected) - here)]
    strange = []
    maybe = "; the last run, which did not end, may have made it again" if chain.unfinished is not None else ""
    for name in present:
        path = layout.results / name
        if name in expected and sha256_file(path) == expected[name].sha256:
            continue
        if name in expected:
            found.problems.append(f"{path}: changed since a run registered it{maybe}")
        elif chain.unfinished is not None:
            strange.append(name)
        else:
            found.problems.append(f"{path}: not registered by any run")
    if strange:
        found.remarks.append(
            f"{len(strange):,} sidecar(s) are not registered yet: the last run did not end. The next one registers them"
        )


def _readable(layout: Layout, names: Sequence[str], found: Findings) -> Iterator[Placed]:
    for name in names:
        try:
            yield read_placed(layout.results / name)
        except RecordError as error:
            found.problems.append(str(error))


def _compare_outputs(
    placed: Sequence[Placed], found: Findings, *, quick: bool, progress: Callable[[int, int], None]
) -> None:
    """Compare all outputs, several at once, and every input with the digest that the job behind it states."""
    total = sum(len(each.sidecar.outputs) for each in placed)
    compare = _of_other_size if quick else altered
    with ThreadPoolExecutor(THREADS) as pool:
        for each, problems in zip(placed, pool.map(compare, placed), strict=True):
            found.problems += problems
            found.remarks += _rests_on_store(each) + _continued(each)
            found.outputs += len(each.sidecar.outputs)
            progress(found.outputs, total)
    found.problems += other_inputs(placed)


def altered(placed: Placed) -> list[str]:
    """The outputs of a job that are missing or have other bytes than those it wrote."""
    if is_conversion(placed.sidecar):
        return _altered_conversion(placed)
    return [problem for path in placed.sidecar.outputs for problem in _altered(placed, path)]


def _altered_conversion(placed: Placed) -> list[str]:
    """As `altered`. If the manifest is unchanged, the changed files of the store and of the slide are named."""
    manifest, *others = placed.sidecar.outputs
    problems = _altered(placed, manifest)
    if problems or isinstance(Manifest.read(placed.file(manifest)), Quarantined):
        return problems + [problem for path in others for problem in _altered(placed, path)]
    source = _original(placed)
    return verify_slide(placed.file(manifest), source=source if source and source.exists() else None)


def _original(placed: Placed) -> Path | None:
    """The slide file or folder that a conversion read."""
    source = next(iter(placed.sidecar.inputs), None)
    return placed.file(source) if source else None


def _rests_on_store(placed: Placed) -> list[str]:
    """A remark if the file that a conversion read is missing, or is in an object store."""
    source = _original(placed) if is_conversion(placed.sidecar) else None
    if source is None or source.exists():
        return []
    slide, address = placed.sidecar.wildcards.get("slide"), next(iter(placed.sidecar.inputs))
    if in_object_store(address):
        return [f"slide {slide} was not compared with {address}, which is in an object store"]
    return [f"slide {slide} is used from its store: {_shown(source)} is missing"]


def _continued(placed: Placed) -> list[str]:
    """A remark if a training continued from checkpoints of an earlier attempt, which nothing proves to be its own."""
    name = _shown(placed.file(next(iter(placed.sidecar.outputs))))
    return [
        f"{name}: continued from checkpoints that no record covers, in {state}" for state in placed.sidecar.continued
    ]


def _altered(placed: Placed, path: str) -> list[str]:
    file = placed.file(path)
    if not file.exists():
        return [f"{_shown(file)}: missing"]
    if sha256_tree(file) != placed.sidecar.outputs[path]:
        return [f"{_shown(file)}: its bytes are not those that rule {placed.sidecar.rule} wrote"]
    return []


def _of_other_size(placed: Placed) -> list[str]:
    """The outputs of a job that are missing or have another size."""
    problems = []
    for path in placed.sidecar.outputs:
        file, size = placed.file(path), placed.sidecar.sizes.get(path)
        if not file.exists():
            problems.append(f"{_shown(file)}: missing")
        elif size is not None and size_of(file) != size:
            problems.append(f"{_shown(file)}: has {size_of(file):,} bytes, not the {size:,} that its job wrote")
    return problems


def other_inputs(placed: Sequence[Placed]) -> list[str]:
    """Outputs that were made from other bytes of an input than the job behind that input states now."""
    stated = {str(each.file(path)): digest for each in placed for path, digest in each.sidecar.outputs.items()}
    return [
        f"{_shown(each.file(next(iter(each.sidecar.outputs))))}: made from other bytes of {path}"
        for each in placed
        for path, digest in each.sidecar.inputs.items()
        if digest is not None and stated.get(str(each.file(path)), digest) != digest
    ]


def verify_chain(layout: Layout, slide: str, chain: Sequence[Sidecar], *, anchor: Path | None = None) -> Findings:
    """Compare the files of a chain of sidecars, from a prediction of ``slide`` back to the slide's file.

    It is a problem if the chain is empty, or if an input in the results folder has no sidecar in it.
    """
    records = run_chain.read(layout, anchor)
    found = Findings(problems=list(records.problems), remarks=_not_proved(records))
    # The outputs of a sidecar are sorted, so the one it lies beside need not be the first.
    beside = [f"{path}{SIDECAR}" for sidecar in chain for path in sidecar.outputs]
    names = [str(Path(place).relative_to(layout.results)) for place in beside if Path(place).is_file()]
    expected = {name: entry for name, entry in _expected(layout, records, found).items() if name in names}
    _compare_sidecars(layout, records, expected, names, found)
    _compare_outputs(list(_readable(layout, names, found)), found, quick=False, progress=lambda done, total: None)
    found.problems += _lost_links(layout, chain)
    if not any(is_conversion(sidecar) and sidecar.wildcards.get("slide") == slide for sidecar in chain):
        found.problems.append(f"slide {slide}: the chain does not lead to the slide's file")
    return found


def _lost_links(layout: Layout, chain: Sequence[Sidecar]) -> list[str]:
    """Inputs in the results folder that no sidecar of the chain states as its output."""
    stated = {path for sidecar in chain for path in sidecar.outputs}
    inputs = {path for sidecar in chain for path in sidecar.inputs if Path(path).is_relative_to(layout.results)}
    return [f"{path}: no sidecar says how it was made" for path in sorted(inputs - stated)]


def _undeclared(layout: Layout, placed: Sequence[Placed]) -> list[str]:
    """Files that no sidecar states."""
    declared = {each.file(path) for each in placed for path in each.sidecar.outputs}
    return [
        f"{path}: not an output of any job"
        for path in register.files(layout)
        if not path.name.endswith(SIDECAR) and not {path.absolute(), *path.absolute().parents} & declared
    ]


def _shown(path: Path) -> Path:
    """A path relative to the working directory where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
