"""Rule compare: two tasks on the test slides that they have in common."""

from histomake.audit.sidecar import job
from histomake.base.kinds import Kind
from histomake.config import Target
from histomake.evaluate.comparison import compare
from histomake.evaluate.predictions import read_cards, read_predictions


def tested(name, predictions, descriptions, slides, aggregate):
    """A task as `compare` takes it."""
    return name, read_predictions(predictions, slides, read_cards(descriptions)), aggregate


def main(snakemake):
    given, params, where = snakemake.input, snakemake.params, snakemake.wildcards
    (slides, other_slides), (aggregate, other_aggregate) = params.slides, params.aggregates
    with job(snakemake):
        first = tested(where.first, given.first_predictions, given.first_descriptions, slides, aggregate)
        second = tested(
            where.second, given.second_predictions, given.second_descriptions, other_slides, other_aggregate
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
