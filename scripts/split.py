"""Rule split: the roles of all slides in every fold, checked for leaks."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from histomake.cohort import Assignment, leaks, seen_before
from histomake.errors import HistomakeError
from histomake.files import atomic_file, read_json
from histomake.job import job
from histomake.layout import Layout
from histomake.recall import Recall


def main(snakemake):
    results = Path(snakemake.input.manifests[0]).parents[1]
    recall = Recall(Layout(results).memory("-".join([snakemake.rule, *snakemake.wildcards])))
    with job(snakemake, recall):
        roles = [Assignment(*row) for row in snakemake.params.roles]
        manifests = recall.records(snakemake.input.manifests)
        digests = {m["slide_id"]: m["sha256"] for m in manifests if m["status"] == "ok"}
        found = leaks(roles, digests)
        for path in snakemake.input.models:
            seen = seen_before(roles, digests, read_json(path).get("made_with", []))
            found += [f"the model {path} was made with {slide}, which is to test it" for slide in seen]
        if found:
            raise HistomakeError(
                f"{snakemake.output.split}: slides leak between roles:\n  "
                + "\n  ".join(found)
                + "\nRemove the duplicates from the sheet, give the slides the same patient_id, or let slides that a "
                "model has seen be predicted (split: predict) and not tested"
            )
        table = pa.table(
            {
                "fold": pa.array([a.fold for a in roles], pa.int16()),
                "slide_id": [a.slide_id for a in roles],
                "patient_id": [a.patient_id for a in roles],
                "role": [a.role for a in roles],
            }
        )
        with atomic_file(snakemake.output.split) as aside:
            pq.write_table(table, aside, compression="zstd")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
