"""The captioning branch of VSRN (after Venugopalan et al., ICCV 2015): regions in, words of a caption out.

Captions of a batch are decoded longest first, so that at each step those still running lie in front: no step is
computed for a caption that has ended, and everything that does not depend on the decoder's state is computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batches.batch import Ragged, ranges
from model.parts.layers import keyed_dropout, keyed_dropout_mask, pad_ragged, run_gru, upcast

REGION, WORD, CONTEXT, STREAMS = 0, 1, 2, 3
"""Streams of dropout draws; each position has its own three."""


@dataclass(frozen=True)
class Targets:
    """What is to be said: `labels [k, M + 1]` (word ids, then zeros) and `masks [k, M + 1]` (bool, host).

    The mask covers the caption and one zero after it: when to stop is learned too.
    """

    labels: Tensor
    masks: Tensor

    @classmethod
    def of(cls, captions: Ragged, max_len: int) -> Targets:
        """The first `max_len` ids of each caption, start and end included; a caption that is cut still ends."""
        starts, ends = captions.offsets[:-1, None], captions.offsets[1:, None]
        kept = captions.lengths[:, None].clamp(max=max_len)
        place = torch.arange(max_len + 1)
        source = torch.where(place == kept - 1, ends - 1, (starts + place).clamp(max=len(captions.values) - 1))
        device = captions.values.device
        labels = captions.values[source.to(device, non_blocking=True)]
        beyond = (place >= kept).to(device, non_blocking=True)
        return cls(labels.masked_fill(beyond, 0), place <= kept)


@dataclass(frozen=True)
class Steps:
    """Who is in which step of the decoder: pairs in `order [k]`, of which the first `running[t]` are in step t.

    `pair [total]` and `time [total]` list all (place in the order, step), step after step. All on the host.
    """

    order: Tensor
    running: list[int]
    pair: Tensor
    time: Tensor

    @classmethod
    def of(cls, masks: Tensor) -> Steps:
        """Step t says label t + 1, and the last label is never asked for: masks `[k, M + 1]` of M - 1 steps."""
        lengths = masks[:, 1:-1].sum(1)
        order = torch.argsort(lengths, descending=True, stable=True)
        taking = torch.arange(int(lengths.max()))[:, None] < lengths[order]
        time, pair = taking.nonzero().unbind(1)
        return cls(order, taking.sum(1).tolist(), pair, time)


@dataclass(frozen=True)
class Captioned:
    """`loss` (scalar): mean over pairs of the summed loss of a caption; `log_probs [total, words]` as `steps` says."""

    loss: Tensor
    log_probs: Tensor
    steps: Steps


class Captioner(nn.Module):
    """A GRU reads the regions, another says the caption, looking at the regions with additive attention."""

    def __init__(
        self, vocab_size: int, width: int, hidden: int, word_dim: int, bidirectional: bool, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.regions = nn.Linear(width, hidden)
        self.encoder = nn.GRU(hidden, hidden, batch_first=True, bidirectional=bidirectional)
        state = 2 * hidden if bidirectional else hidden
        self.words = nn.Embedding(vocab_size, word_dim)
        self.attend = nn.Linear(2 * state, state)
        self.attention = nn.Linear(state, 1, bias=False)
        self.decoder = nn.GRU(word_dim + state, state, batch_first=True)
        self.out = nn.Linear(state, vocab_size)
        nn.init.xavier_normal_(self.regions.weight)
        nn.init.xavier_normal_(self.out.weight)

    def forward(self, regions: Ragged, image: Tensor, targets: Targets, keys: Tensor) -> Captioned:
        """Say the caption of pair k of image `image[k]` (host), whose regions are packed `[total, width]`.

        `keys [k]` (host) are what the dropout of each pair is keyed by.
        """
        steps = Steps.of(targets.masks)
        keys = keys[steps.order]
        read = Ragged(self.regions(regions.values), regions.offsets).select(image[steps.order])
        seen, state = run_gru(self.encoder, self._dropped(read, keys))
        device = seen.values.device
        row, time = (index.to(device, non_blocking=True) for index in (steps.order[steps.pair], steps.time))
        words = self.words(targets.labels[row, time])
        words = keyed_dropout(words, self._rate, keys[steps.pair], STREAMS * steps.time + WORD)
        # Small products one after the other: half precision would only cost accuracy here.
        with torch.autocast(device.type, enabled=False):
            states = self._decode(
                Ragged(upcast(seen.values), seen.offsets),
                upcast(state),
                upcast(words),
                keys,
                steps,
            )
        log_probs = F.log_softmax(upcast(self.out(states)), 1)
        loss = F.nll_loss(log_probs, targets.labels[row, time + 1], reduction="sum") / len(targets.labels)
        return Captioned(loss, log_probs, steps)

    @property
    def _rate(self) -> float:
        return self.dropout if self.training else 0.0

    def _dropped(self, read: Ragged, keys: Tensor) -> Ragged:
        """Dropout of what the encoder is given; a region's draws are its own, however many there are."""
        place = ranges(torch.zeros_like(read.lengths), read.lengths)
        row_keys = keys.repeat_interleave(read.lengths)
        return Ragged(keyed_dropout(read.values, self._rate, row_keys, STREAMS * place + REGION), read.offsets)

    def _decode(self, seen: Ragged, state: Tensor, words: Tensor, keys: Tensor, steps: Steps) -> Tensor:
        """States after each step, packed `[total, state]`, from the encoder's rows and last states `[k, state]`."""
        weights = dict(self.decoder.named_parameters())
        width = state.shape[1]
        of_word, of_context = weights["weight_ih_l0"].split([words.shape[1], width], 1)
        of_region, of_state = self.attend.weight.split(width, 1)
        given = F.linear(words, of_word, weights["bias_ih_l0"]).split(steps.running)
        drops = self._context_drops(len(words), width, keys, steps, state.device)
        from_state = torch.cat([weights["weight_hh_l0"], of_state])
        state_bias = torch.cat([weights["bias_hh_l0"], self.attend.bias])
        regions, mask = pad_ragged(seen)
        views = Views(regions, regions @ of_region.T, mask)
        states = []
        for step, count in enumerate(steps.running):
            views, state = views.first(count), state[:count]
            inner = F.linear(state, from_state, state_bias)
            context = views.attended(inner[:, 3 * width :], self.attention.weight[0])
            if drops is not None:
                context = context.masked_fill(drops[step], 0.0) / (1 - self._rate)
            state = gru_step(given[step] + context @ of_context.T, inner[:, : 3 * width], state)
            states.append(state)
        return torch.cat(states)

    def _context_drops(
        self, total: int, width: int, keys: Tensor, steps: Steps, device: torch.device
    ) -> tuple[Tensor, ...] | None:
        """What of the context falls out in each step, `[running, width]`; None without dropout."""
        if not self._rate:
            return None
        shape, streams = torch.Size([total, width]), STREAMS * steps.time + CONTEXT
        return keyed_dropout_mask(shape, self._rate, keys[steps.pair], streams, device).split(steps.running)


