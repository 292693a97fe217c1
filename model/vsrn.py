"""VSRN (Li et al., ICCV 2019): graph reasoning over regions, a GRU over them, and a dot product.

A branch that captions each image from its regions, in training only, keeps the words in sight of the image encoder.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from config.sections import Named
from data.batches.batch import Images, Ragged
from model.matcher import HeadKind, Matcher, Side
from model.parts.captioning import Captioner, Targets
from model.parts.layers import BatchNorm, l2norm, pack_padded, pad_ragged, run_gru, upcast

BLOCKS = 4


class Config(Named):
    """The published options by their names, and the switches that were tied to the name of the data."""

    name: Literal["vsrn"] = "vsrn"
    vocab_size: int = Field(10006, gt=0)
    """number of word ids"""
    img_dim: int = Field(2048, gt=0)
    """width of the region features"""
    embed_size: int = Field(2048, gt=0)
    """width of regions inside, and of the two embeddings"""
    word_dim: int = Field(300, gt=0)
    """width of the word embeddings of the text encoder"""
    num_layers: int = Field(1, gt=0)
    """layers of the text encoder's GRU"""
    variant: Literal["C", "F"] = "C"
    """as published for COCO (norm before the graph) or for Flickr30K (batch norm of the image embedding)"""
    region_norm_axis: Literal["regions", "features"] = "regions"
    """what the norms around the graph run over; released weights need regions"""
    no_imgnorm: bool = False
    """leave image embeddings at their length"""
    use_abs: bool = False
    """absolute values of both embeddings"""
    caption_weight: float = Field(1.0, ge=0)
    """what the captioning loss counts beside that of the objective; 0 leaves the branch out"""
    dim_hidden: int = Field(512, gt=0)
    """width of the caption branch"""
    dim_word: int = Field(300, gt=0)
    """width of the word embeddings of the caption branch"""
    max_len: int = Field(60, gt=1)
    """longest caption that is learned to be said, start and end included; the rest of a longer one is not"""
    bidirectional: bool = False
    """whether the caption branch reads the regions in both directions"""
    input_dropout_p: float = Field(0.2, ge=0, lt=1)
    """dropout of what the caption branch's GRUs are given"""


class GraphBlock(nn.Module):
    """Every region hears every other in proportion to their affinity (no softmax), plus itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.theta, self.phi, self.g, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = BatchNorm(width)
        # The block starts as the identity.
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, regions: Ragged, counts: Tensor) -> Ragged:
        """Packed `[total, d]` from packed `[total, d]`; `counts [n, 1, 1]` are the regions of each image."""
        theta, phi, g = (
            # Rows of zeros beside the regions have no affinity to anything: they need no mask.
            pad_ragged(Ragged(part(regions.values), regions.offsets))[0]
            for part in (self.theta, self.phi, self.g)
        )
        affinity = theta @ phi.transpose(1, 2) / counts
        heard = pack_padded(affinity @ g, regions.offsets).values
        return Ragged(self.norm(self.out(heard)) + regions.values, regions.offsets)


class Vsrn(Matcher):
    """Unit rows on both sides; scores are their dot products."""

    settings = Config
    config: Config
    heads: ClassVar[dict[str, HeadKind]] = {"match": "dot"}
    idle: ClassVar[tuple[str, ...]] = ("caption.",)
    ordered_regions: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.embed_size
        self.regions = nn.Linear(config.img_dim, width)
        # Numbered from 1, as published.
        self.graph = nn.ModuleDict({str(number): GraphBlock(width) for number in range(1, BLOCKS + 1)})
        self.region_rnn = nn.GRU(width, width, batch_first=True)
        self.image_norm = BatchNorm(width) if config.variant == "F" else None
        self.words = nn.Embedding(config.vocab_size, config.word_dim)
        self.word_rnn = nn.GRU(config.word_dim, width, config.num_layers, batch_first=True)
        self.caption = captioner_of(config) if config.caption_weight else None
        nn.init.xavier_uniform_(self.regions.weight)
        nn.init.zeros_(self.regions.bias)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)

    @property
    def image_dim(self) -> int:
        return self.config.img_dim

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    def encode_image(self, images: Images) -> Side:
        features = images.features
        embedded = self.regions(features.values.to(self.regions.weight.dtype))
        # Four blocks in a row are of the 81st degree in their input: half precision is not enough for them.
        with torch.autocast(embedded.device.type, enabled=False):
            regions = self.reason(Ragged(upcast(embedded), features.offsets))
        image = upcast(run_gru(self.region_rnn, regions)[1])
        if self.image_norm is not None:
            image = self.image_norm(image)
        pooled = self._finished(image if self.config.no_imgnorm else l2norm(image))
        return Side(regions if self.training and self.caption is not None else None, pooled)

    def reason(self, regions: Ragged) -> Ragged:
        """The regions after the graph, packed `[total, d]`, normalised; what the captioning branch reads."""
        counts = regions.lengths.to(regions.values.device, regions.values.dtype, non_blocking=True)[:, None, None]
        if self.config.variant == "C":
            regions = self._region_norm(regions)
        for block in self.graph.values():
            regions = block(regions, counts)
        return self._region_norm(regions)

    def _region_norm(self, regions: Ragged) -> Ragged:
        """Published: each channel divided by its norm over an image's regions, not each region by its own."""
        if self.config.region_norm_axis == "features":
            return Ragged(l2norm(regions.values), regions.offsets)
        return pack_padded(l2norm(pad_ragged(regions)[0], dim=1), regions.offsets)

    def encode_text(self, texts: Ragged) -> Side:
        words = Ragged(self.words(texts.values), texts.offsets)
        return Side(pooled=self._finished(l2norm(run_gru(self.word_rnn, words)[1])))

    def _finished(self, embedding: Tensor) -> Tensor:
        return embedding.abs() if self.config.use_abs else embedding

    def score(self, images: Side, texts: Side) -> Tensor:
        image, text = embedding_of(images), embedding_of(texts)
        with torch.autocast(image.device.type, enabled=False):
            return image @ text.T

    def score_pairs(self, images: Side, texts: Side, image: Tensor, text: Tensor) -> Tensor:
        rows, columns = embedding_of(images), embedding_of(texts)
        image, text = (index.to(rows.device, non_blocking=True) for index in (image, text))
        return (rows.index_select(0, image) * columns.index_select(0, text)).sum(1)

    def aux(self, images: Side, texts: Ragged, image: Tensor, text: Tensor, keys: Tensor) -> dict[str, Tensor]:
        if self.caption is None:
            return {}
        targets = Targets.of(texts.select(text), self.config.max_len)
        captioned = self.caption(images.rows, image, targets, keys)
        return {"caption": self.config.caption_weight * captioned.loss}


def embedding_of(side: Side) -> Tensor:
    """The embeddings of a side, `[n, d]`, in float32 at least."""
    assert side.pooled is not None
    return upcast(side.pooled)


def captioner_of(config: Config) -> Captioner:
    """The captioning branch of the configured shape."""
    return Captioner(
        config.vocab_size,
        config.embed_size,
        config.dim_hidden,
        config.dim_word,
        config.bidirectional,
        config.input_dropout_p,
    )
