"""The profiles: the literal `--profile slurm` is found, and GPU rules request a GPU, in the words of each scheduler."""

import re
import subprocess

import pytest
import yaml

from tests.workshop import JOB, ROOT, RULE

CLUSTERS = ("slurm", "lsf", "pbs")

GPU_RULES = {"train", "predict_slide", "embed", "attribute"}


def read(name):
    return yaml.safe_load((ROOT / "profiles" / name / "profile.v9+.yaml").read_text())


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_default_profile_and_that_of_a_cluster_share_no_key(name):
    assert not set(read("default")) & set(read(name))


def test_every_profile_key_has_its_reason_above_it():
    for name in ("default", *CLUSTERS):
        lines = (ROOT / "profiles" / name / "profile.v9+.yaml").read_text().splitlines()
        keys = [i for i, line in enumerate(lines) if line and not line.startswith(("#", " "))]
        bare = [lines[i] for i in keys if not lines[i - 1].startswith("#") and i - 1 not in keys and i > 3]
        assert not bare


def asking_for_gpus():
    """Rules that ask for GPUs, and those derived from them."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    asking = {name for name, body in RULE.findall(text) if re.search(r"^ +gpu=", body, re.MULTILINE)}
    return asking | {
        new for old, new in re.findall(r"^use rule (\w+) as (\w+) with:", text, re.MULTILINE) if old in asking
    }


def test_lsf_is_asked_for_a_gpu_by_every_rule_that_needs_one():
    assert read("lsf")["set-resources"] == {name: {"lsf_extra": "-gpu num=1"} for name in asking_for_gpus()}


def test_pbs_is_asked_for_the_resources_of_the_job_and_for_no_gpu_otherwise():
    profile = read("pbs")
    submit = profile["cluster-generic-submit-cmd"]
    assert "select=1:ncpus={threads}:mem={resources.mem_mb}mb:ngpus={resources.gpu}" in submit
    assert profile["default-resources"]["gpu"] == 0


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("    job_state = R", "running"),
        ("    job_state = F\n    Exit_status = 0", "success"),
        ("    job_state = F\n    Exit_status = 271", "failed"),
        ("qstat: Unknown Job Id 1.pbs", "failed"),
        ("qstat: cannot connect to server", "running"),
    ],
)
def test_the_status_of_a_job_of_pbs_is_read_from_qstat(tmp_path, answer, status):
    qstat = tmp_path / "qstat"
    qstat.write_text(f'#!/bin/sh\n[ "$3" = 1.pbs ] && printf "{answer}\\n"\n')
    qstat.chmod(0o755)
    command = f"{read('pbs')['cluster-generic-status-cmd']} 1.pbs"
    found = subprocess.run(
        command, shell=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert found.stdout.strip() == status


def test_make_profiles_makes_the_literal_profile_slurm_work_and_gpu_rules_ask_for_one(workshop):
    subprocess.run(["make", "profiles"], cwd=workshop.folder, env=workshop.environment(), check=True)
    done = workshop.snakemake("--profile", "slurm", "--dry-run", "-p", "--forceall")
    asked = {match["rule"]: "gpu=1" in match["body"] for match in JOB.finditer(done.stdout + done.stderr)}
    assert {rule for rule, gpu in asked.items() if gpu} == GPU_RULES & set(asked)
    assert {"convert", "train", "predict_slide"} <= set(asked)


def test_make_profiles_does_not_overwrite_a_users_own_profile(workshop):
    own = workshop.folder / ".config" / "snakemake" / "slurm"
    if own.is_symlink():
        own.unlink()
    own.mkdir(parents=True)
    done = subprocess.run(
        ["make", "profiles"], cwd=workshop.folder, env=workshop.environment(), capture_output=True, text=True
    )
    own.rmdir()
    assert done.returncode != 0
    assert "move it away first" in done.stderr
