"""The facts that decide the lists of a mining job; the manifest keeps them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config.errors import DataError
from data.batches.candidates import ORDER
from data.batches.pairs import Array, PairIndex
from train.distributed.comm import Comm
from train.mining.settings import Settings
from train.scoring.scorer import Scorer, shared_fingerprint

TIES = "score descending, then index ascending"
LEFT_OUT = "left out"
READ_AT_ONCE = 64 << 20
Facts = dict[str, Any]


@dataclass(frozen=True)
class GivenEmbeddings:
    """Embeddings that are there already: `[n, d]` and `[m, d]` in files."""

    images: Path
    texts: Path


@dataclass(frozen=True)
class ModelEmbeddings:
    """Embeddings that a matcher has yet to make, in this precision; `origin` says whose weights it has."""

    scorer: Scorer
    origin: str
    precision: str


def build_facts(
    settings: Settings,
    source: GivenEmbeddings | ModelEmbeddings,
    owner: Array,
    index: PairIndex | None,
    late: bool,
    comm: Comm,
) -> Facts:
    """All that decides the lists, alike on all ranks; JSON.

    Raises:
        DataError: a file cannot be read.
    """
    extra = checksum(settings.extra_pairs) if settings.extra_pairs else None
    facts: Facts = {
        ORDER: index.order_hash if index else None,
        "texts": len(owner),
        "texts_per_image": settings.texts_per_image,
        "images_per_text": settings.images_per_text,
        "dtype": "int32",
        "operands": settings.operands,
        "ties": TIES,
        "own_captions": LEFT_OUT,
        "same_words": LEFT_OUT if settings.same_words else "kept",
        "extra_pairs": extra,
        "score_margin": settings.score_margin,
        "head": "late" if late else "dot",
        "scores": settings.scores,
        "embeddings_kept": settings.keep_embeddings,
    }
    if isinstance(source, ModelEmbeddings):
        assert index is not None
        facts |= {"weights": shared_fingerprint(source.scorer.matcher, index, comm), "precision": source.precision}
        return facts | ({"shortlist": settings.shortlist} if late else {})
    sums = [checksum(path) for path in (source.images, source.texts)] if comm.rank == 0 else []
    whose = hashlib.blake2b(np.ascontiguousarray(owner, "<i8").tobytes(), digest_size=16).hexdigest()
    return facts | {"embeddings": comm.all_gather_object(sums)[0], "owner": whose}


def checksum(path: Path) -> str:
    """Of a file's bytes; raises DataError where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while part := file.read(READ_AT_ONCE):
                digest.update(part)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a file that is there") from error
    return digest.hexdigest()
