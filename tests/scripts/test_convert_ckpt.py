"""scripts/convert_ckpt.py: published weights to ours and back, nothing unpickled but tensors."""

from __future__ import annotations

import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from config import load
from config.errors import ConfigError, DataError
from model import adapt
from model.bfan import Bfan
from model.bfan import Config as BfanConfig
from model.matcher import build
from model.uniter import Config, Uniter
from scripts.convert_ckpt import main
from train.checkpoint import read_facts, read_weights
from train.entry import KINDS

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


def released(path: Path, **changes: object) -> Bfan:
    """A published file of BFAN, with one name that nobody knows."""
    settings = {"vocab_size": 20, "img_dim": 4, "embed_size": 6, "word_dim": 5, "focal_type": "prob"}
    matcher = Bfan(BfanConfig(**settings))
    state = adapt.to_published("bfan", matcher.state_dict())
    parts = [{n.removeprefix(p): t for n, t in state.items() if n.startswith(p)} for p in ("img_enc.", "txt_enc.")]
    parts[1]["rnn.spare"] = torch.zeros(1)
    content = {"epoch": 2, "model": parts, "best_rsum": 1.5, "Eiters": 9, "opt": Namespace(**settings, alpha=0.3)}
    torch.save(content | changes, path, _use_new_zipfile_serialization=False)
    return matcher


def unpack(path: Path, folder: Path, matcher: str = "bfan") -> int:
    return main([str(path), "--matcher", matcher, "--to", "house", "--output", str(folder)])


def test_a_released_checkpoint_becomes_a_folder_with_its_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = released(tmp_path / "best.pth.tar")
    assert unpack(tmp_path / "best.pth.tar", tmp_path / "new" / "bfan") == 0
    assert "left out: word_rnn.spare" in capsys.readouterr().out
    run = load(tmp_path / "new" / "bfan" / "config.json", {}, KINDS)
    assert run.matcher == theirs.config
    matcher = build(run.matcher)
    assert adapt.load(matcher, "bfan", read_weights(tmp_path / "new" / "bfan")) == adapt.Loaded([], [])
    assert all(torch.equal(tensor, matcher.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    facts = read_facts(tmp_path / "new" / "bfan")
    assert (facts["epoch"], facts["Eiters"], facts["options"]["alpha"]) == (2, 9, 0.3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bfan"]


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    released(tmp_path / "best.pth.tar")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="exists already; name a new folder"):
        unpack(tmp_path / "best.pth.tar", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_another_systems_checkpoint_makes_no_folder(tmp_path: Path) -> None:
    released(tmp_path / "best.pth.tar")
    with pytest.raises(DataError, match=r"lacks \d+ tensors of vsrn \(img_enc\.Rs_GCN_1"):
        unpack(tmp_path / "best.pth.tar", tmp_path / "vsrn", "vsrn")
    published(tmp_path / "uniter.pt")
    with pytest.raises(DataError, match=r"uniter\.pt: holds no list of state dicts"):
        unpack(tmp_path / "uniter.pt", tmp_path / "uniter", "uniter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pth.tar", "uniter.pt"]


def test_a_released_checkpoint_may_be_weights_alone(tmp_path: Path) -> None:
    theirs = released(tmp_path / "best.pth.tar")
    assert unpack(tmp_path / "best.pth.tar", tmp_path / "bfan.safetensors") == 0
    found = load_file(tmp_path / "bfan.safetensors")
    assert found.keys() == theirs.state_dict().keys() | {"word_rnn.spare"}


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_a_pickle_payload_is_refused_and_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"w": Payload()}))
    with pytest.raises(DataError, match=r"evil\.pt"):
        main([str(tmp_path / "evil.pt"), "--to", "house", "--output", str(tmp_path / "x.pt")])
    assert "executed" not in capsys.readouterr().out
