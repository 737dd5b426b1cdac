"""GPUs of jobs that run at once on one machine: each takes others, as many as its rule asks for."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from types import SimpleNamespace
from uuid import uuid4

import pytest
from histomake.audit import gpus
from histomake.audit.code import SCRIPTS
from histomake.audit.gpus import VISIBLE, claim, installed, own_gpus, visible
from histomake.audit.sidecar import job


@pytest.fixture
def cards():
    """UUIDs of four GPUs that no other test claims."""
    return [f"GPU-{uuid4()}" for _ in range(4)]


@pytest.fixture
def machine(cards, monkeypatch):
    """A machine with these four GPUs."""
    monkeypatch.setattr(gpus, "installed", lambda: cards)
    monkeypatch.delenv(VISIBLE, raising=False)
    return cards


@pytest.fixture
def claims():
    with ExitStack() as held:
        yield held


def named(cards):
    return dict(zip(cards, cards, strict=True))


def test_jobs_at_once_take_different_gpus(cards, claims):
    taken = [claim(1, named(cards), claims) for _ in range(4)]
    assert sorted(name for names in taken for name in names) == sorted(cards)


def test_more_jobs_than_gpus_share_them_evenly(cards, claims):
    taken = [claim(1, named(cards[:2]), claims)[0] for _ in range(6)]
    assert [taken.count(card) for card in cards[:2]] == [3, 3]


def test_a_job_on_several_gpus_takes_the_free_ones_first(cards, claims):
    assert claim(1, named(cards), claims) == cards[:1]
    assert claim(3, named(cards), claims) == cards[1:]
    assert claim(2, named(cards), claims) == cards[:2]


def test_a_job_that_asks_for_more_than_there_are_takes_all(cards, claims):
    assert claim(8, named(cards), claims) == cards
    assert claim(1, {}, claims) == []


def test_a_gpu_is_free_again_when_its_job_has_ended(cards):
    for _ in range(2):
        with ExitStack() as claims:
            assert claim(1, named(cards), claims) == cards[:1]


def test_the_gpu_of_a_killed_job_is_free_again(cards, claims):
    text = (
        "import contextlib, signal, sys; from histomake.audit.gpus import claim\n"
        "with contextlib.ExitStack() as claims:\n"
        "    print(*claim(1, {name: name for name in sys.argv[1:]}, claims), flush=True); signal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    command = [sys.executable, "-c", text, *cards]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline().split() == cards[:1]
            assert claim(1, named(cards), claims) == cards[1:2]
        finally:
            other.send_signal(signal.SIGKILL)
    assert claim(1, named(cards), claims) == cards[:1]


def test_the_process_sees_its_gpus_only_while_it_works(machine):
    with own_gpus(1) as first, own_gpus(1):
        assert os.environ[VISIBLE] == first[0]
    assert VISIBLE not in os.environ


def test_two_processes_see_different_gpus(machine, monkeypatch):
    with own_gpus(1) as first:
        monkeypatch.delenv(VISIBLE)  # as another process of the run
        with own_gpus(2) as second:
            assert os.environ[VISIBLE] == ",".join(machine[1:3])
        monkeypatch.setenv(VISIBLE, first[0])
    assert (first, second) == (machine[:1], machine[1:3])


def test_what_a_scheduler_gave_to_a_job_is_kept(machine, monkeypatch):
    monkeypatch.setenv(VISIBLE, "2")
    with own_gpus(1) as taken:
        assert (taken, os.environ[VISIBLE]) == (["2"], "2")
    with own_gpus(4):
        assert os.environ[VISIBLE] == "2"
    assert os.environ[VISIBLE] == "2"


def test_jobs_share_what_the_user_lets_them_see(machine, monkeypatch):
    monkeypatch.setenv(VISIBLE, "1,3")
    with own_gpus(1) as first:
        monkeypatch.setenv(VISIBLE, "1,3")
        with own_gpus(1) as second:
            assert (first, second) == (["1"], ["3"])
        monkeypatch.setenv(VISIBLE, "1")


@pytest.mark.parametrize("listed", ["", "-1", "NoDevFiles"])
def test_a_process_without_gpus_stays_without(machine, monkeypatch, listed):
    monkeypatch.setenv(VISIBLE, listed)
    with own_gpus(1) as taken:
        assert (taken, os.environ[VISIBLE]) == ([], listed)


def test_a_job_that_asks_for_no_gpu_claims_none(machine):
    with own_gpus(0) as taken:
        assert taken == []
        assert VISIBLE not in os.environ


UUIDS = ["GPU-aa11", "GPU-ab22", "GPU-cc33"]


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (None, {uuid: uuid for uuid in UUIDS}),
        ("2,0", {"2": "GPU-cc33", "0": "GPU-aa11"}),
        ("GPU-cc", {"GPU-cc": "GPU-cc33"}),
        ("GPU-ab22, 0", {"GPU-ab22": "GPU-ab22", "0": "GPU-aa11"}),
        ("1,3,0", {"1": "GPU-ab22"}),  # CUDA ends at a number that does not exist
        ("1,-1,0", {"1": "GPU-ab22"}),
        ("GPU-a", {}),  # the beginning of two
        ("MIG-5,MIG-6", {"MIG-5": "MIG-5", "MIG-6": "MIG-6"}),
    ],
)
def test_visible_gpus_are_those_that_cuda_finds(listed, found):
    assert visible(listed, UUIDS) == found


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(gpus, "NVML", "libnot-there.so.1")
    assert installed() == []


def test_a_job_sees_as_many_gpus_as_its_rule_asks_for(machine, tmp_path):
    snakemake = SimpleNamespace(
        rule="train", scriptdir=str(SCRIPTS), resources={"gpu": 2}, input=[], output=[str(tmp_path / "weights")]
    )
    snakemake.log, snakemake.params, snakemake.wildcards, snakemake.threads = [], {}, {}, 1
    with job(snakemake):
        assert os.environ[VISIBLE] == ",".join(machine[:2])


def test_no_module_asks_for_gpus_when_it_is_imported():
    """CUDA reads which GPUs it may use when it is first asked, and that is to be after the job has taken its own."""
    asking = []
    for path in SCRIPTS.rglob("*.py"):
        if "torch.cuda" not in (text := path.read_text()):
            continue
        module = ast.parse(text)
        functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
        later = {id(node) for function in functions for part in function.body for node in ast.walk(part)}
        calls = [node for node in ast.walk(module) if isinstance(node, ast.Call) and id(node) not in later]
        asking += [path for call in calls if ast.unparse(call.func).startswith("torch.cuda")]
    assert not asking
