"""Golden ops of LAPS's towers: pictures and captions to the tokens that meet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data.batches.batch import Ragged
from model.laps import Laps
from model.loading import load_part
from tests.golden.run import sibling

settings_of = sibling("ops_laps").settings_of


def model(case: Any) -> Laps:
    """The case's model with its weights, as it evaluates."""
    matcher = Laps(settings_of(case.config))
    load_part(matcher, "laps", case.weights)
    return matcher.eval()


@torch.no_grad()
def image_tokens(case: Any) -> dict[str, Tensor]:
    return {"tokens": model(case).vision(case.inputs["images"])}


@torch.no_grad()
def text_tokens(case: Any) -> dict[str, Tensor]:
    captions, lengths = case.inputs["captions"], case.inputs["lengths"]
    real = torch.arange(captions.shape[1]) < lengths[:, None]
    tokens = model(case).text(Ragged.of(captions[real], lengths))
    return {"tokens": tokens.padded(captions.shape[1])[0]}


OPS = {"image_tokens": image_tokens, "text_tokens": text_tokens}
