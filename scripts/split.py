"""Rule split: the roles of all slides in every fold."""

import pyarrow as pa
import pyarrow.parquet as pq
from histomake.audit.sidecar import job
from histomake.base.files import atomic_file


def main(snakemake):
    with job(snakemake):
        fold, slide_id, patient_id, role = zip(*snakemake.params.roles, strict=True)
        table = pa.table(
            {"fold": pa.array(fold, pa.int16()), "slide_id": slide_id, "patient_id": patient_id, "role": role}
        )
        with atomic_file(snakemake.output.split) as aside:
            pq.write_table(table, aside, compression="zstd")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
