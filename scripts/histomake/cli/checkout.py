"""Files of the workflow that lie beside the library in a checkout, and not in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from histomake.base.errors import HistomakeError

CHECKOUT = Path(__file__).resolve().parents[3]


def checkout_file(name: str) -> Path:
    """A file of the checkout. Raises HistomakeError where the library was installed without the workflow."""
    path = CHECKOUT / name
    if not path.is_file():
        raise HistomakeError(
            f"{path} does not exist: the library runs from {Path(__file__).parents[1]}, which is not inside a checkout "
            "of the workflow; run `histomake` from the environment that `make env` makes there"
        )
    return path
