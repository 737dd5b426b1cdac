"""Sidecars of jobs, and lineage: the chain of a result can be followed, and a changed link is detected."""

from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from histomake.audit.code import SCRIPTS
from histomake.audit.lineage import of_other_slides, walk, write_lineage
from histomake.audit.sidecar import job
from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_tree
from histomake.base.layout import Layout

SCRIPTDIR = str(SCRIPTS)


class Named(list):
    """A list with named items, as Snakemake gives to scripts."""

    def __init__(self, **items):
        super().__init__(items.values())
        self._items = items

    def items(self):
        return self._items.items()


def make_store(rule, first, store, known):
    """Run a pretended rule that writes a file and a Zarr store of one array, whose digest may be known."""
    output = Named(out=str(first), store=str(store / "zarr.json"))
    snakemake = SimpleNamespace(
        rule=rule,
        input=Named(),
        output=output,
        params=Named(),
        wildcards=Named(slide="s1"),
        log=[],
        scriptdir=SCRIPTDIR,
        resources={},
        threads=1,
    )
    with job(snakemake) as digests:
        first.write_text("record")
        (store / "0").mkdir(parents=True)
        (store / "0" / "zarr.json").write_text("{}")
        (store / "zarr.json").write_text("{}")
        if known:
            digests[str(store)] = known


def make(rule, output, inputs, text):
    """Run a pretended rule that writes ``text``."""
    snakemake = SimpleNamespace(
        rule=rule,
        input=Named(**{f"i{n}": str(p) for n, p in enumerate(inputs)}),
        output=Named(out=str(output)),
        params=Named(cfg={"a": 1}),
        wildcards=Named(slide="s1"),
        log=[],
        scriptdir=SCRIPTDIR,
        resources={},
        threads=1,
    )
    with job(snakemake):
        output.write_text(text)


def failing(folder, inputs, scriptdir=SCRIPTDIR):
    """A job with one output, ``x``, and a log."""
    output, log = Named(o=str(folder / "x")), [str(folder / "l.log")]
    return SimpleNamespace(rule="r", input=inputs, output=output, log=log, scriptdir=scriptdir, resources={})


@pytest.fixture
def chain(tmp_path):
    slide, store, table = (tmp_path / name for name in ("s1.svs", "s1.json", "s1.parquet"))
    slide.write_text("pixels")
    make("convert", store, [slide], "store")
    make("tabulate_patches", table, [store], "table")
    return slide, store, table


def test_the_chain_leads_from_a_result_to_the_slide(chain, tmp_path):
    slide, store, table = chain
    found = list(walk([table]))
    assert [s.rule for s in found] == ["tabulate_patches", "convert"]
    assert list(found[1].inputs) == [str(slide)]
    write_lineage(found, tmp_path / "lineage.parquet")
    rows = pq.read_table(tmp_path / "lineage.parquet").to_pylist()
    assert [(r["output"], r["rule"], r["slide_id"]) for r in rows] == [
        (str(table), "tabulate_patches", "s1"),
        (str(store), "convert", "s1"),
    ]


def test_a_store_is_digested_as_a_whole_and_known_as_an_input(tmp_path):
    store, table = tmp_path / "s1.labels.zarr", tmp_path / "table"
    make_store("predict", tmp_path / "s1.parquet", store, known=None)
    make("score", table, [tmp_path / "s1.parquet", store / "zarr.json"], "table")
    (store / ".snakemake_timestamp").touch()
    scored, predicted = walk([table])
    assert scored.inputs[str(store)] == predicted.outputs[str(store)] == sha256_tree(store)
    assert predicted.sizes[str(store)] == 4


def test_a_digest_that_is_known_is_not_computed_again(tmp_path):
    make_store("convert", tmp_path / "s1.json", tmp_path / "s1.zarr", known="of the manifest")
    (sidecar,) = walk([tmp_path / "s1.json"])
    assert sidecar.outputs[str(tmp_path / "s1.zarr")] == "of the manifest"


def test_files_of_another_slide_are_distinguished_from_shared_ones(tmp_path):
    others = of_other_slides(Layout(tmp_path), "s.1")
    assert [others(str(tmp_path / path)) for path in ("slides/s.1.json", "patches/x/s.1.parquet")] == [False, False]
    assert [others(str(tmp_path / path)) for path in ("slides/s.json", "patches/x/s.parquet")] == [True, True]
    assert not others(str(tmp_path / "splits" / "task.parquet"))
    assert not others("/elsewhere/slides/s.svs")


def test_a_failing_job_leaves_no_sidecar(tmp_path):
    snakemake = failing(tmp_path, Named())
    with pytest.raises(SystemExit), job(snakemake):
        raise HistomakeError("slide s1: no mpp; give one in the sheet")
    assert not (tmp_path / "x.meta.json").exists()
    log = (tmp_path / "l.log").read_text()
    assert "give one in the sheet" in log
    assert "Traceback" not in log


def test_a_job_refuses_a_library_that_is_not_beside_its_script(tmp_path):
    (tmp_path / "scripts" / "histomake").mkdir(parents=True)
    (tmp_path / "scripts" / "histomake" / "__init__.py").write_text("")
    output = tmp_path / "x"
    snakemake = failing(tmp_path, Named(), scriptdir=str(tmp_path / "scripts"))
    with pytest.raises(SystemExit), job(snakemake):
        output.write_text("made by other code")
    assert not output.exists()
    assert f"but the scripts are in {tmp_path / 'scripts'}" in (tmp_path / "l.log").read_text()


def test_a_job_that_fails_on_a_damaged_input_names_it(chain, tmp_path):
    _, store, table = chain
    table.write_text("tab")
    inputs = Named(store=str(store), table=str(table))
    snakemake = failing(tmp_path, inputs)
    with pytest.raises(SystemExit), job(snakemake):
        raise ValueError("no Parquet")
    log = (tmp_path / "l.log").read_text()
    assert f"have it made again: rm {table}" in log
    assert str(store) not in log
