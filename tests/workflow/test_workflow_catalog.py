"""Requirements of the Snakemake Workflow Catalog for standard usage."""

import subprocess
import sys

import yaml

from tests.workshop import ROOT


def test_the_rule_graph_is_drawn_from_the_test_folder():
    command = ["-s", "Snakefile", "-c", "1", "-d", ".test", "--forceall", "--rulegraph"]
    done = subprocess.run([sys.executable, "-m", "snakemake", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("digraph")
    assert [
        rule for rule in ("convert", "train", "evaluate", "lineage") if f'label = "{rule}"' not in done.stdout
    ] == []


def test_the_usage_is_described():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"]["conda"] is True
    assert (ROOT / "config" / "README.md").is_file()
    assert (ROOT / "config" / "schemas" / "config.schema.yaml").is_file()
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme
