"""Rule radhical_compare: compare naive, dense and cascade inference on the test slides."""

import html
import logging
from pathlib import Path

import msgspec
import pandas as pd
from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.records.cascade_metrics import CascadeMetrics
from histomake.base.records.cascade_thresholds import ThresholdsRecord
from histomake.base.records.record import quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.cascade.compare import bars, compare_slide, summarise, table
from histomake.cascade.fields import open_fields
from histomake.cascade.infer import answers_of, load_networks
from histomake.config import Annotations, CascadeThresholds, Radhical
from histomake.tissue.mask import TissueMask


def main(snakemake):
    config = Radhical.model_validate(snakemake.params.cfg)
    found = ThresholdsRecord.read(snakemake.input.thresholds)
    tissue = {
        Path(record).stem: (mask, record)
        for mask, record in zip(snakemake.input.masks, snakemake.input.tissue, strict=True)
    }
    sites = dict(snakemake.params.sites)
    patients = {slide: patient for slide, patient, _ in snakemake.params.cohort}
    slides = list(zip(snakemake.input.manifests, snakemake.input.annotations, strict=True))
    with job(snakemake):
        networks = load_networks(snakemake.input.weights, config, threads=snakemake.threads)
        records = []
        for field in open_fields(slides, Annotations.model_validate(snakemake.params.annotations), config):
            mask, record = tissue[field.slide_id]
            records.append(
                compare_slide(
                    field.levels,
                    answers_of(field.reader, networks, config),
                    CascadeThresholds.model_validate(found.thresholds, from_attributes=True),
                    dense_cut=found.dense_cut,
                    truth=field.truth.whole(),
                    tissue=None if quarantined(TissueRecord.read(record)) else TissueMask.load(mask, record),
                    complete=config.train.complete,
                    config=config.baselines,
                    seed=snakemake.params.seed,
                    neck_um=found.parting.neck_um,
                    patient_id=patients[field.slide_id],
                    site=sites[field.slide_id],
                )
            )
        groups = summarise(records)
        metrics = CascadeMetrics(groups=groups, bars=bars(groups), validation=found.validation, slides=records)
        metrics.write(snakemake.output.metrics)
        with atomic_file(snakemake.output.slides) as aside:
            pd.json_normalize(msgspec.to_builtins(records)).to_parquet(aside)
        text = table(metrics.groups, metrics.bars)
        if found.remark:
            text = f"{found.remark}\n\n{text}"
        with atomic_file(snakemake.output.bars) as aside:
            aside.write_text(f'<!doctype html><meta charset="utf-8"><title>bars</title><pre>{html.escape(text)}</pre>')
        with atomic_file(snakemake.output.table) as aside:
            aside.write_text(text + "\n")
        logging.getLogger("histomake").info("cascade %s\n%s", snakemake.wildcards.cascade, text)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
