"""How predictions of each kind of task are explained: which patches are shown, and texts about patches and slides.

Attribution and the report use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from histomake.base.kinds import Kind
from histomake.explain import rankings, summaries

Rank = Callable[[pa.Table, Sequence[str]], list[rankings.Ranking]]
"""Rankings of the patches of a prediction table, from the names of the outputs."""


@dataclass(frozen=True)
class Explained:
    """How predictions of one kind of task are explained.

    rankings: patches worth an attribution; the two most informative reasons come first.
    examples: patches that the report shows.
    patch_text: text about a patch, from its row in the prediction table and the names of the outputs.
    slide_table: table about a slide, from its prediction table, the names of the outputs and the way of pooling.
    """

    rankings: Rank
    examples: Rank
    patch_text: Callable[[summaries.Row, Sequence[str]], str]
    slide_table: Callable[[pa.Table, Sequence[str], str], summaries.SlideTable]


EXPLAINED: dict[Kind, Explained] = {
    Kind.CLASSIFICATION: Explained(
        rankings=rankings.class_rankings,
        examples=rankings.right_and_wrong,
        patch_text=summaries.class_text,
        slide_table=summaries.class_table,
    ),
    Kind.MULTI_LABEL: Explained(
        rankings=rankings.label_rankings,
        examples=rankings.label_rankings,
        patch_text=summaries.class_text,
        slide_table=summaries.class_table,
    ),
    Kind.REGRESSION: Explained(
        rankings=rankings.number_rankings,
        examples=rankings.number_rankings,
        patch_text=summaries.number_text,
        slide_table=summaries.number_table,
    ),
    Kind.SEGMENTATION: Explained(
        rankings=rankings.pixel_rankings,
        examples=rankings.pixel_rankings,
        patch_text=summaries.pixel_text,
        slide_table=summaries.pixel_table,
    ),
    Kind.SURVIVAL: Explained(
        rankings=rankings.attention_rankings,
        examples=rankings.attention_rankings,
        patch_text=summaries.bag_text,
        slide_table=lambda table, outputs, _aggregate: summaries.bag_table(table, outputs),
    ),
}
