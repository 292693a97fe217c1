"""IAIS once more in plain loops over numbers, pair by pair: what the batched formulas are compared with."""

from __future__ import annotations

import math
from typing import NamedTuple

from model.parts.attention import Attention

Matrix = list[list[float]]


class Pair(NamedTuple):
    """One pair's blocks: word to word, word to region, region to word, region to region."""

    own: Matrix
    out: Matrix
    back: Matrix
    other: Matrix

    @property
    def transposed(self) -> Pair:
        return Pair(self.other, self.back, self.out, self.own)


def plain_pairs(attention: Attention) -> list[Pair]:
    """The blocks of each pair, one softmax after the other."""
    query, key = attention.query.tolist(), attention.key.tolist()
    pairs, start = [], 0
    for words, regions in zip(attention.words.tolist(), attention.regions.tolist(), strict=True):
        word = range(start, start + words)
        region = range(start + words, start + words + regions)
        sides = [(word, word), (word, region), (region, word), (region, region)]
        pairs.append(Pair(*([looks(query[row], [key[column] for column in columns]) for row in rows]
                            for rows, columns in sides)))
        start += words + regions
    return pairs


def looks(query: Matrix, keys: list[Matrix]) -> list[float]:
    """One token's attention to some others: a softmax in each head, then the mean over heads."""
    heads = len(query)
    found = [0.0] * len(keys)
    for head in range(heads):
        logits = [sum(a * b for a, b in zip(query[head], key[head], strict=True)) for key in keys]
        for column, weight in enumerate(softmax([logit / math.sqrt(len(query[head])) for logit in logits])):
            found[column] += weight / heads
    return found


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def singular_of_words(pair: Pair) -> float:
    """The singular alignment of a pair's words; of its regions if the pair is turned."""
    nearest = [row.index(max(row)) for row in pair.out]
    total = 0.0
    for i, row in enumerate(pair.own):
        seen = softmax([pair.other[nearest[i]][nearest[j]] for j in range(len(row))])
        total += sum(p * math.log(p / q) + q * math.log(q / p) for p, q in zip(row, seen, strict=True))
    return total / len(pair.own)


def distributed_of_words(pair: Pair) -> float:
    """The distributed alignment of a pair's words; of its regions if the pair is turned."""
    total = 0.0
    for i, row in enumerate(pair.own):
        for j, p in enumerate(row):
            q = sum(out * pair.back[via][j] for via, out in enumerate(pair.out[i]))
            total += q * (math.log(q) - math.log(p + 1e-6)) + p * (math.log(p) - math.log(q + 1e-6))
    return total / len(pair.own)
