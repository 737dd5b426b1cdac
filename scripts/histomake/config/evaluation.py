"""Keys of the statistics of a task that are reported beside its metrics."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from histomake.config.section import Section

InnerShare = Annotated[float, Field(gt=0, lt=1)]


class OperatingPoints(Section):
    """Operating points of a task: thresholds chosen on validation slides or patients, and applied to test ones.

    Each class is called from a score of its own on; of two classes, the second one. Every fold has its own threshold.
    """

    sensitivity: InnerShare | None = Field(
        None,
        description="Sensitivity to reach on the validation set. The highest threshold that reaches it is taken, which "
        "has the largest specificity.",
    )
    specificity: InnerShare | None = Field(
        None,
        description="Specificity to reach on the validation set, with the largest sensitivity: another point.",
    )


class Evaluate(Section):
    """Statistics of the predictions of a task on its test slides, beside its metrics."""

    operating_points: OperatingPoints = Field(
        default_factory=OperatingPoints,
        description="Operating points. They need predict.roles: [val, test, predict].",
    )
    prevalences: list[InnerShare] = Field(
        default_factory=list,
        description="Shares of positives, such as [0.05, 0.2], for which predictive values (PPV and NPV) are computed "
        "from sensitivity and specificity, because test sets seldom have the prevalence of practice.",
    )

    subgroups: list[str] = Field(
        default_factory=list,
        description="Columns of the sheet, such as [site, sex], by whose values the metrics of the test set are given, "
        "with a test whether they differ (Cochran's Q). Values are texts: enter ages as groups.",
    )

    permutations: int = Field(
        5,
        ge=0,
        le=100,
        description="Tasks on graphs: how often each group of features is exchanged between nodes of the test slides, "
        "to measure how much metrics lose without it. 0: not at all.",
    )

    @model_validator(mode="after")
    def _no_repetition(self) -> Evaluate:
        if len(set(self.prevalences)) < len(self.prevalences):
            raise ValueError("prevalences: a value is listed twice")
        if len(set(self.subgroups)) < len(self.subgroups):
            raise ValueError("subgroups: a column is listed twice")
        return self
