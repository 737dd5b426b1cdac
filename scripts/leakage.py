"""Rule leakage: check that no slide has two roles, and that no test slide was used to make the model."""

from pathlib import Path

from histomake.audit.caches import open_cache
from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.base.records.leakage import LeakageRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import slides_behind
from histomake.base.records.record import quarantined
from histomake.cohort.leakage import Assignment, leaks, refuse_leaks, seen_before


def main(snakemake):
    layout = Layout(Path(snakemake.config["results"]))
    cache = open_cache(layout, "-".join([snakemake.rule, *snakemake.wildcards]))
    with job(snakemake, cache, compare=snakemake.input.models):
        roles = [Assignment(*row) for row in snakemake.params.roles]
        manifests = cache.read_records(snakemake.input.manifests, Manifest.decode)
        digests = {m.slide_id: m.sha256 for m in manifests if not quarantined(m)}
        found = leaks(roles, digests)
        for path in snakemake.input.models:
            seen = seen_before(roles, digests, slides_behind(path))
            found += [f"the model {path} was made with {slide}, which is to test it" for slide in seen]
        refuse_leaks(found, " ".join(snakemake.wildcards))
        record = LeakageRecord(slides=sorted(digests), models=list(map(str, snakemake.input.models)), leaks=found)
        record.write(snakemake.output.record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
