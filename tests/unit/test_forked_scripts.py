"""Scripts that are forked from a warm process: they run as processes of their own, and end as those do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
from histomake.planning.fork_server import imported_by
from histomake.planning.forked_scripts import (
    LIBRARIES_OF_NETWORKS,
    PER_COHORT,
    PER_PREDICTION,
    PER_SLIDE,
    ScriptForks,
)

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """A server whose scripts import sqlite3, and a module that is not there."""
    script = tmp_path_factory.mktemp("forks") / "imports.py"
    script.write_text("import sqlite3\nimport no_such_module\nfrom json import loads\n")
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(SCRIPTS)
    forks = ScriptForks([script], alone=0)
    yield forks
    forks.close()
    if kept is None:
        del os.environ["PYTHONPATH"]


@pytest.fixture
def run(forks, tmp_path):
    """Runs a script; returns its exit status and what it wrote into the file ``found``."""

    def start(text, *, name="script", environment=None, watch=lambda process: nullcontext()):
        script, found = tmp_path / f"{name}.py", tmp_path / f"{name}.txt"
        script.write_text(f"from pathlib import Path\nfound = Path({str(found)!r})\n{text}")
        status = forks.run(str(script), environment or {}, watch)
        return status, found.read_text() if found.is_file() else None

    return start


def test_a_script_runs_as_the_main_program_with_its_libraries_loaded(run):
    status, found = run("import sys\nfound.write_text(f'{__name__} {sys.argv} {\"sqlite3\" in sys.modules}')")
    assert status == 0
    assert found.startswith("__main__ ['/")
    assert found.endswith("script.py'] True")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit()", 0),
        ("import sys; sys.exit('a message')", 1),
        ("raise ValueError('x')", 1),
        ("this is no Python", 1),
    ],
)
def test_a_script_that_ends_early_has_its_exit_status(run, text, status):
    assert run(text)[0] == status


def test_a_script_that_is_killed_is_distinguished_from_one_that_ends(run):
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")[0] == -signal.SIGKILL
    assert run("found.write_text('still serving')") == (0, "still serving")


def test_each_script_is_a_process_of_its_own_that_can_be_watched(run):
    seen = []
    watch = lambda process: nullcontext(seen.append(psutil.pid_exists(process)))  # noqa: E731
    numbers = [run("import os; found.write_text(str(os.getpid()))", watch=watch)[1] for _ in range(2)]
    assert len({str(os.getpid()), *numbers}) == 3
    assert seen == [True, True]


def test_what_a_script_changes_is_not_seen_by_the_next(run):
    run("import json, os; json.changed = True; os.environ['CHANGED'] = '1'")
    assert run('import json, os; found.write_text(f\'{hasattr(json, "changed")} {"CHANGED" in os.environ}\')') == (
        0,
        "False False",
    )


def test_temporary_files_are_in_tmpdir_of_the_job(run, tmp_path):
    text = "import tempfile; found.write_text(tempfile.gettempdir())"
    assert run(text, environment={"TMPDIR": str(tmp_path)})[1] == str(tmp_path)


def test_random_numbers_differ_between_scripts(run):
    text = "import random; found.write_text(str(random.random()))"
    assert run(text)[1] != run(text)[1]


def test_scripts_run_side_by_side(run):
    text = "import time; time.sleep(0.6)"
    run("")
    start = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert [s for s, _ in pool.map(lambda i: run(text, name=f"script{i}"), range(4))] == [0] * 4
    assert time.monotonic() - start < 4 * 0.6


def test_modules_of_the_working_folder_are_not_imported(forks, tmp_path, monkeypatch, run):
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('shadows the library')")
    monkeypatch.chdir(tmp_path)
    assert run("import colorsys")[0] == 0


def test_the_server_ends_with_the_run(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os; open('parent', 'w').write(str(os.getppid()))")
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from contextlib import nullcontext\n"
        "from histomake.planning.forked_scripts import ScriptForks\n"
        f"ScriptForks([], alone=0).run({str(script)!r}, {{}}, lambda process: nullcontext())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=60)
    server = int((tmp_path / "parent").read_text())
    deadline = time.monotonic() + 20
    while psutil.pid_exists(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(server)


def test_a_short_run_starts_its_scripts_without_a_server():
    forks = ScriptForks([], alone=2)
    assert [forks.wanted() for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize("name", PER_SLIDE + PER_COHORT)
def test_scripts_per_slide_import_no_torch(name):
    """It would take most of the time and memory of their server."""
    modules = sorted(imported_by(SCRIPTS / name))
    code = f"import sys\nfor name in {modules!r}: __import__(name)\nprint('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_fork_that_predicts_can_use_the_gpu_and_threads():
    """CUDA cannot be used in a fork of a process that has asked for devices, and threads of a server are not forked.

    The allocator of pyarrow, which is known to survive a fork, may have one.
    """
    modules = sorted({*LIBRARIES_OF_NETWORKS, *(n for name in PER_PREDICTION for n in imported_by(SCRIPTS / name))})
    code = (
        f"import os, sys\nfor name in {modules!r}: __import__(name)\n"
        "import torch\n"
        "threads = {open(f'/proc/self/task/{t}/comm').read().strip() for t in os.listdir('/proc/self/task')}\n"
        "if not (child := os.fork()): os._exit(torch.cuda._is_in_bad_fork())\n"
        "print(len(threads - {'jemalloc_bg_thd'}), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **single, "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 0"
