"""UNITER (Chen et al., ECCV 2020) for retrieval: one BERT over the words and regions of a pair, and a ranking head.

Words and regions are embedded once for each text and image; a pair is a list of row numbers into both tables, so that
hundreds of pairs share one embedding, and no padding is computed anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from config.sections import Named
from data.batches.batch import Images, Pool, Ragged, ranges
from model.matcher import HeadKind, Matcher, Side
from model.parts.attention import Attention
from model.parts.layers import upcast
from model.parts.transformer import EPS, Encoder, EncoderLayer, Packing

Padding = Callable[[int], Tensor]


class Config(Named):
    """The published model configuration (BERT's names) and the width of the region features."""

    name: Literal["uniter"] = "uniter"
    vocab_size: int = Field(28996, gt=0)
    """number of WordPiece ids"""
    hidden_size: int = Field(768, gt=0)
    """width of every token"""
    num_hidden_layers: int = Field(12, gt=0)
    """encoder layers"""
    num_attention_heads: int = Field(12, gt=0)
    """attention heads; divide hidden_size"""
    intermediate_size: int = Field(3072, gt=0)
    """inner width of each layer's perceptron"""
    max_position_embeddings: int = Field(512, gt=2)
    """longest text, [CLS] and [SEP] included"""
    type_vocab_size: int = Field(2, ge=2)
    """token types; row 0 is words, row 1 regions"""
    hidden_act: Literal["gelu", "relu", "swish"] = "gelu"
    """activation of the perceptron"""
    hidden_dropout_prob: float = Field(0.1, ge=0, lt=1)
    """dropout of embeddings and layer outputs"""
    attention_probs_dropout_prob: float = Field(0.1, ge=0, lt=1)
    """dropout of attention weights"""
    initializer_range: float = Field(0.02, gt=0)
    """standard deviation of random weights; widths far below 768 learn from scratch with about 0.12"""
    img_dim: int = Field(2048, gt=0)
    """width of the region features"""
    hn_image_gather_offset: Literal["correct", "last_caption"] = "correct"
    """last_caption repeats the published offset of regions when one image meets many captions"""

    @model_validator(mode="after")
    def _heads_divide(self) -> Config:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads")
        return self


class TextEmbedding(nn.Module):
    """Word + position + type, LayerNorm, dropout."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.types = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, positions: Tensor) -> Tensor:
        """`[total, hidden]` for word ids and positions, both `[total]`."""
        return self.dropout(self.norm(self.words(words) + self.positions(positions) + self.types.weight[0]))


class RegionEmbedding(nn.Module):
    """Normalised feature + normalised box + type, LayerNorm, dropout."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.feature = nn.Linear(config.img_dim, config.hidden_size)
        self.feature_norm = nn.LayerNorm(config.hidden_size, EPS)
        self.box = nn.Linear(7, config.hidden_size)
        self.box_norm = nn.LayerNorm(config.hidden_size, EPS)
        self.mask = nn.Embedding(2, config.img_dim)
        self.norm = nn.LayerNorm(config.hidden_size, EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, features: Tensor, boxes: Tensor, kind: Tensor, masked: Tensor | None = None) -> Tensor:
        """`[total, hidden]` for features `[total, d]`, boxes `[total, 7]`, the type row and masked ones `[total]`."""
        features = features.to(self.feature.weight.dtype)
        if masked is not None:
            features = features + masked[:, None] * self.mask.weight[1]
        feature = self.feature_norm(self.feature(features))
        return self.dropout(self.norm(feature + self.box_norm(self.box(boxes)) + kind))


class Uniter(Matcher):
    """Scores are raw `rank` values; the sigmoid belongs to the loss."""

    settings = Config
    config: Config
    heads: ClassVar[dict[str, HeadKind]] = {"match": "joint"}
    idle: ClassVar[tuple[str, ...]] = ("match.",)
    uses_boxes: ClassVar[bool] = True
    decayed_norms: ClassVar = ("region.feature_norm.weight", "region.box_norm.weight")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.text = TextEmbedding(config)
        self.region = RegionEmbedding(config)
        self.encoder = Encoder(config.num_hidden_layers, lambda: layer_of(config))
        self.pooler = nn.Linear(width, width)
        self.match = nn.Linear(width, 2)
        self.rank = nn.Linear(width, 1)
        self.apply(self._initialise)
        # The pre-training heads stay in the checkpoint but are no part of ranking: never trained, never decayed.
        self.match.requires_grad_(False)
        self.region.mask.requires_grad_(False)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    @property
    def image_dim(self) -> int:
        return self.config.img_dim

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def longest_text(self) -> int:
        return self.config.max_position_embeddings

    def encode_text(self, texts: Ragged) -> Side:
        positions = ranges(torch.zeros_like(texts.lengths), texts.lengths).to(texts.values.device, non_blocking=True)
        return Side(Ragged(self.text(texts.values, positions), texts.offsets))

    def encode_image(self, images: Images, masked: Tensor | None = None) -> Side:
        tokens = self.region(images.features.values, images.boxes, self.text.types.weight[1], masked)
        return Side(Ragged(tokens, images.features.offsets))

    def score_pairs(self, images: Side, texts: Side, image: Tensor, text: Tensor) -> Tensor:
        return self._rank(self.pooled(Joint.of(texts.rows, images.rows, text, image)))

    def score_pool(self, images: Side, texts: Side, pool: Pool) -> Tensor:
        if self.config.hn_image_gather_offset == "correct":
            return super().score_pool(images, texts, pool)
        frame = pool.frame.repeat_interleave(pool.image.shape[1], 0)
        joint = Joint.of(texts.rows, images.rows, pool.text.flatten(), pool.image.flatten(), frame, self.padding)
        return self._rank(self.pooled(joint)).view(pool.image.shape)

    @property
    def offers(self) -> frozenset[str]:
        # The published offset mixes padding words into the pairs: nothing that could be called their attention.
        return frozenset({"attention"} if self.config.hn_image_gather_offset == "correct" else ())

    def score_with_attention(
        self, images: Side, texts: Side, image: Tensor, text: Tensor, watched: Tensor
    ) -> tuple[Tensor, Attention]:
        joint = Joint.of(texts.rows, images.rows, text, image)
        below = self.encoder.below(*self.embedded(joint))
        start = joint.packing.offsets[joint.place[watched]]
        words, regions = texts.rows.lengths[text[watched]], images.rows.lengths[image[watched]]
        # [CLS] and [SEP] stand around the words.
        starts, counts = torch.stack([start + 1, start + words], 1), torch.stack([words - 2, regions], 1)
        inner = ranges(starts.flatten(), counts.flatten())
        states = below.index_select(0, inner.to(below.device, non_blocking=True))
        return self._rank(self._pool(joint, below)), Attention.of(self.encoder.top, states, words - 2, regions)

    def padding(self, width: int) -> Tensor:
        """The embeddings `[width, hidden]` of padding words at their positions (the authors attend to some)."""
        device = self.text.words.weight.device
        return self.text(torch.zeros(width, dtype=torch.int64, device=device), torch.arange(width, device=device))

    def pooled(self, joint: Joint) -> Tensor:
        """tanh-pooled `[CLS]` of each pair, `[p, hidden]`, in the order of the pairs."""
        return self._pool(joint, self.encoder.below(*self.embedded(joint)))

    def embedded(self, joint: Joint) -> tuple[Tensor, Packing, Tensor]:
        """The encoder's input: packed embeddings, their packing, and the first layer's projections.

        A row's projection does not depend on the pair it joins: each row is projected once and then copied.
        """
        rows = joint.rows.to(joint.table.device, non_blocking=True)
        projected = self.encoder.bottom.qkv(joint.table)
        return joint.table.index_select(0, rows), joint.packing, projected.index_select(0, rows)

    def _pool(self, joint: Joint, below: Tensor) -> Tensor:
        first = self.encoder.top.first(below, joint.packing)
        with torch.autocast(first.device.type, enabled=False):  # half precision has too few values to rank by
            return torch.tanh(self.pooler(upcast(first)))[joint.place.to(first.device, non_blocking=True)]

    def _rank(self, pooled: Tensor) -> Tensor:
        with torch.autocast(pooled.device.type, enabled=False):
            return self.rank(pooled).squeeze(1)


def layer_of(config: Config) -> EncoderLayer:
    """One encoder layer of the configured shape."""
    return EncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.hidden_act,
        config.hidden_dropout_prob,
        config.attention_probs_dropout_prob,
    )


