"""Rule compare: two tasks on the test slides that they have in common."""

from histomake.audit.sidecar import job
from histomake.base.kinds import Kind
from histomake.config import Target
from histomake.evaluate.comparison import compare
from histomake.evaluate.predictions import read_predictions


def main(snakemake):
    given, params, where = snakemake.input, snakemake.params, snakemake.wildcards
    with job(snakemake):
        first, second = (
            (
                name,
                read_predictions(
                    getattr(given, f"{which}_predictions"), slides, getattr(given, f"{which}_descriptions")
                ),
                pooling,
            )
            for which, name, slides, pooling in zip(
                ("first", "second"), (where.first, where.second), params.slides, params.aggregates, strict=True
            )
        )
        record = compare(
            first,
            second,
            kind=Kind(params.kind),
            target=Target.model_validate(params.target),
            seed=params.seed,
            patient_truth=params.patient_truth,
        )
        record.write(snakemake.output.record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
