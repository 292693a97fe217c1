"""Two small matchers and two objectives that stand in for those of model/, and a way to write config files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, model_validator

from config.kinds import Kinds
from config.sections import Named, Section


class Uniter(Named):
    """one stream over words and regions"""

    name: Literal["uniter"] = "uniter"
    vocab_size: int = 28996
    hidden_size: int = Field(768, gt=0)
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: Literal["gelu", "relu", "swish"] = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    img_dim: int = 2048


class Part(Section):
    depth: int = 1


class Towers(Named):
    """two streams; has a field without a default, one that is taken, and one that is a section"""

    name: Literal["towers"] = "towers"
    width: int
    optim: str = "own"
    part: Part = Part()

    @model_validator(mode="after")
    def _even(self) -> Towers:
        if self.width % 2:
            raise ValueError("width should be even")
        return self


class Hinge(Named):
    """a margin between a pair and its negatives"""

    name: Literal["hinge"] = "hinge"
    margin: float = Field(0.2, ge=0)


class Iais(Named):
    """the same margin, and an alignment"""

    name: Literal["iais"] = "iais"
    margin: float = Field(0.2, ge=0)
    IAIS: Literal["singular", "distributed"] = "singular"
    """which alignment"""
    tsa: Literal["exp", "linear", "log"] = "exp"


def finder(*kinds: type[Named]) -> Callable[[str], type[Named]]:
    by_name = {kind.model_fields["name"].default: kind for kind in kinds}

    def find(name: str) -> type[Named]:
        if name not in by_name:
            raise KeyError(f"known are {', '.join(by_name)}")
        return by_name[name]

    return find


@pytest.fixture
def kinds() -> Kinds:
    return {"matcher": finder(Uniter, Towers), "objective": finder(Hinge, Iais)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write plain data, or a text, as a file below the test's own folder."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write