class Joint:
    """Pairs as lists of rows: `table [r, hidden]` holds every embedded word and region once.

    The pairs are packed in ascending length (see `Packing`): `rows [total]` are their tokens in that order, and
    `place [p]` says where pair p went.
    """

    def __init__(self, table: Tensor, rows: Tensor, packing: Packing, place: Tensor) -> None:
        self.table, self.rows, self.packing, self.place = table, rows, packing, place

    @classmethod
    def of(
        cls,
        texts: Ragged,
        images: Ragged,
        text: Tensor,
        image: Tensor,
        frame: Tensor | None = None,
        padding: Padding | None = None,
    ) -> Joint:
        """Join pairs (`text[p]`, `image[p]`).

        `frame [p, 2]` (padded caption width, region offset) moves the regions to where a padded collation put them,
        over the words of `padding` if that is too early; without it they follow the words directly.
        """
        words, regions = texts.lengths[text], images.lengths[image]
        order = torch.argsort(words + regions, stable=True)
        text, image, words, regions = text[order], image[order], words[order], regions[order]
        width, offset = (words, words) if frame is None else frame[order].unbind(1)
        positions = joint_positions(words, regions, offset)
        lengths = positions.lengths
        start = torch.stack([texts.offsets[text], len(texts.values) + images.offsets[image] - width], 1)
        tables = [texts.values, images.values]
        rows = positions.values + start[:, 0].repeat_interleave(lengths)
        is_region = positions.values >= width.repeat_interleave(lengths)
        rows = torch.where(is_region, positions.values + start[:, 1].repeat_interleave(lengths), rows)
        if padding is not None:
            empty = ~is_region & (positions.values >= words.repeat_interleave(lengths))
            rows = torch.where(empty, positions.values + sum(len(table) for table in tables), rows)
            tables.append(padding(int(width.max())))
        return cls(torch.cat(tables), rows, Packing(lengths), torch.argsort(order))


def joint_positions(words: Tensor, regions: Tensor, offset: Tensor) -> Ragged:
    """Where the real tokens of each pair stand in its padded text followed by its padded regions.

    Host tensors `[p]`: the numbers of words and regions, and where the regions start (the padded width of the texts,
    or what the authors passed for it). Published code calls the padded form of this the gather index.
    """
    starts = torch.stack([torch.zeros_like(offset), offset], 1).flatten()
    values = ranges(starts, torch.stack([words, regions], 1).flatten())
    return Ragged.of(values, words + regions)
