"""LAPS's scores as published: text after text, every vector of every pair made."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data.batches.batch import Ragged
from model.laps import Laps
from model.matcher import Side

SLOPE = 0.1


def loop(matcher: Laps, images: Ragged, texts: Ragged) -> Tensor:
    """Scores `[n, m]`; what images have by themselves is computed once."""
    whole, spatial = matcher.split_cls(Side(images))
    with torch.no_grad():
        own, alone = significance(spatial)
    found = []
    for words in texts.values.split(texts.lengths.tolist()):
        with torch.no_grad():
            scores = alone + own @ F.normalize(words.mean(0), dim=0)
        cosines = F.leaky_relu(products(matcher, whole, spatial, scores, words), SLOPE)
        found.append(cosines.amax(2).mean(1) + cosines.amax(1).mean(1))
    return torch.stack(found, 1)


def significance(spatial: Tensor) -> tuple[Tensor, Tensor]:
    """Unit patches `[n, s, c]`, and what images say of them `[n, s]`."""
    own = F.normalize(spatial, dim=2)
    return own, (own @ F.normalize(spatial.mean(1), dim=1)[:, :, None]).squeeze(2)


def products(matcher: Laps, whole: Tensor | None, spatial: Tensor, scores: Tensor, words: Tensor) -> Tensor:
    """Cosines `[n, w, h]` of words `[w, c]` with the vectors that each image is given for this text."""
    assert matcher.aggregate is not None
    order = scores.argsort(1, descending=True).tensor_split([matcher.rule.kept(spatial.shape[1])], 1)
    kept, dropped = (spatial.gather(1, index[:, :, None].expand(-1, -1, spatial.shape[2])) for index in order)
    shares = scores.gather(1, order[1]).softmax(1)
    vectors = [matcher.aggregate(kept).softmax(2) @ kept, shares[:, None] @ dropped]
    if whole is not None:
        vectors.insert(0, whole[:, None])
    return F.normalize(words, dim=1) @ F.normalize(torch.cat(vectors, 1), dim=2).transpose(1, 2)


@torch.no_grad()
def margins(matcher: Laps, images: Ragged, texts: Ragged, best: bool = False) -> Tensor:
    """How far each pair `[n, m]` is from keeping another patch; with `best`, or from another best word or vector too.

    Rounding decides where that is next to nothing: scores, or gradients, may then jump. Worked out in float64.
    """
    whole, spatial = matcher.split_cls(Side(Ragged(images.values.double(), images.offsets)))
    own, alone = significance(spatial)
    kept = matcher.rule.kept(spatial.shape[1])
    exact, found = built_like(matcher), []
    for words in texts.values.double().split(texts.lengths.tolist()):
        scores = alone + own @ F.normalize(words.mean(0), dim=0)
        ordered = scores.sort(1, descending=True).values
        gaps = [ordered[:, kept - 1] - ordered[:, kept]]
        if best:
            cosines = products(exact, whole, spatial, scores, words)
            gaps += [(-cosines.topk(2, side).values.diff(dim=side)).flatten(1).amin(1) for side in (1, 2)]
        found.append(torch.stack(gaps).amin(0))
    return torch.stack(found, 1)


def built_like(matcher: Laps) -> Laps:
    """The same in float64."""
    twin = Laps(matcher.config).double()
    twin.load_state_dict(matcher.state_dict())
    return twin
