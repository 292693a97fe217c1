"""BFAN (Liu et al., ACM MM 2019): regions and words attend to each other, and a pair scores by both directions.

What a pair scores is in `model/parts/focal.py`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from config.sections import Named
from data.batches.batch import Images, Ragged
from model.matcher import HeadKind, Matcher, Side
from model.parts.focal import Focus, all_pairs, listed_pairs
from model.parts.layers import l2norm, run_gru, upcast

EPS = 1e-8


class Config(Named):
    """The published options by their names, and what to do where the focus finds nothing."""

    name: Literal["bfan"] = "bfan"
    vocab_size: int = Field(10006, gt=0)
    """number of word ids"""
    img_dim: int = Field(2048, gt=0)
    """width of the region features"""
    embed_size: int = Field(1024, gt=0)
    """width of regions and words where they meet"""
    word_dim: int = Field(300, gt=0)
    """width of the word embeddings"""
    num_layers: int = Field(1, gt=0)
    """layers of the GRU over words, which reads in both directions"""
    focal_type: Literal["equal", "prob"] = "equal"
    """which average a word's or region's weight must exceed to count: the plain one, or one that weighs by weight"""
    lambda_softmax: float = Field(20.0, gt=0)
    """factor before the softmax of the attention"""
    precomp_enc_type: Literal["basic", "weight_norm"] = "basic"
    """the map of region features: a matrix, or a direction and one length for the whole matrix"""
    no_imgnorm: bool = False
    """leave regions at their length"""
    no_txtnorm: bool = False
    """leave words at their length"""
    focal_empty: Literal["unmasked", "nan"] = "unmasked"
    """attention whose weights are all equal, so that none is above average: keep all, or NaN as published"""


class ScaledLinear(nn.Module):
    """A linear map whose matrix is a direction `weight_v [out, in]` times one length `weight_g`."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width_out, width_in)))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm())
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor) -> Tensor:
        """`[total, out]` for `x [total, in]`."""
        return F.linear(x, self.weight_v * (self.weight_g / torch.linalg.vector_norm(self.weight_v)), self.bias)


class Bfan(Matcher):
    """Rows of regions on one side and of words on the other, packed; each pair is scored from all of both."""

    settings = Config
    config: Config
    heads: ClassVar[dict[str, HeadKind]] = {"match": "late"}

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.focus = Focus(config.focal_type, config.lambda_softmax, config.focal_empty)
        self.regions = region_map(config)
        self.words = nn.Embedding(config.vocab_size, config.word_dim)
        self.word_rnn = nn.GRU(
            config.word_dim, config.embed_size, config.num_layers, batch_first=True, bidirectional=True
        )
        nn.init.uniform_(self.words.weight, -0.1, 0.1)

    @property
    def image_dim(self) -> int:
        return self.config.img_dim

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    def encode_image(self, images: Images) -> Side:
        features = images.features
        regions = upcast(self.regions(features.values.to(self.words.weight.dtype)))
        return Side(Ragged(regions if self.config.no_imgnorm else l2norm(regions, EPS), features.offsets))

    def encode_text(self, texts: Ragged) -> Side:
        states = run_gru(self.word_rnn, Ragged(self.words(texts.values), texts.offsets))[0].values
        words = upcast(states).unflatten(1, (2, -1)).mean(1)
        return Side(Ragged(words if self.config.no_txtnorm else l2norm(words, EPS), texts.offsets))

    def score(self, images: Side, texts: Side) -> Tensor:
        return all_pairs(images.rows, texts.rows, self.focus)

    def score_pairs(self, images: Side, texts: Side, image: Tensor, text: Tensor) -> Tensor:
        return listed_pairs(images.rows, texts.rows, image, text, self.focus)


def region_map(config: Config) -> nn.Module:
    """The map of region features that the settings ask for, freshly drawn."""
    if config.precomp_enc_type == "weight_norm":
        return ScaledLinear(config.img_dim, config.embed_size)
    linear = nn.Linear(config.img_dim, config.embed_size)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
