"""Report section of generators: how samples compare with fields of held-out patients, and what must be known first."""

from __future__ import annotations

from histomake.base.layout import Layout
from histomake.base.records.generator_measures import FeatureDistances, GeneratorMeasures
from histomake.config import Config
from histomake.report import page
from histomake.report.page import Html

HEADER = ["measure", "samples", "training fields, for comparison"]


def generators_section(config: Config, layout: Layout) -> Html:
    """Generators that have been measured; nothing if there are none."""
    measured = [name for name in config.generators if layout.generator(name).measures.is_file()]
    parts = [_generator(GeneratorMeasures.read(layout.generator(name).measures)) for name in measured]
    return page.section("Generators", *parts, anchor="generators") if parts else Html("")


def _generator(record: GeneratorMeasures) -> Html:
    made, learned, held_out = record.images
    what = (
        f"In silico: {made} samples against {held_out} fields of {len(record.slides[1])} held-out slides; for "
        f"comparison {learned} fields of {len(record.slides[0])} training slides. Smaller distances are better."
    )
    rows: list[list[object]] = [
        [f"sliced Wasserstein at {scale.edge} px, x 1000", scale.made, scale.real] for scale in record.scales
    ]
    if record.made is not None and record.real is not None:
        rows += [
            ["KID", _kid(record.made), _kid(record.real)],
            ["FID", record.made.fid, record.real.fid],
            ["precision", record.made.precision, record.real.precision],
            ["recall", record.made.recall, record.real.recall],
        ]
    memorised = record.memorisation
    near = (
        f"Distance to the nearest training field ({memorised.space}), median: samples {memorised.made:.3g}, held-out "
        f"fields {memorised.held_out:.3g}. Copies: {memorised.copies:.1%} of the samples (expected 1 %)."
    )
    return page.section(
        record.generator,
        page.tag("p", what),
        *(page.tag("p", flag) for flag in record.flags),
        page.table(HEADER, rows),
        page.tag("p", near),
        level=3,
    )


def _kid(found: FeatureDistances) -> str:
    if found.kid_interval is None:
        return f"{found.kid:.3g}"
    return f"{found.kid:.3g} ({found.kid_interval[0]:.3g} to {found.kid_interval[1]:.3g})"
