"""train/evaluation/isda.py: attention among annotated objects, by loops and by its bounds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from config.errors import ConfigError, DataError
from data.stores.image_writer import ImageWriter
from data.stores.text_store import TextWriter
from tests.alignment import plain_pairs
from tests.samples import lively
from tests.support import DIM, VOCAB
from tests.train.conftest import MakeRun, Pretended
from train.assembly.recipe import Parts, build_parts
from train.assembly.splits import Split
from train.distributed.comm import Comm, Solo
from train.evaluation.isda import (
    ObjectAttention,
    check_offers_attention,
    format_line,
    isda,
    measure_isda,
    object_attention,
    summary,
)
from train.metrics.journal import Journal
from train.scoring.scorer import read_images, read_texts

WORDS = torch.tensor([[0, 1, -1], [3, -1, -1], [2, 4, 5]])
REGIONS = torch.tensor([[1, -1], [0, 2], [3, -1]])


def rows(size: int, seed: int) -> Tensor:
    return (2 * torch.randn(size, size, generator=torch.Generator().manual_seed(seed))).softmax(1)


def plain(attention: Tensor, members: Tensor) -> list[list[float]]:
    groups = [[place for place in row if place >= 0] for row in members.tolist()]
    found = [[sum(attention[a, b].item() for a in one for b in other) / len(one) for other in groups] for one in groups]
    return [[value / sum(row) for value in row] for row in found]


def distance(one: list[list[float]], other: list[list[float]]) -> float:
    pairs = [pair for rows in zip(one, other, strict=True) for pair in zip(*rows, strict=True)]
    return sum((p - q) * (math.log(p + 1e-12) - math.log(q + 1e-12)) for p, q in pairs)


def test_it_agrees_with_loops() -> None:
    texts, images = rows(6, 0), rows(4, 1)
    found = ObjectAttention(object_attention(texts[None], WORDS[None]), object_attention(images[None], REGIONS[None]))
    torch.testing.assert_close(found.words[0], torch.tensor(plain(texts, WORDS), dtype=torch.float64))
    torch.testing.assert_close(found.regions[0], torch.tensor(plain(images, REGIONS), dtype=torch.float64))
    assert isda(found)[0].item() == pytest.approx(distance(plain(texts, WORDS), plain(images, REGIONS)), rel=1e-6)


def test_padded_pairs_and_objects_add_nothing() -> None:
    """A pair of three objects beside one of two, whose third and whose spare tokens are padding."""
    texts, images = rows(6, 0), rows(4, 1)
    two = torch.tensor([[0, 1, -1], [3, -1, -1], [-1, -1, -1]]), torch.tensor([[1, -1], [0, 2], [-1, -1]])
    together = ObjectAttention(
        object_attention(torch.stack([texts, texts]), torch.stack([WORDS, two[0]])),
        object_attention(torch.stack([images, images]), torch.stack([REGIONS, two[1]])),
    )
    alone = distance(plain(texts, WORDS[:2]), plain(images, REGIONS[:2]))
    assert isda(together)[1].item() == pytest.approx(alone, rel=1e-6)
    assert isda(together)[0].item() == pytest.approx(distance(plain(texts, WORDS), plain(images, REGIONS)), rel=1e-6)


def test_equal_relations_have_no_distance_and_opposite_ones_a_large_one() -> None:
    near, far = torch.tensor([[0.99, 0.01], [0.01, 0.99]]), torch.tensor([[0.01, 0.99], [0.99, 0.01]])
    members = torch.tensor([[[0], [1]]])
    same = object_attention(near[None], members)
    assert isda(ObjectAttention(same, same)).item() == 0
    assert isda(ObjectAttention(same, object_attention(far[None], members))).item() > 10


# ---------------------------------------------------------------- on a split

BOXES = np.array([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.25, 0.25, 0.75, 1]])
Objects = list[dict[str, Any]]


def named(*objects: tuple[list[int], list[int]]) -> Objects:
    """Objects given as (word positions, box numbers)."""
    return [{"words": words, "boxes": BOXES[boxes].tolist()} for words, boxes in objects]


CAPTIONS: list[Objects | None] = [
    named(([0, 1], [0]), ([3], [1, 2])),
    named(([2], [3]), ([0], [1]), ([1, 4], [0, 2])),
    named(([0], [1])),
    [],
]
"""Of the first image two captions, one of either other; the last two name too few objects."""


def write_annotated(folder: Path, captions: list[Objects | None],
                    images: tuple[str, ...] = ("a.npz", "b.npz", "c.npz")) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    special = {"UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, VOCAB]}
    owner = ["a.npz", "a.npz", "b.npz", "c.npz"]
    folder.mkdir(parents=True, exist_ok=True)
    norm_bb = np.concatenate([BOXES, BOXES[:, 2:] - BOXES[:, :2]], 1)
    with ImageWriter(folder / "img", keep_all=True) as pictures, TextWriter(folder / "txt.db", special) as texts:
        for name in images:
            pictures.add(name, rng.standard_normal((len(BOXES), DIM)), norm_bb, np.ones(len(BOXES)))
        for number, (name, objects) in enumerate(zip(owner, captions, strict=True)):
            record = {"input_ids": [10 + number, 20, 30, 40 + number, 50], "img_fname": name}
            texts.add(str(number), record | ({} if objects is None else {"objects": objects}))
    return folder / "txt.db", folder / "img"


def opened(make_run: MakeRun, folder: Path, captions: list[Objects | None], comm: Comm | None = None,
           **sections: Any) -> tuple[Parts, Split]:
    parts = build_parts(make_run(on=write_annotated(folder, captions), **sections), comm or Solo())
    lively(parts.matcher)
    split = parts.split("test")
    assert split is not None
    return parts, split


def one_by_one(parts: Parts, split: Split, text: int, objects: Objects) -> float:
    """ISDa of a caption and its image alone, in loops."""
    index, matcher = split.index, parts.matcher
    with torch.no_grad():
        image = matcher.encode_image(read_images(index, [int(index.owner[text])]))
        one = torch.tensor([0])
        _, attention = matcher.score_with_attention(
            image, matcher.encode_text(read_texts(index, [text])), one, one, one
        )
    pair = plain_pairs(attention)[0]
    boxes = BOXES.tolist()
    words = [found["words"] for found in objects]
    regions = [[boxes.index(box) for box in found["boxes"]] for found in objects]
    width = max(map(len, words + regions))
    members = [torch.tensor([row + [-1] * (width - len(row)) for row in rows]) for rows in (words, regions)]
    return distance(plain(torch.tensor(pair.own), members[0]), plain(torch.tensor(pair.other), members[1]))


def even(objects: Objects) -> float:
    """ISDa where every token looks everywhere alike: an object is seen by the number of its tokens."""
    words, regions = ([len(found[side]) for found in objects] for side in ("words", "boxes"))
    rows = [[[size / sum(side) for size in side]] * len(objects) for side in (words, regions)]
    return distance(*rows)


@pytest.mark.parametrize("pairs", [1, 64])
def test_it_is_the_mean_over_pairs_of_two_objects_or_more(
    pairs: int, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.evaluation.isda.PAIRS", pairs)
    parts, split = opened(make_run, tmp_path, CAPTIONS)
    found = measure_isda(parts, split, Journal(None))
    assert found is not None
    each = [one_by_one(parts, split, text, objects) for text, objects in enumerate(CAPTIONS[:2]) if objects]
    assert found["mean"] == pytest.approx(sum(each) / 2, rel=1e-4)
    assert found["rowmean"] == pytest.approx((each[0] / 2 + each[1] / 3) / 2, rel=1e-4)
    assert (found["pairs"], found["with_fewer_objects"], found["unannotated"]) == (2, 2, 0)
    assert format_line(found).startswith(f"ISDa {found['mean']:.4f} (95 % ")
    flat = [even(found) for found in CAPTIONS[:2] if found]
    assert found["flat"] == pytest.approx(sum(flat) / 2, rel=1e-6)


def test_ranks_measure_their_share_and_the_first_tells_all(make_run: MakeRun, tmp_path: Path) -> None:
    class Sharing(Pretended):
        """The first of two ranks, told what the second found."""

        def all_gather_object(self, value: Any) -> list[Any]:
            return [value, ([(1, 3, 7.0, 0.5)], 1, 0)]

    parts, split = opened(make_run, tmp_path, CAPTIONS, Sharing(0, 2))
    found = measure_isda(parts, split, Journal(None))
    assert found is not None
    first = one_by_one(parts, split, 0, CAPTIONS[0] or [])
    assert found["mean"] == pytest.approx((first + 7.0) / 2, rel=1e-4)
    assert (found["pairs"], found["with_fewer_objects"]) == (2, 2)
    other = Parts(parts.run, Pretended(1, 2), parts.device, parts.matcher, parts.precision, None, ())
    assert measure_isda(other, split, Journal(None)) is None


@pytest.mark.parametrize("captions", [1, 5])
def test_the_interval_is_that_of_images_not_of_their_captions(captions: int) -> None:
    """Five captions of an image that all say the same tell no more than one does."""
    images = np.random.default_rng(0).exponential(1.0, 200)
    each, owner = images.repeat(captions), np.arange(200).repeat(captions)
    found = summary(each, np.full(len(each), 2), owner, seed=1)
    assert found == summary(each, np.full(len(each), 2), owner, seed=1)
    assert found["low"] < found["mean"] < found["high"]
    half = 1.96 * images.std() / 200**0.5
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.15)
    assert found["rowmean"] == pytest.approx(found["mean"] / 2)


def test_dropout_has_no_part_in_it(make_run: MakeRun, tmp_path: Path) -> None:
    dropout = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    parts, split = opened(make_run, tmp_path, CAPTIONS, matcher=dropout)
    found = []
    for _ in range(2):
        parts.matcher.train()
        found.append(measure_isda(parts, split, Journal(None)))
    assert found[0] == found[1]


def test_images_without_annotated_boxes_are_left_out_and_told(make_run: MakeRun, tmp_path: Path) -> None:
    stores = write_annotated(tmp_path / "whole", CAPTIONS)
    _, fewer = write_annotated(tmp_path / "fewer", CAPTIONS, images=("a.npz",))
    parts = build_parts(make_run(on=(stores[0], fewer)), Solo())
    with pytest.raises(DataError, match=r"holds no 'b\.npz'"):
        parts.split("test")
    split = parts.split("test", leave_out_absent=True)
    assert split is not None
    found = measure_isda(parts, split, Journal(None))
    assert found is not None
    assert (found["pairs"], found["left_out"]) == (2, ["b.npz", "c.npz"])


def test_a_store_without_annotation_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    parts, split = opened(make_run, tmp_path, [None] * 4)
    with pytest.raises(DataError, match=r"txt\.db: no caption names two annotated objects; pack it from phrases"):
        measure_isda(parts, split, Journal(None))


@pytest.mark.parametrize(("objects", "told"), [
    (named(([0], [0]), ([5], [1])), "caption 0 of a.npz: its objects name words that are not among its 5 ids"),
    ([{"words": [0], "boxes": [[0, 0, 0.2, 0.2]]}, *named(([1], [1]))], "caption 0 of a.npz: box .* is none of the"),
])
def test_an_annotation_that_names_what_is_not_there_is_told(
    objects: Objects, told: str, make_run: MakeRun, tmp_path: Path
) -> None:
    parts, split = opened(make_run, tmp_path, [objects, *CAPTIONS[1:]])
    with pytest.raises(DataError, match=told):
        measure_isda(parts, split, Journal(None))


def test_a_matcher_without_attention_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    parts, _ = opened(make_run, tmp_path, CAPTIONS, matcher={"hn_image_gather_offset": "last_caption"})
    with pytest.raises(ConfigError, match="matcher uniter with these settings offers no attention; measure without"):
        check_offers_attention(parts)
