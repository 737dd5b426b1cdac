"""Several small slides in one job: the job of a slide also encodes the next ones, and their jobs reuse the results.

Loading an encoder takes longer than encoding a small slide. A job that has loaded one continues with further slides of
the sheet that need features, as long as all of them together have few patches. Their features are stored among
the caches, under a digest of everything they were made of. The job of such a slide starts like any other; if there are
features with the digest of its own inputs, it moves the file to its place. So every slide has a job, params and sidecar
of its own, and a slide that changes runs alone.

This module does not import torch, so a job that reuses features ends at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import Layout
from histomake.base.records.features import FeatureRecord
from histomake.cohort.rows import read_rows
from histomake.features.store import read_features

log = logging.getLogger(__name__)

FEW_PATCHES = 4096
"""Patches up to which a job continues with further slides: encoding them takes about as long as loading an encoder."""

RUNNING = "running"


def slides_of(sheet: Path | str) -> list[str]:
    """Ids of the slides of a sheet that the workflow has read without an error, in order."""
    return [row.cells["slide_id"] for row in read_rows(sheet).rows]


@dataclass(frozen=True)
class Work:
    """What a group of encoders has to do.

    layout, group, grid: where files lie. settings: params of the rule; models: files of models of this workflow.
    scores: files, by slide, that say which of its patches are encoded; none where all are. share: the largest share of
    the patches that is encoded.
    """

    layout: Layout
    group: str
    grid: str
    settings: Mapping[str, object]
    models: Sequence[Path] = ()
    scores: Callable[[str], Sequence[Path]] = lambda _slide: ()
    share: float = 1.0

    def made_of(self, slide: str) -> str | None:
        """Digest of all that the features of a slide are made of; None while its inputs do not exist."""
        tables = self.layout.manifest(slide), self.layout.table(self.grid, slide)
        files = (*tables, *self.models, *self.scores(slide))
        digest = hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True, default=str).encode())
        try:
            for file in files:
                digest.update(sha256_file(file).encode())
        except FileNotFoundError:
            return None
        return digest.hexdigest()[:32]

    def waiting(self, slide: str, made_of: str) -> Path:
        """File that holds features of a slide until its job moves them."""
        return self._place(slide) / f"{made_of}.arrow"

    def _place(self, slide: str) -> Path:
        return self.layout.shared_features / self.group / slide

    def output(self, slide: str) -> Path:
        """Features of a slide."""
        return self.layout.features(self.group, slide)

    def take(self, slide: str, made_of: str) -> bool:
        """Move features that another job has made to their place; false if there are none. Older ones are removed."""
        file, output = self.waiting(slide, made_of), self.output(slide)
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.replace(output)
        except FileNotFoundError:
            return False
        finally:
            self._tidy(slide)
        return True

    def _tidy(self, slide: str) -> None:
        for old in self._place(slide).glob("*.arrow"):
            old.unlink(missing_ok=True)

    @contextmanager
    def running(self, slide: str) -> Iterator[None]:
        """Mark that a slide has a job, so that no other one encodes it as a further slide."""
        mark = self._place(slide) / RUNNING
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)
            with suppress(OSError):  # there are features of other inputs
                mark.parent.rmdir()

    def further(self, slide: str, slides: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield (slide, digest) of the next slides of the sheet that need features, until there are FEW_PATCHES.

        ``slides``: the sheet. Patches of ``slide`` itself count; whether a slide still needs features is looked up when
        it is asked for.
        """
        patches, at = self._patches(slide), slides.index(slide)
        for other in (*slides[at + 1 :], *slides[:at]):
            if patches >= FEW_PATCHES:
                return
            made_of = self.made_of(other)
            if made_of is None or (self._place(other) / RUNNING).exists() or self._is_made(other, made_of):
                continue
            if (patches := patches + self._patches(other)) <= FEW_PATCHES:
                yield other, made_of

    def _is_made(self, slide: str, made_of: str) -> bool:
        if self.waiting(slide, made_of).exists():
            return True
        try:
            record = read_features(self.output(slide)).record
        except (FileNotFoundError, HistomakeError):
            return False
        return not isinstance(record, FeatureRecord) or record.made_of == made_of

    def _patches(self, slide: str) -> int:
        return math.ceil(self.share * pq.read_metadata(self.layout.table(self.grid, slide)).num_rows)
