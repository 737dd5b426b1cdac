# Snakemake removes what a failed job made before, and yet notes the new settings as those it was made with. Where results
# of the old settings are still there behind it, the next run would find nothing to do.
def mark_failed():
    """Have the next run find other settings at every job that did not end and whose outputs are gone."""
    records = workflow.persistence
    for job in workflow.dag.needrun_jobs():
        if all(map(os.path.exists, job.output)):
            continue
        for key in map(records._get_key, job.output):
            if record := records._read_record(key):
                record.params = ["did not end"]
                records._write_record(key, record)
