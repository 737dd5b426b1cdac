"""Command ``python -m tests.bench [group…]``: run benchmarks and print every figure with its bound.

Exits with 1 if a bound is exceeded. Large slides are created once, in the folder HISTOMAKE_BENCH.
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
    """Return the names of all groups, one per file."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def main(wanted: list[str]) -> int:
    """Run the groups, all by default; return the exit status."""
    from tests.bench.figures import show

    unknown = sorted(set(wanted) - set(groups()))
    if unknown:
        sys.stderr.write(f"no such group: {', '.join(unknown)}; available groups: {', '.join(groups())}\n")
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
