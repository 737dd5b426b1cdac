"""What is installed is pinned by digests, listed in a bill of materials, and can be compared with known advisories."""

from __future__ import annotations

import ensurepip
import json
import os
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.txt").read_text()


@pytest.fixture(scope="module")
def sbom():
    return runpy.run_path(str(ROOT / "envs" / "sbom.py"))


@pytest.fixture(scope="module")
def advisories():
    return runpy.run_path(str(ROOT / "envs" / "advisories.py"))


def test_the_bill_lists_every_locked_package_with_its_version_and_digests(sbom):
    bill = sbom["bill"](LOCK)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    pins = dict(re.findall(r"^([a-z0-9._-]+)==([^ ]+)", LOCK, re.MULTILINE))
    assert {c["name"]: c["version"] for c in bill["components"]} == pins
    assert all(c["purl"] == f"pkg:pypi/{c['name']}@{c['version']}" and c["hashes"] for c in bill["components"])
    digests = {h["content"] for c in bill["components"] for h in c["hashes"]}
    assert digests == set(re.findall(r"sha256:([0-9a-f]{64})", LOCK))


def test_the_bill_depends_on_the_lock_alone(sbom):
    assert sbom["bill"](LOCK) == sbom["bill"](LOCK)
    assert sbom["bill"](LOCK)["serialNumber"] != sbom["bill"](LOCK + "\n")["serialNumber"]


