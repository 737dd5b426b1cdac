"""Keys of the model card of a task."""

from __future__ import annotations

from pydantic import Field, field_validator

from histomake.base.tripod import INTENDED_USE, ITEMS, LIMITS
from histomake.config.section import Section


class Card(Section):
    """Texts of the model card of a task, for what only people know. A change makes the page again, and nothing else."""

    intended_use: str | None = Field(
        None,
        min_length=1,
        description="Who is to use the predictions, of which patients, and for which decision (item 3b of TRIPOD+AI).",
    )
    limits: str | None = Field(
        None,
        min_length=1,
        description="What the model must not be used for, and its known weaknesses (item 26 of TRIPOD+AI).",
    )
    items: dict[str, str] = Field(
        default_factory=dict,
        description='Texts for other items of TRIPOD+AI by number: {"5b": "2010 to 2015", "17": "approved by …"}. '
        "Items that neither these texts nor the results answer are listed as not known.",
    )

    @field_validator("items")
    @classmethod
    def _items_exist(cls, value: dict[str, str]) -> dict[str, str]:
        if unknown := [key for key in value if key not in ITEMS]:
            raise ValueError(f"TRIPOD+AI has no item {', '.join(unknown)}; its items are {', '.join(ITEMS)}")
        if own := [key for key in value if key in (INTENDED_USE, LIMITS)]:
            raise ValueError(f"item {own[0]}: use the key {'intended_use' if own[0] == INTENDED_USE else 'limits'}")
        if empty := [key for key, text in value.items() if not text.strip()]:
            raise ValueError(f"item {empty[0]} has no text; remove it")
        return value
