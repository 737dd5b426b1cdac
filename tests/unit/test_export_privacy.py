"""What leaves the site names nobody, unless the site asks for it: the crate, and Snakemake's report."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from histomake.audit.lineage import write_lineage
from histomake.audit.pseudonyms import Pseudonyms
from histomake.audit.register import is_note
from histomake.audit.ro_crate import write_crate
from histomake.audit.runs import Jobs, Run
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.base.records.environment import Machine
from histomake.base.records.metrics import LevelMetrics, Subgroup, SubgroupTable
from histomake.config import Config

from tests import sample_records

ROOT = Path(__file__).resolve().parents[2]
NAME = "DoeJane"
"""The name of a patient, who is in every field."""

SHEET = f"""slide_id\tpath\tpatient_id\tannotation\tsite\tgrade
{NAME}-1\t/clinic/{NAME}/slide.svs\t{NAME}\t/clinic/{NAME}.geojson\t{NAME} clinic\t{NAME}
B.2\t/clinic/b.svs\tP2\t\t\tlow
"""


def make_results(folder: Path, *, identifiers: bool) -> Layout:
    """A results folder of a finished run, whose sheet, paths, settings, logs and metrics have the name."""
    layout, sheet = Layout(folder / "results"), folder / f"{NAME}.tsv"
    layout.results.mkdir(parents=True)
    sheet.write_text(SHEET)
    config = Config(
        sheet=str(sheet),
        results=str(layout.results),
        annotations={"classes": {NAME: "tumour", "other": "rest"}},
        tasks={"t": {"grid": "x20", "target": {"classes": ["tumour", "rest"]}}},
        export={"identifiers": identifiers},
    )
    common = {"machine": Machine(host=f"pc-{NAME}", cpus=1, gpus=[], slurm_job=NAME), "log": [f"logs/{NAME}.log"]}
    table, manifest = layout.table("x20", f"{NAME}-1"), layout.manifest(f"{NAME}-1")
    sidecars = [
        sample_records.sidecar(
            rule="convert",
            wildcards={"slide": f"{NAME}-1"},
            params={"code": "c0de", "cfg": {"of": NAME}},
            inputs={f"/clinic/{NAME}/slide.svs": None},
            outputs={str(manifest): "11", str(layout.store(f"{NAME}-1")): "22"},
            **common,
        ),
        sample_records.sidecar(
            rule="catalog",
            params={"code": "c0de", "sheet": [[f"{NAME}-1", NAME]]},
            inputs={str(manifest): "11", str(table): "33"},
            outputs={str(layout.catalog): "44"},
            **common,
        ),
    ]
    run = Run(layout, config)
    run.start()
    layout.lineage.parent.mkdir(parents=True, exist_ok=True)
    write_lineage(sidecars, layout.lineage)
    by_site = {"site": SubgroupTable(groups={NAME: Subgroup(count=1, patients=1, metrics={})}, tests={})}
    levels = {"patient": LevelMetrics(count=1, patients=1, metrics={}, subgroups=by_site)}
    layout.metrics("t").parent.mkdir()
    sample_records.metrics(levels, patients_of_several_classes=[NAME]).write(layout.metrics("t"))
    (layout.results / "metrics" / "t.json.meta.json").write_text(f'"{NAME}"')
    log = folder / "snakemake.log"
    log.write_text(NAME)
    run.finish(Jobs([], lambda path, slide: True), snakemake_logs=[str(log)], succeeded=True)
    return layout


def exported(layout: Layout, target: Path) -> str:
    """Everything in a crate, names of files too, as one text."""
    crate = write_crate(layout, ROOT / "Snakefile", target)
    found = []
    for path in (path for path in crate.rglob("*") if path.is_file()):
        content = path.read_bytes()
        table = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else ""
        found += [str(path.relative_to(target)), content.decode(errors="replace"), table]
    return "\n".join(found)


def test_a_crate_names_no_slide_no_patient_and_no_original_file(tmp_path):
    layout = make_results(tmp_path, identifiers=False)
    text = exported(layout, tmp_path / "crate")
    assert NAME.lower() not in text.lower()
    assert "B.2" not in text
    assert "clinic" not in text
    assert "c0de" in text
    assert {"11", "22", "33", "44"} >= set(re.findall(r'"sha256": "(\d\d)"', text)) >= {"11", "44"}


def test_a_crate_has_names_if_the_site_asks_for_them(tmp_path):
    text = exported(make_results(tmp_path, identifiers=True), tmp_path / "crate")
    for part in (f"{NAME}-1", f"/clinic/{NAME}/slide.svs", f"pc-{NAME}", "B.2"):
        assert part in text


def test_the_map_stays_at_home_and_leads_back_to_the_names(tmp_path):
    layout = make_results(tmp_path, identifiers=False)
    text = exported(layout, tmp_path / "crate")
    rows = [line.split("\t") for line in layout.pseudonyms.read_text().splitlines()]
    found = {(kind, name): pseudonym for kind, name, pseudonym in rows}
    assert found["slide", f"{NAME}-1"] in text
    assert found["patient", NAME] in text
    assert found["file", f"/clinic/{NAME}/slide.svs"] in text
    assert layout.pseudonym_key.read_text() not in text
    for path in (layout.pseudonyms, layout.pseudonym_key):
        assert path.stat().st_mode & 0o077 == 0
        assert is_note(path, layout)


def test_pseudonyms_are_the_same_in_every_export_and_others_in_other_results(tmp_path):
    one, again, other = (Pseudonyms(Layout(tmp_path / name), ["s"]) for name in ("a", "a", "b"))
    assert one.of("slide", "s") == again.of("slide", "s") != other.of("slide", "s")
    assert one.of("slide", "s") != one.of("patient", "s")


def test_a_path_keeps_its_place_in_the_results_and_no_other_place(tmp_path):
    layout = Layout(tmp_path / "results")
    names = Pseudonyms(layout, ["a", "a.b"])
    one, other = names.of("slide", "a"), names.of("slide", "a.b")
    assert names.path(str(layout.table("x20", "a.b"))) == f"patches/x20/{other}.parquet"
    assert names.path(str(layout.view("t", 0, "a", "prediction"))) == f"views/t/fold0/{one}/prediction.jpg"
    assert re.fullmatch(r"file-[0-9a-f]{16}", names.path("/elsewhere/a.svs"))


def test_a_key_that_cannot_be_read_is_refused(tmp_path):
    layout = Layout(tmp_path)
    layout.pseudonym_key.parent.mkdir()
    layout.pseudonym_key.write_text("short")
    with pytest.raises(HistomakeError, match="not a key of pseudonyms"):
        Pseudonyms(layout, [])


SNAKEFILE = """
import sys
sys.path.insert(0, {scripts!r})
from histomake.planning import snakemake_internals as internals

if {hidden}:
    internals.leave_names_out_of_reports(workflow)

rule figure:
    input: "points-of-a-slide.txt"
    output: report("figure.txt", labels={{"figure": "curve"}})
    params: slides=["secret-patient"]
    shell: "cp {{input}} {{output}}"

rule points:
    output: "points-{{slide}}.txt"
    wildcard_constraints: slide="of-a-slide|secret-slide"
    shell: "echo points > {{output}}"
"""


@pytest.mark.parametrize("hidden", [True, False])
def test_params_and_constraints_of_wildcards_are_left_out_of_snakemakes_report(tmp_path, hidden):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(scripts=str(ROOT / "scripts"), hidden=hidden))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet"]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    for more in ([], ["--report", "report.html"]):
        subprocess.run([*command, *more], cwd=tmp_path, env=environment, check=True, capture_output=True)
    text = (tmp_path / "report.html").read_text()
    assert ("secret-patient" in text) != hidden
    assert ("secret-slide" in text) != hidden


def test_outputs_that_show_or_name_a_slide_are_in_the_report_only_if_it_may_identify():
    """Every other output of the report is of a task, a fold or a cascade."""
    for file in (ROOT / "rules").glob("*.smk"):
        for block in re.findall(r"(?<!\w)report\((?!path)(.*?)\n        \)", file.read_text(), re.DOTALL):
            assert "{slide}" not in block
            assert "LAYOUT.front_page" not in block
            assert ".panels" not in block
            assert ".page" not in block
