"""LAPS's captions and batches: published names in, the product's tokenizer, augmentation and batch, the same out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches.augment import Tokens, WordAugment
from data.batches.batch import Batch, Images, Ragged, offsets_of
from data.batches.pairs import PairIndex, Source
from data.words.wordpiece import WordPiece
from model.parts.layers import pack_padded, pad_ragged

Tensors = dict[str, Tensor]


def index_of(case: Any) -> PairIndex:
    """The product's index over a store of these captions, each with the one image that there is."""
    words = WordPiece(case.folder / "vocab.txt", lower_case=True, clean_first=True)
    ids = [np.array(words.encode(caption)[1], np.int64) for caption in case.config["captions"]]
    names = [str(number) for number in range(len(ids))]
    texts = SimpleNamespace(
        meta={},
        open=lambda: None, folder=case.folder, ids=names, images=["only"] * len(names), image_order=["only"],
        lengths=np.array([len(each) for each in ids]), special=words.special, vocab_hash=words.vocab_hash,
        tokens=lambda name: ids[int(name)],
    )  # fmt: skip
    images = SimpleNamespace(meta={}, counts=lambda _: np.ones(1, np.int64))
    return PairIndex([Source(texts, images)])  # type: ignore[arg-type]


def caption_ids(case: Any) -> Tensors:
    config, u, drawn = case.config, case.inputs["u"].numpy(), case.inputs["rand_ids"].numpy()
    index = index_of(case)
    lengths = index.words
    ids = np.empty(lengths.sum(), np.int64)
    index.read_texts(np.arange(len(lengths)), ids)
    augment = WordAugment.of(index, config["mask_rate"])
    tokens = Tokens.of(ids, lengths, augment.continues)
    used = np.zeros_like(lengths)
    if config["train"] and config["size_augment"]:
        fates = tokens.draw_outcomes(u[np.arange(u.shape[1]) < tokens.counts[:, None]], augment.rate)
        used = tokens.wanted(fates)
        ids, lengths = tokens.rewritten(fates, augment.mask, drawn[np.arange(drawn.shape[1]) < used[:, None]])
    found = lengths, tokens.counts, used
    names = "lengths", "n_basic_tokens", "n_rand_used"
    rows, _ = pad_ragged(Ragged.of(torch.from_numpy(ids), torch.from_numpy(lengths)))
    return {"ids": rows} | {name: torch.from_numpy(each) for name, each in zip(names, found, strict=True)}


def collate(case: Any) -> Tensors:
    """The product keeps the order it is given, whatever the lengths: a batch longest first is chosen out of it."""
    inputs = case.inputs
    texts = pack_padded(inputs["captions"], offsets_of(inputs["lengths"]))
    batch = Batch(Images.of_pixels(inputs["images"]), texts, inputs["ids"], inputs["img_ids"])
    order = torch.argsort(inputs["lengths"], descending=True, stable=True)
    longest_first = batch.select(order, order)
    return {
        "images": longest_first.images.features.values,
        "captions": pad_ragged(longest_first.texts)[0],
        "lengths": longest_first.texts.lengths,
        "ids": longest_first.number,
        "img_ids": longest_first.owner,
    }


OPS = {"caption_ids": caption_ids, "collate": collate}
