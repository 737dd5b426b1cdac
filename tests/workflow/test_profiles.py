"""The profiles: the literal `--profile slurm` is found, and only GPU rules request a GPU."""

import subprocess

import yaml

from tests.workshop import JOB, ROOT

GPU_RULES = {"train", "predict_slide", "embed", "attribute"}


def read(name):
    return yaml.safe_load((ROOT / "profiles" / name / "profile.v9+.yaml").read_text())


def test_the_default_and_the_slurm_profile_share_no_key():
    assert not set(read("default")) & set(read("slurm"))


def test_every_profile_key_has_its_reason_above_it():
    for name in ("default", "slurm"):
        lines = (ROOT / "profiles" / name / "profile.v9+.yaml").read_text().splitlines()
        keys = [i for i, line in enumerate(lines) if line and not line.startswith(("#", " "))]
        bare = [lines[i] for i in keys if not lines[i - 1].startswith("#") and i - 1 not in keys and i > 3]
        assert not bare


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
