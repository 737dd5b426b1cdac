"""Rule score: a task's scores of slides and patients."""

import csv
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
from histomake.audit.caches import open_cache
from histomake.audit.sidecar import job
from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import write_list
from histomake.evaluate.slide_scores import Pooled, PredictedSlide, met_damage, pool, score_table
from histomake.model.reuse import fold_of


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    layout = Layout(Path(snakemake.config["results"]))
    cache = open_cache(layout, f"score-{snakemake.wildcards.task}", version=f"{params.aggregate} {params.code}")
    with job(snakemake, cache, compare=given.descriptions):
        cards = {fold_of(path): ModelCard.read(path) for path in given.descriptions}
        names = next(iter(cards.values())).class_names

        def pooled_text(path):
            # Of a small file, read_table takes twice as long.
            return msgspec.json.encode(pool(pq.ParquetFile(path).read(), names, params.aggregate)).decode()

        pooled = cache.read_texts(given.predictions, pooled_text)
        validated = set(map(tuple, params.validated))
        slides = [
            PredictedSlide(
                slide_id,
                patient_id,
                fold_of(path),
                msgspec.json.decode(text, type=Pooled),
                cards[fold_of(path)],
                validated=(fold_of(path), slide_id) in validated,
            )
            for path, text, (slide_id, patient_id, _) in zip(given.predictions, pooled, params.slides, strict=True)
        ]
        damaged = met_damage(slides, cards.values(), max_share=params.max_share)
        write_list(snakemake.output.damage, damaged)
        scores = score_table(slides, next(iter(cards.values())), aggregate=params.aggregate)
        with atomic_file(snakemake.output.scores) as aside, open(aside, "w", newline="") as stream:
            writer = csv.DictWriter(stream, scores.column_names, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(scores.to_pylist())


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
