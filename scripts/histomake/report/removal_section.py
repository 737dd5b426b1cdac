"""Report section of scores without the patches or nodes of highest attention, and with these alone."""

from __future__ import annotations

import numpy as np

from histomake.base.records.metrics import MetricsRecord
from histomake.pictures import canvas
from histomake.report import page
from histomake.report.metric_texts import with_interval
from histomake.report.page import Html

COLOUR = f"#{bytes(canvas.PALETTE[0]).hex()}"


def removal_table(metrics: MetricsRecord, parts: str) -> Html:
    """How far scores change without what has the highest attention, and with it alone, beside random parts.

    ``parts``: what is removed, patches or nodes.
    """
    found = {name: with_interval(value) or "" for name, value in metrics.removal.items()}
    rows = [
        [f"without the {parts}", *(found[f"{order}deletion"] for order in ("", "random_")), found["deletion_better"]],
        ["with these alone", *(found[f"{order}insertion"] for order in ("", "random_")), found["insertion_better"]],
    ]
    text = (
        f"Mean change of the scores without 1 to 50 % of the {parts}, which should be large for those of highest "
        "attention, and with these alone, which should be small. Better: share of the bags in which attention wins."
    )
    header = ["change of scores", "highest attention", "random", "better"]
    return page.join([page.tag("p", text), page.table(header, rows)])


def removal_curves(metrics: MetricsRecord, parts: str) -> Html:
    """Changes of scores by share of the parts that are taken away, and kept alone; nothing of older metrics."""
    curves = metrics.removal_by_share
    if not curves:
        return Html("")
    figure = page.blank(7.4, 2.7)
    shares = sorted(curves, key=float)
    panels = {"deletion": f"without the {parts}", "insertion": f"with the {parts} alone"}
    for axis, (measure, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for key, label, colour in ((measure, "highest attention", COLOUR), (f"random_{measure}", "random", "0.45")):
            found = [curves[share][key] for share in shares]
            x, middle = list(map(float, shares)), np.array([one.value for one in found], float)
            ends = [np.array([getattr(one, end) for one in found], float) for end in ("low", "high")]
            axis.plot(x, middle, "o-", color=colour, ms=3, lw=1.5, label=label)
            axis.fill_between(x, *ends, color=colour, alpha=0.15, lw=0)
        axis.set(xlabel=f"share of the {parts}", ylabel="change of scores", title=title, xscale="log", ylim=(0, None))
        axis.set_xticks(x, [f"{share:.0%}" for share in x])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
    return page.plot(figure, "Mean change of the scores over the test bags, with intervals by patient")
