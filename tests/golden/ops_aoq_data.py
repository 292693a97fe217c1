"""AOQ's vocabulary op: both published file formats through the product's reader."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data.words.vocabulary import Vocabulary


def vocab_load(case: Any) -> dict[str, Tensor]:
    """Both files must say the same; the answer is the one of the pickle."""
    pickled, plain = (Vocabulary.load(case.folder / case.config[name]) for name in ("pickle_file", "json_file"))
    ids = pickled.encode(case.config["words"])
    assert (ids, pickled.hash) == (plain.encode(case.config["words"]), plain.hash)
    return {"ids": torch.tensor(ids), "size": torch.tensor(len(pickled))}


OPS = {"vocab_load": vocab_load}
