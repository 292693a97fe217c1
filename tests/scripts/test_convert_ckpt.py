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
from model import conversion
from model.bfan import Bfan
from model.bfan import Config as BfanConfig
from model.laps import Config as LapsConfig
from model.laps import Laps
from model.loading import Loaded
from model.loading import load as load_weights
from model.matcher import Matcher, build
from model.uniter import Config, Uniter
from scripts.convert_ckpt import main
from tests.samples import lively, small
from train.assembly.kinds import KINDS
from train.checkpointing.checkpoint import Checkpoints, read_facts, read_weights
from train.checkpointing.manifest import verify
from train.checkpointing.snapshot import Snapshot

TINY = Config(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
    max_position_embeddings=16, img_dim=4,
)


def published(path: Path) -> dict[str, torch.Tensor]:
    state = conversion.to_published("uniter", Uniter(TINY).state_dict())
    torch.save({name: tensor.half() for name, tensor in state.items()} | {"cls.predictions.bias": torch.zeros(3)}, path)
    return state


def test_published_weights_come_in_and_go_out_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = published(tmp_path / "theirs.pt")
    assert main([str(tmp_path / "theirs.pt"), "--to", "house", "--output", str(tmp_path / "ours.safetensors")]) == 0
    assert "left out: cls.predictions.bias" in capsys.readouterr().out
    model = Uniter(TINY)
    assert not load_weights(model, "uniter", load_file(tmp_path / "ours.safetensors")).missing
    assert main([str(tmp_path / "ours.safetensors"), "--to", "published", "--output", str(tmp_path / "back.pt")]) == 0
    back = conversion.take_rank_row(torch.load(tmp_path / "back.pt", weights_only=True))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor.half().float()) for name, tensor in state.items())


@pytest.mark.parametrize("output", ["x.safetensors", "folder"])
def test_weights_that_are_not_finite_are_not_converted(output: str, tmp_path: Path) -> None:
    theirs = released(tmp_path / "best.pth.tar")
    state = {name: torch.full_like(tensor, torch.nan) for name, tensor in theirs.state_dict().items()}
    parts = [{"img_enc.fc.weight": torch.full((1,), torch.nan)}]
    torch.save({"model": parts, "opt": Namespace()} if output == "folder" else state, tmp_path / "nan.pth.tar")
    with pytest.raises(DataError, match=r"nan\.pth\.tar: \d+ tensors? with numbers that are not finite \(\w+"):
        main([str(tmp_path / "nan.pth.tar"), "--to", "house", "--matcher", "bfan", "--output", str(tmp_path / output)])
    assert not (tmp_path / output).exists()


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
    state = conversion.to_published("bfan", matcher.state_dict())
    parts = [{n.removeprefix(p): t for n, t in state.items() if n.startswith(p)} for p in ("img_enc.", "txt_enc.")]
    parts[1]["rnn.spare"] = torch.zeros(1)
    content = {"epoch": 2, "model": parts, "best_rsum": 1.5, "Eiters": 9, "opt": Namespace(**settings, alpha=0.3)}
    torch.save(content | changes, path, _use_new_zipfile_serialization=False)
    return matcher


def unpack(path: Path, folder: Path, *flags: str) -> int:
    return main([str(path), "--to", "house", "--output", str(folder), *flags])


