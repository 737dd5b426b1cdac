"""One run at a time writes into a results folder; the lock of a run that has ended does not stop the next."""

import os
import subprocess
import sys

import msgspec
import pytest
from histomake.audit.run_lock import LockRecord, acquire, release
from histomake.base.errors import HistomakeError

HOLD = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from histomake.audit.run_lock import acquire
acquire(Path({lock!r}))
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "results" / "audit" / "run.lock"


@pytest.fixture
def holder(lock):
    """Another process that holds the lock, until it is ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(path=sys.path, lock=str(lock))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_with_the_holder_of_the_lock(lock, holder):
    with pytest.raises(HistomakeError, match=rf"results is in use: .* process {holder.pid}, since .*rm .*run\.lock"):
        acquire(lock)
    assert LockRecord.read(lock).pid == holder.pid


def test_the_lock_of_a_killed_run_is_replaced(lock, holder):
    holder.kill()
    holder.wait()
    acquire(lock)
    assert LockRecord.read(lock).pid == os.getpid()
    release(lock)


def test_the_lock_of_a_run_that_ends_is_released(lock, holder):
    holder.communicate("")
    assert not lock.exists()


def test_the_lock_of_a_later_process_with_the_same_id_counts_as_stale(lock):
    acquire(lock)
    record = msgspec.structs.replace(LockRecord.read(lock), process_start="1 of-an-earlier-start")
    record.write(lock)
    acquire(lock)
    assert LockRecord.read(lock).process_start != record.process_start
    release(lock)


def test_a_lock_of_another_host_is_never_broken(lock):
    acquire(lock)
    msgspec.structs.replace(LockRecord.read(lock), host="node-17", process_start="1 x").write(lock)
    with pytest.raises(HistomakeError, match="on node-17"):
        acquire(lock)
    assert lock.exists()


def test_a_damaged_lock_is_refused_with_the_remedy(lock):
    lock.parent.mkdir(parents=True)
    lock.write_text("")
    with pytest.raises(HistomakeError, match="If no run is writing into this folder, delete it"):
        acquire(lock)


def test_a_released_lock_leaves_no_file(lock):
    acquire(lock)
    release(lock)
    assert list(lock.parent.iterdir()) == []