@dataclass(frozen=True)
class Views:
    """What the decoder looks at: `regions [k, r, state]`, their part of the attention likewise, and who is padding."""

    regions: Tensor
    keys: Tensor
    mask: Tensor | None

    def first(self, count: int) -> Views:
        """Those of the first `count` pairs."""
        if count == len(self.regions):
            return self
        return Views(self.regions[:count], self.keys[:count], None if self.mask is None else self.mask[:count])

    def attended(self, query: Tensor, weight: Tensor) -> Tensor:
        """The regions as far as attended to, `[k, state]`; attention is `weight . tanh(key + query)`, softmaxed."""
        worth = torch.tanh(self.keys + query[:, None]) @ weight
        if self.mask is not None:
            worth = worth.masked_fill(~self.mask, -torch.inf)
        return (worth.softmax(1)[:, None] @ self.regions).squeeze(1)


def gru_step(given: Tensor, inner: Tensor, state: Tensor) -> Tensor:
    """The next state `[n, d]` of a GRU from its input's and its state's projections, both `[n, 3 d]`, biases added."""
    reset_in, update_in, new_in = given.chunk(3, 1)
    reset_on, update_on, new_on = inner.chunk(3, 1)
    reset, update = torch.sigmoid(reset_in + reset_on), torch.sigmoid(update_in + update_on)
    new = torch.tanh(new_in + reset * new_on)
    return torch.lerp(new, state, update)
