"""Modules that code digests leave out: no job may use a result of them, because a change there re-runs nothing.

Jobs may use models of the configuration, whose values are params and so compared, and the few names listed here.
"""

import ast
import importlib
import inspect
import textwrap
from pathlib import Path
from typing import get_type_hints

import pytest
from histomake.audit.code import SCRIPTS, UNTRACKED_MODULES, imported_files
from histomake.base.layout import (
    AttributionFiles,
    CascadeFiles,
    EmbeddingFiles,
    FeatureMapFiles,
    GenerativeFiles,
    GeneratorFiles,
    Layout,
    PatchCascadeFiles,
    ReadingFiles,
    TransferFiles,
)
from histomake.config import Section

ALLOWED_NAMES = {
    "histomake.audit.caches.discard_unrecorded": "removes caches, and changes no result",
    "histomake.audit.caches.open_cache": "returns what was read before, or nothing",
    "histomake.audit.caches.stated_digest": "says whether vectors of an earlier job are taken, which are the same ones",
    "histomake.audit.environment.git_state": "the report shows it",
    "histomake.audit.environment.package_versions": "the report shows it",
    "histomake.audit.sidecar.SIDECAR": "a part of a file's name",
    "histomake.audit.sidecar.job": "logs the work and describes it afterwards",
    "histomake.audit.sidecar.log": "a logger",
    "histomake.base.layout.DESCRIPTION": "the name of a file",
    "histomake.base.layout.EmbeddingFiles": "paths only, see the test of its members",
    "histomake.base.layout.Layout": "paths only, see the test of its members",
    "histomake.base.layout.ONNX": "the name of a file",
    "histomake.base.layout.PatchCascadeFiles": "paths only, see the test of its members",
    "histomake.base.layout.WEIGHTS": "the name of a file",
    "histomake.config.SEARCHED": "a value of thresholds.neck_um, which is compared",
    "histomake.config.section.Decode": "the type of a value, which is compared",
    "histomake.config.parse_config": "returns a model",
}

LAYOUTS = (
    *(Layout, EmbeddingFiles, FeatureMapFiles, AttributionFiles, CascadeFiles, PatchCascadeFiles, TransferFiles),
    *(GenerativeFiles, GeneratorFiles, ReadingFiles),
)

ALLOWED_MEMBERS = {
    "CascadeTrain.fitting": "selects the keys that are compared",
    "Cells.maker": "a part of source, which is compared",
    "Cells.origin": "a part of source, which is compared",
    "Config.class_names": "a param of tabulate and train",
    "Config.encoder_groups": "the members of a group are a param of features",
    "Config.graph_classes": "a param of the graphs",
    "Config.max_lost": "a param of quarantine and score",
    "Encoder.shaping": "selects the keys that are compared",
    "Encoder.source": "a part of name, which is compared",
    "Encoder.target": "a part of name, which is compared",
    "Config.roi_classes": "a param of annotate",
    "Generator.fitting": "selects the keys that are compared",
    "GeneratorTrain.fitting": "selects the keys that are compared",
    "Radhical.fitting": "selects the keys that are compared",
    "Section.dump": "the form in which values are compared",
    "Sweep.members": "makes names and values of tasks, whose keys are compared",
    "StainTransfer.fitting": "selects the keys that are compared",
    "StainTransfer.sides": "parts of from and to, which are compared",
    "Target.sheet_columns": "parts of target, which is compared",
    "Task.described": "selects the keys that are compared",
    "Task.fitting": "selects the keys that are compared",
    "Task.on_bags": "a part of level, which is compared",
    "Task.predicting": "selects the keys that are compared",
    "TransferApply.sides": "parts of direction; a job has the side of its slide as a param",
    "TransferTrain.fitting": "selects the keys that are compared",
}
"""Public members of the configuration's models. A further one belongs into a module that is digested, as
`histomake.target.outputs` is, unless its result is a param."""


def sections(section=Section):
    """Every model of the configuration."""
    return [section, *(found for child in section.__subclasses__() for found in sections(child))]


def untracked(module):
    return any(module == name or module.startswith(f"{name}.") for name in UNTRACKED_MODULES)


def names_taken():
    """Names that jobs import from undigested modules; a whole module is given by its own name."""
    found = set()
    for file in {file for script in SCRIPTS.glob("*.py") for file in imported_files(script)}:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names if untracked(alias.name)}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= names if untracked(node.module) else {name for name in names if untracked(name)}
    return found


def is_model(name):
    module, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(module), attribute)
    return isinstance(value, type) and issubclass(value, Section)


def test_jobs_import_models_and_allowed_names_only():
    refused = {name for name in names_taken() - set(ALLOWED_NAMES) if not is_model(name)}
    assert not refused, f"move them into a module that code digests count: {sorted(refused)}"


def test_every_allowed_name_is_imported_by_a_job():
    assert set(ALLOWED_NAMES) <= names_taken()


def test_models_compute_nothing_but_what_is_compared():
    members = {
        f"{section.__name__}.{name}"
        for section in sections()
        for name in vars(section)
        if not name.startswith(("_", "model_"))
    }
    assert members == set(ALLOWED_MEMBERS)


def validators():
    return [
        pytest.param(decorator.func, id=f"{section.__name__}.{name}")
        for section in sections()
        for kind in ("validators", "field_validators", "root_validators", "model_validators")
        for name, decorator in getattr(section.__pydantic_decorators__, kind).items()
    ]


@pytest.mark.parametrize("validator", validators())
def test_a_validator_returns_the_value_that_it_is_given(validator):
    function = ast.parse(textwrap.dedent(inspect.getsource(validator))).body[0]
    given = next(argument.arg for argument in function.args.args if argument.arg != "cls")
    nodes = list(ast.walk(function))
    returned = {ast.unparse(node.value) for node in nodes if isinstance(node, ast.Return)}
    assigned = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert returned == {given}
    assert given not in assigned


def members_of_layouts():
    return [
        pytest.param(member.fget if isinstance(member, property) else member, id=f"{owner.__name__}.{name}")
        for owner in LAYOUTS
        for name, member in vars(owner).items()
        if not name.startswith("_")
    ]


@pytest.mark.parametrize("member", members_of_layouts())
def test_a_layout_gives_paths_only(member):
    assert get_type_hints(member)["return"] in (Path, *LAYOUTS)