PIP_READS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pip._internal.network.session import PipSession
from pip._internal.req.constructors import install_req_from_parsed_requirement
from pip._internal.req.req_file import parse_requirements
lines = parse_requirements(sys.argv[2], session=PipSession())
read = [install_req_from_parsed_requirement(line) for line in lines]
print(json.dumps({r.name: [str(r.specifier), r.is_pinned, r.hash_options["sha256"]] for r in read}))
"""
"""Reads a file of requirements as `pip install -r` does, from the wheel that Python brings."""


@pytest.mark.parametrize("name", ["learning", "slides"])
def test_a_conda_environment_installs_pins_with_the_digests_of_the_lock_and_nothing_else(sbom, name, tmp_path):
    """The script of the environment runs with another `python`, which keeps what pip is given."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/arguments"\ncp "$8" "{tmp_path}/list"\n')
    python.chmod(0o755)
    subprocess.run(
        ["sh", str(ROOT / "envs" / f"{name}.post-deploy.sh")],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
    )
    *arguments, given = (tmp_path / "arguments").read_text().split()
    assert arguments == ["-m", "pip", "install", "--no-deps", "--no-input", "--require-hashes", "-r"]
    assert not Path(given).exists()

    wheel = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    command = [sys.executable, "-c", PIP_READS, str(wheel), str(tmp_path / "list")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    locked = sbom["locked"](LOCK)
    read = json.loads(done.stdout)
    assert len(read) > 50
    assert read == {
        name: [f"=={version}", True, digests] for name, (version, digests) in locked.items() if name in read
    }


@pytest.mark.parametrize("name", ["learning", "slides"])
def test_an_environment_file_is_small_because_snakemake_keeps_a_copy_for_every_output(name):
    file = ROOT / "envs" / f"{name}.yaml"
    assert file.stat().st_size < 1_000
    assert yaml.safe_load(file.read_text())["dependencies"] == ["python=3.12", "pip"]


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile without comments, each with its arguments."""
    lines = [line for line in dockerfile.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def sections(definition: str) -> dict[str, list[str]]:
    """Lines of the sections of an Apptainer definition, and of its head under the empty name."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in filter(None, definition.splitlines()):
        if line.startswith("%"):
            found[name := line[1:]] = []
        elif not line.startswith("#"):
            found[name].append(line.strip())
    return found


@pytest.mark.parametrize("name", ["learning", "slides"])
def test_an_image_installs_what_the_conda_environment_does(name):
    """Both recipes run the script of the environment, whose packages are tested above, and have pip compare them."""
    steps = instructions((ROOT / "envs" / f"{name}.dockerfile").read_text())
    (copied,) = [arguments.split() for word, arguments in steps if word == "COPY"]
    assert copied[0] == f"{name}.post-deploy.sh"
    runs = [arguments for word, arguments in steps if word == "RUN"]
    assert f"sh {copied[1]} && python -m pip check" in runs[1]

    recipe = sections((ROOT / "envs" / f"{name}.def").read_text())
    assert recipe["files"] == [f"envs/{name}.post-deploy.sh {copied[1]}"]
    assert recipe["post"][0] == "set -e"
    assert recipe["post"][-2:] == [command.strip() for command in runs[1].split("&&")]
    assert recipe["post"][1:-2] == [command.strip() for command in runs[0].split("&&")]


@pytest.mark.parametrize("name", ["learning", "slides"])
def test_an_image_has_the_python_of_the_project_and_another_base_can_be_given(name):
    python = (ROOT / ".python-version").read_text().strip()
    base = f"BASE=python:{python}-slim-bookworm"
    steps = instructions((ROOT / "envs" / f"{name}.dockerfile").read_text())
    assert steps[:2] == [("ARG", base), ("FROM", "${BASE}")]
    recipe = sections((ROOT / "envs" / f"{name}.def").read_text())
    assert recipe[""] == ["Bootstrap: docker", "From: {{ BASE }}"]
    assert recipe["arguments"] == [base]


@pytest.mark.parametrize("name", ["learning", "slides"])
def test_a_container_runs_python_as_a_user_without_rights(name):
    steps = instructions((ROOT / "envs" / f"{name}.dockerfile").read_text())
    assert ("RUN", "useradd --create-home histomake") in steps
    assert steps.index(("USER", "histomake")) > max(i for i, (word, _) in enumerate(steps) if word == "RUN")
    assert steps[-1] == ("ENTRYPOINT", '["python"]')
    recipe = sections((ROOT / "envs" / f"{name}.def").read_text())  # its user is the one who starts it
    assert recipe["runscript"] == ['exec python "$@"']
    assert recipe["environment"] == ["export PYTHONNOUSERSITE=1"]


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.d[eo]*")), ids=lambda path: path.name)
def test_a_recipe_names_no_index_and_no_registry(path):
    assert not re.search(r"://|index|[\w.-]+\.(io|com|org)/", path.read_text())


def test_the_installer_is_pinned_by_its_digests():
    pinned = (ROOT / "envs" / "uv.txt").read_text()
    assert re.search(r"^uv==\d+\.\d+\.\d+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+$", pinned, re.MULTILINE)
    assert "--require-hashes --only-binary :all: -r envs/uv.txt" in (ROOT / "Makefile").read_text()


RANGE = [{"introduced": "0"}, {"fixed": "2.1"}, {"introduced": "3.0"}, {"last_affected": "3.2"}]


@pytest.mark.parametrize(
    ("version", "concerned"), [("1.0", True), ("2.1", False), ("3.0", True), ("3.2", True), ("3.3", False)]
)
def test_an_advisory_concerns_the_versions_in_its_ranges(advisories, version, concerned):
    assert advisories["concerns"]({"ranges": [{"type": "ECOSYSTEM", "events": RANGE}]}, version) == concerned


def archive(path: Path, *entries: dict) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for number, entry in enumerate(entries):
            file.writestr(f"{number}.json", json.dumps(entry))
    return path


def advisory(package: str, **values) -> dict:
    affected = {"package": {"ecosystem": "PyPI", "name": package}, **values}
    return {"id": "TEST-1", "summary": "a flaw", "affected": [affected]}


def test_an_advisory_of_a_locked_version_is_named(advisories, tmp_path, capsys):
    (version,) = re.findall(r"^scikit-learn==([^ ]+)", LOCK, re.MULTILINE)
    path = archive(tmp_path / "a.zip", advisory("Scikit_Learn", versions=[version]), advisory("no-such-package"))
    assert advisories["main"](path) == 1
    assert f"scikit-learn {version}: TEST-1 a flaw" in capsys.readouterr().out


def test_other_versions_and_withdrawn_advisories_concern_nothing(advisories, tmp_path):
    withdrawn = advisory("numpy", ranges=[{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}])
    path = archive(tmp_path / "a.zip", advisory("numpy", versions=["0.0.1"]), withdrawn | {"withdrawn": "2026-01-01"})
    assert advisories["main"](path) == 0


def test_an_archive_without_advisories_is_no_good_news(advisories, tmp_path):
    assert advisories["main"](archive(tmp_path / "a.zip")) == 2
