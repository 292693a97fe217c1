"""scripts/convert_ckpt.py: published weights to ours and back, nothing unpickled but tensors."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from config.errors import ConfigError, DataError
from model import adapt
from model.uniter import Config, Uniter
from scripts.convert_ckpt import main

TINY = Config(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
    max_position_embeddings=16, img_dim=4,
)


def published(path: Path) -> dict[str, torch.Tensor]:
    state = adapt.to_published("uniter", Uniter(TINY).state_dict())
    torch.save({name: tensor.half() for name, tensor in state.items()} | {"cls.predictions.bias": torch.zeros(3)}, path)
    return state


def test_published_weights_come_in_and_go_out_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = published(tmp_path / "theirs.pt")
    assert main([str(tmp_path / "theirs.pt"), "--to", "house", "--output", str(tmp_path / "ours.safetensors")]) == 0
    assert "left out: cls.predictions.bias" in capsys.readouterr().out
    model = Uniter(TINY)
    assert not adapt.load(model, "uniter", load_file(tmp_path / "ours.safetensors")).missing
    assert main([str(tmp_path / "ours.safetensors"), "--to", "published", "--output", str(tmp_path / "back.pt")]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor.half().float()) for name, tensor in state.items())


def test_what_cannot_be_converted_is_named(tmp_path: Path) -> None:
    torch.save({"resnet.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(DataError, match="none of its 1 tensors"):
        main([str(tmp_path / "other.pt"), "--to", "house", "--output", str(tmp_path / "x.pt")])
    with pytest.raises(ConfigError, match="must end in"):
        main([str(tmp_path / "other.pt"), "--to", "house", "--output", str(tmp_path / "x.bin")])


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_a_pickle_payload_is_refused_and_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"w": Payload()}))
    with pytest.raises(DataError, match=r"evil\.pt"):
        main([str(tmp_path / "evil.pt"), "--to", "house", "--output", str(tmp_path / "x.pt")])
    assert "executed" not in capsys.readouterr().out
