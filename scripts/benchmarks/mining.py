"""Offline candidates of a Flickr30K-sized set, both ways: our job against the product alone, and against searches."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from data.batches.pairs import Array
from scripts.benchmarks.timing import Row, absent, one_thread, product_peak
from train.distributed.host import keep_freed_memory
from train.mining.filters import Excluded, positive_pairs
from train.mining.lists import Task, mine_lists
from train.mining.screen import choose_screen

GROUP = "mining candidates"
TILE_BYTES = 16 << 20
LIMIT_GB = 1.5
FACTORS = 64
"""What embeddings of trained models differ in: far fewer directions than they are wide."""
CALL = 512


@dataclass(frozen=True)
class Size:
    """How many embeddings of which width, how many candidates, and which part of the queries a peer searches."""

    images: int
    captions: int
    width: int
    texts_per_image: int
    images_per_text: int
    part: int

    @property
    def pairs(self) -> int:
        return self.images * self.captions


FULL, QUICK = Size(29000, 145000, 1024, 300, 60, 16), Size(300, 1500, 64, 30, 10, 2)


def rows(folder: Path, quick: bool) -> Iterator[Row]:  # noqa: ARG001
    """The whole job in both arithmetics, its memory, and each peer on a part of the queries.

    The job runs before and after the peers, so that a machine's slow minutes fall on both.
    """
    size = QUICK if quick else FULL
    keep_freed_memory()
    with one_thread():
        task = made(size)
        peak = product_peak(0.3 if quick else 4.0)
        with watched() as grown:
            first, mined, screen = run(task, "auto")
        checked = check(task, mined[0], mined[1], 8 if quick else 64)
        rates = dict(searched(task, size, mined))
        seconds = (first + run(task, "auto")[0]) / 2
        yield against_product(size, "auto", screen, seconds, peak, checked)
        yield memory(grown[0])
        yield from against_peers(size, rates, size.pairs / seconds)
        alone, mined, screen = run(task, "float32")
        checked = check(task, mined[0], mined[1], 8 if quick else 64)
        yield against_product(size, "float32", screen, alone, peak, checked)


def run(task: Task, kind: str) -> tuple[float, tuple[Array, ...], str]:
    """Processor seconds of the job, its lists, and which arithmetic it was screened in."""
    start = time.process_time()
    screen = choose_screen(task.images, task.texts, kind, torch.device("cpu"))
    mined = mine_lists(task, screen, TILE_BYTES)
    return time.process_time() - start, mined, screen.kind


def made(size: Size) -> Task:
    """Captions that lie around their images."""
    generator = torch.Generator().manual_seed(0)
    owner = np.arange(size.captions) * size.images // size.captions

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    basis, centre = drawn(FACTORS, size.width), drawn(size.images, FACTORS)
    images = normalize((centre + 0.5 * drawn(size.images, FACTORS)) @ basis)
    texts = normalize((centre[torch.from_numpy(owner)] + 0.7 * drawn(size.captions, FACTORS)) @ basis)
    return Task(images, texts, (size.texts_per_image, size.images_per_text), Excluded.of(positive_pairs(owner)))


def against_product(size: Size, kind: str, screen: str, seconds: float, peak: float, checked: int) -> Row:
    """How near the job comes to a float32 product of the same size alone."""
    ours = 2 * size.pairs * size.width / seconds
    facts = (
        f"{size.images} x {size.captions} x {size.width}, best {size.texts_per_image} and {size.images_per_text}, "
        f"screened in {screen}; one thread; {checked} lists equal those of float64"
    )
    aim = 0.7 if kind == "auto" else None
    name = "both directions" if kind == "auto" else f"both directions, {kind} only"
    return Row(GROUP, name, ours / 1e9, peak / 1e9, "GFLOP/s", "float32 product alone", ours / peak, aim, facts)


def memory(gigabytes: float) -> Row:
    """What the job takes beside its inputs, its lists included."""
    return Row(GROUP, "memory beside the embeddings", gigabytes, LIMIT_GB, "GB", "the limit", LIMIT_GB / gigabytes, 1.0)


def check(task: Task, i2t: Array, t2i: Array, queries: int) -> int:
    """How many lists were compared with all float64 scores; raises RuntimeError where one differs."""
    rng = np.random.default_rng(0)
    for ours, left, right, excluded in (
        (i2t, task.images, task.texts, (task.excluded.image, task.excluded.text)),
        (t2i, task.texts, task.images, (task.excluded.text, task.excluded.image)),
    ):
        some = np.sort(rng.choice(len(left), queries, replace=False))
        scores = left[some].double() @ right.double().T
        barred = np.isin(excluded[0], some)
        scores[np.searchsorted(some, excluded[0][barred]), excluded[1][barred]] = -torch.inf
        best = scores.sort(dim=1, descending=True, stable=True).indices[:, : ours.shape[1]]
        if not np.array_equal(best.numpy(), ours[some]):
            raise RuntimeError("our lists differ from those of float64: their times mean nothing")
    return 2 * queries


@contextmanager
def watched() -> Iterator[list[float]]:
    """The gigabytes by which this process grows at most inside, once it ends."""
    grown: list[float] = []
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = status("VmRSS")
    yield grown
    grown.append((status("VmHWM") - before) / 1e6)


def status(name: str) -> int:
    """Kilobytes that this process's status tells."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def searched(task: Task, size: Size, mined: tuple[Array, ...]) -> Iterator[tuple[str, float | str]]:
    """Each peer's pairs a second, searching both ways for a part of the queries; or what it lacks."""
    most = int(task.excluded.per_image(size.images).max())
    ways = (
        (task.images, task.texts, size.texts_per_image + most, mined[0]),
        (task.texts, task.images, size.images_per_text + 1, mined[1]),
    )
    for name, search, needed in (
        ("faiss flat index", with_faiss, ("faiss",)),
        ("matmul and topk", with_topk, ()),
        ("mine_hard_negatives", with_sentence_transformers, ("sentence_transformers", "datasets")),
    ):
        if lacking := absent(*needed):
            yield name, lacking
            continue
        seconds = 0.0
        for left, right, k, own in ways:
            queries = left[: len(left) // size.part]
            start = time.process_time()
            found = search(queries, right, k)
            seconds += time.process_time() - start
            check_alike(own[: len(queries)], found)
        yield name, size.pairs / size.part / seconds


def against_peers(size: Size, rates: dict[str, float | str], ours: float) -> Iterator[Row]:
    """How many times as fast as each peer we are; the aim is set against the best of them."""
    best = max((rate for rate in rates.values() if isinstance(rate, float)), default=0.0)
    note = f"the peer searched all of the pool, twice, for one in {size.part} of the queries; one thread"
    for name, rate in rates.items():
        title = f"both directions, {name}"
        if isinstance(rate, str):
            yield Row(GROUP, title, note=rate)
        else:
            aim = 3.0 if rate == best else None
            yield Row(GROUP, title, ours, rate, "pairs/s", name, ours / rate, aim, note)


def check_alike(ours: Array, found: Array) -> None:
    """Raise RuntimeError where a search misses more of our candidates than rounding explains."""
    some = range(0, len(ours), max(1, len(ours) // 32))
    kept = np.mean([np.isin(ours[row], found[row]).mean() for row in some])
    if kept < 0.95:
        raise RuntimeError(f"a peer finds only {kept:.0%} of our candidates: its time means nothing")


def with_faiss(queries: Tensor, pool: Tensor, k: int) -> Array:
    """Facebook's exact inner-product index."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool.numpy())
    return np.asarray(index.search(queries.numpy(), k)[1])


def with_topk(queries: Tensor, pool: Tensor, k: int) -> Array:
    """Blocks of a plain product, each searched by torch.topk."""
    return torch.cat([(part @ pool.T).topk(k, dim=1).indices for part in queries.split(CALL)]).numpy()


class Ready:
    """What mine_hard_negatives asks of a model, with embeddings that are there already, by their texts."""

    device = "cpu"

    def __init__(self, queries: Tensor, pool: Tensor) -> None:
        self._queries, self._pool = queries, pool

    def encode_query(self, names: list[str], **_: Any) -> Array:
        return self._queries[[int(name) for name in names]].numpy()

    def encode_document(self, names: list[str], **_: Any) -> Array:
        return self._pool[[int(name) for name in names]].numpy()

    def similarity(self, left: Array, right: Tensor) -> Tensor:
        return torch.from_numpy(left) @ right.T

    def similarity_pairwise(self, left: Array, right: Tensor) -> Tensor:
        return (torch.from_numpy(left) * right).sum(1)


def with_sentence_transformers(queries: Tensor, pool: Tensor, k: int) -> Array:
    """The peer leaves one text of each query out as its positive; any will do."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    names = [str(number) for number in range(len(queries))]
    left_out = [str(number % len(pool)) for number in range(len(queries))]
    pairs = Dataset.from_dict({"anchor": names, "positive": left_out})
    model: Any = Ready(queries, pool)
    corpus = [str(number) for number in range(len(pool))]
    with redirect_stderr(io.StringIO()):
        found = mine_hard_negatives(
            pairs, model, corpus=corpus, range_max=k, num_negatives=k, faiss_batch_size=CALL,
            output_format="n-tuple", verbose=False,
        )
    columns = [np.asarray(found[f"negative_{number}"], dtype=np.int64) for number in range(1, k + 1)]
    return np.stack(columns, 1)