def test_a_released_checkpoint_becomes_a_folder_with_its_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = released(tmp_path / "best.pth.tar")
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match=r"no place for 1 of its tensors \(word_rnn\.spare\); --leave_out_unknown"):
        unpack(tmp_path / "best.pth.tar", tmp_path / "new" / "bfan")
    assert unpack(tmp_path / "best.pth.tar", tmp_path / "new" / "bfan", "--leave_out_unknown") == 0
    assert "left out: word_rnn.spare" in capsys.readouterr().out
    run = load(tmp_path / "new" / "bfan" / "config.json", {}, KINDS)
    assert run.matcher == theirs.config
    matcher = build(run.matcher)
    assert load_weights(matcher, "bfan", read_weights(tmp_path / "new" / "bfan")) == Loaded([], [])
    assert all(torch.equal(tensor, matcher.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    facts = read_facts(tmp_path / "new" / "bfan")
    assert (facts["epoch"], facts["Eiters"], facts["options"]["alpha"]) == (2, 9, 0.3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bfan"]
    assert verify(tmp_path / "new" / "bfan").files.keys() == {"config.json", "model.safetensors"}


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    released(tmp_path / "best.pth.tar")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="exists already; name a new file or folder"):
        unpack(tmp_path / "best.pth.tar", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_another_systems_checkpoint_makes_no_folder(tmp_path: Path) -> None:
    released(tmp_path / "best.pth.tar")
    with pytest.raises(DataError, match=r"best\.pth\.tar: lacks \d+ tensors of this vsrn \(graph\.1"):
        unpack(tmp_path / "best.pth.tar", tmp_path / "vsrn", "--matcher", "vsrn", "--leave_out_unknown")
    published(tmp_path / "uniter.pt")
    with pytest.raises(DataError, match=r"uniter\.pt: holds no list of state dicts"):
        unpack(tmp_path / "uniter.pt", tmp_path / "bfan", "--matcher", "bfan")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pth.tar", "uniter.pt"]


def test_a_released_checkpoint_may_be_weights_alone(tmp_path: Path) -> None:
    theirs = released(tmp_path / "best.pth.tar")
    assert unpack(tmp_path / "best.pth.tar", tmp_path / "bfan.safetensors") == 0, "names alone"
    found = load_file(tmp_path / "bfan.safetensors")
    assert found.keys() == theirs.state_dict().keys() | {"word_rnn.spare"}


EYES = {"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 8, "image_size": 16, "patch_size": 4}  # fmt: skip
READER = {"model_type": "bert", "vocab_size": 20, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
          "intermediate_size": 8, "max_position_embeddings": 12}  # fmt: skip


def released_laps(path: Path, **changes: object) -> Laps:
    """A published file of LAPS with the poolers that it never used."""
    matcher = Laps(LapsConfig(vision=EYES, text=READER, embed_size=16))
    state = conversion.to_published("laps", matcher.state_dict())
    state["img_enc.visual_encoder.pooler.dense.weight"] = torch.zeros(64, 64)
    options = Namespace(sparse_ratio=0.5, aggr_ratio=0.4, num_patches=16, vit_type="vit", margin=0.2)
    content = {"epoch": 4, "model": state, "best_rsum": 2.5, "Eiters": 8, "opt": options} | changes
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return matcher


def test_a_released_laps_becomes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = released_laps(tmp_path / "model_best.pth")
    assert unpack(tmp_path / "model_best.pth", tmp_path / "laps") == 0
    told = capsys.readouterr().out
    assert "1 tensor left out\n  left out: img_enc.visual_encoder.pooler.dense.weight" in told
    assert "not told" not in told
    run = load(tmp_path / "laps" / "config.json", {}, KINDS)
    matcher = build(run.matcher)
    assert load_weights(matcher, "laps", read_weights(tmp_path / "laps")) == Loaded([], [])
    assert all(torch.equal(tensor, matcher.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    facts = read_facts(tmp_path / "laps")
    assert (facts["epoch"], facts["best_rsum"], facts["options"]["margin"]) == (4, 2.5, 0.2)


def test_what_a_released_laps_does_not_tell_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    released_laps(tmp_path / "model_best.pth", opt=None)
    assert unpack(tmp_path / "model_best.pth", tmp_path / "laps") == 0
    recipe = "that of the published recipe for vit"
    guessed = [f"sparse_ratio 0.5: {recipe}", f"aggr_ratio 0.4: {recipe}"]
    assert all(f"not told by the file: {line}" in capsys.readouterr().out for line in guessed[:1])
    assert read_facts(tmp_path / "laps")["guessed"] == guessed


def test_a_laps_with_something_strange_makes_no_folder(tmp_path: Path) -> None:
    released_laps(tmp_path / "whole.pth")
    state = torch.load(tmp_path / "whole.pth", weights_only=False)["model"]
    released_laps(tmp_path / "more.pth", model=state | {"criterion.weight": torch.zeros(1)})
    with pytest.raises(DataError, match=r"laps has no place for 1 of its tensors \(criterion\.weight\)"):
        unpack(tmp_path / "more.pth", tmp_path / "laps")
    released_laps(tmp_path / "less.pth", model={name: t for name, t in state.items() if "txt_enc.fc" not in name})
    with pytest.raises(DataError, match=r"lacks 2 tensors of this laps \(text\.project\.weight"):
        unpack(tmp_path / "less.pth", tmp_path / "laps")
    released(tmp_path / "bfan.pth.tar")
    with pytest.raises(DataError, match=r"bfan\.pth\.tar: holds no state dict"):
        unpack(tmp_path / "bfan.pth.tar", tmp_path / "laps", "--matcher", "laps")
    assert not (tmp_path / "laps").exists()


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_a_pickle_payload_is_refused_and_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"w": Payload()}))
    with pytest.raises(DataError, match=r"evil\.pt"):
        main([str(tmp_path / "evil.pt"), "--to", "house", "--output", str(tmp_path / "x.pt")])
    assert "executed" not in capsys.readouterr().out


# ---------------------------------------------------------------- ours to published, and back

ODD = {"uniter": {"hidden_size": 64, "num_attention_heads": 1, "max_position_embeddings": 200},
       "vsrn": {"variant": "F", "bidirectional": True},
       "bfan": {"precomp_enc_type": "weight_norm", "lambda_softmax": 9.0},
       "laps": {"embed_size": 24, "sparse_ratio": 0.6, "leaky": False}}  # fmt: skip
"""Settings of each system that are not the defaults."""


def trained(folder: Path, system: str) -> tuple[Matcher, Path]:
    """A model and the checkpoint that a run wrote of it."""
    matcher = lively(small(system, **ODD[system]))
    facts = {"matcher": matcher.config.model_dump(mode="json"), "optim": {"train_batch_size": 12},
             "_note": {"step": 70, "epoch": 2}}  # fmt: skip
    return matcher, Checkpoints(folder, 1).write(Snapshot.of(70, matcher.state_dict(), {}, facts))


@pytest.mark.parametrize("system", sorted(ODD))
def test_a_checkpoint_goes_to_the_published_layout_and_comes_back_the_same(system: str, tmp_path: Path) -> None:
    """Nobody is asked which system it is."""
    matcher, checkpoint = trained(tmp_path, system)
    there, back = tmp_path / "best.pth.tar", tmp_path / "back"
    assert main([str(checkpoint), "--to", "published", "--output", str(there)]) == 0
    if system == "uniter":
        row = torch.load(there, weights_only=True)["itm_output.weight"][1:]
        assert torch.equal(row, matcher.state_dict()["rank.weight"]), "the published evaluation ranks by this row"
    assert unpack(there, back) == 0
    run = load(back / "config.json", {}, KINDS)
    ours = matcher.config.model_dump(exclude={"hidden_dropout_prob", "attention_probs_dropout_prob"})
    assert {name: run.matcher.model_dump()[name] for name in ours} == ours
    assert all(torch.equal(tensor, read_weights(back)[name]) for name, tensor in matcher.state_dict().items())
    facts = read_facts(back)
    assert system == "uniter" or (facts["epoch"], facts["Eiters"], facts["options"]["batch_size"]) == (2, 70, 12)


def test_options_that_only_the_published_programs_know_are_given(tmp_path: Path) -> None:
    _, checkpoint = trained(tmp_path, "bfan")
    flags = ["--option", "data_name=f30k_precomp", "--option", "margin=0.1", "--option", "max_violation=true"]
    assert main([str(checkpoint), "--to", "published", "--output", str(tmp_path / "b.pth.tar"), *flags]) == 0
    options = vars(torch.load(tmp_path / "b.pth.tar", weights_only=False)["opt"])
    assert (options["data_name"], options["margin"], options["max_violation"]) == ("f30k_precomp", 0.1, True)
    with pytest.raises(ConfigError, match=r"--option data_name: should be NAME=VALUE"):
        main([str(checkpoint), "--to", "published", "--output", str(tmp_path / "c.pth.tar"), "--option", "data_name"])
    assert not (tmp_path / "c.pth.tar").exists()


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    _, checkpoint = trained(tmp_path, "bfan")
    (tmp_path / "b.pt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        main([str(checkpoint), "--to", "published", "--output", str(tmp_path / "b.pt")])
    assert (tmp_path / "b.pt").read_text() == "mine"


def test_counters_stay_whole_numbers(tmp_path: Path) -> None:
    matcher, checkpoint = trained(tmp_path, "vsrn")
    there, ours = tmp_path / "best.pth.tar", tmp_path / "ours.safetensors"
    main([str(checkpoint), "--to", "published", "--output", str(there)])
    main([str(there), "--to", "house", "--output", str(ours)])
    found = load_file(ours)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: tensor.dtype for name, tensor in matcher.state_dict().items()}  # fmt: skip
