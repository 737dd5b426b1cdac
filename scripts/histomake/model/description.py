"""Reading of model descriptions (``model.json``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histomake.base.files import read_json
from histomake.base.kinds import Kind


def read_description(path: Path | str) -> dict[str, Any]:
    """The description of a model; one that histomake 0.1 wrote is upgraded.

    Raises KeyError or TypeError where the file describes something else.
    """
    return upgraded(read_json(path))


def upgraded(described: dict[str, Any]) -> dict[str, Any]:
    """Since 0.2, several labels are a kind of their own and not a setting of the target."""
    target = dict(described["target"])
    several = target.pop("multi_label", False)
    return described | {"target": target, "kind": Kind.MULTI_LABEL.value if several else described["kind"]}
