"""Rule split: the roles of all slides in every fold."""

import pyarrow as pa
from histomake.audit.sidecar import job
from histomake.base.tables import write_table


def main(snakemake):
    with job(snakemake):
        fold, slide_id, patient_id, role = zip(*snakemake.params.roles, strict=True)
        table = pa.table(
            {"fold": pa.array(fold, pa.int16()), "slide_id": slide_id, "patient_id": patient_id, "role": role}
        )
        write_table(table, snakemake.output.split)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
