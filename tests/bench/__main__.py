"""Owns running benchmarks: ``python -m tests.bench [group…]`` prints every figure beside its bar.

Exits with 1 when a bar is missed. Big slides are made once, in the folder named by HISTOMAKE_BENCH.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "scripts"))


def groups() -> list[str]:
    """Every group there is a file for."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def main(wanted: list[str]) -> int:
    """Run the groups, all by default; returns the exit status."""
    from tests.bench.figures import show

    unknown = sorted(set(wanted) - set(groups()))
    if unknown:
        sys.stderr.write(f"no such group: {', '.join(unknown)}; there are {', '.join(groups())}\n")
        return 2
    work = Path(os.environ.get("HISTOMAKE_BENCH") or Path(tempfile.gettempdir()) / "histomake-bench")
    work.mkdir(parents=True, exist_ok=True)
    figures = []
    for group in wanted or groups():
        sys.stderr.write(f"running {group}\n")
        figures += importlib.import_module(f"tests.bench.bench_{group}").run(work)
    sys.stdout.write(show(figures) + "\n")
    return 0 if all(figure.ok for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
