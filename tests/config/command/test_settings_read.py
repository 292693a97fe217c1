"""config/command/settings_read.py: what a program would pass over is refused as a flag, and welcome in a file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from config.command.cli import parse
from config.command.settings_read import ALL, Reads, anything, measuring, mining, training_on_batches, training_on_pools
from config.kinds import Kinds
from config.schema import Run

Write = Callable[..., Path]


def evaluate_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--split", default="test")
    parser.add_argument("--isda", action="store_true")
    parser.add_argument("--scores", nargs="+", default=[])
    parser.add_argument("--embeddings")


@pytest.mark.parametrize(("reads", "line", "told"), [
    (measuring, "--learning_rate 1e-4 --set negatives.mine_after=3 --ties mean",
     "this program does not read negatives.mine_after, optim.learning_rate here; leave them out of the command line (a "
     "config file may hold them)"),
    (measuring, "--val_txt_db a --val_img_db b", "this program does not read data.val_img_db, data.val_txt_db here"),
    (measuring, "--scores m --two_stage 5", "this program does not read eval.two_stage here; leave it out"),
    (measuring, "--isda --folds 5", "this program does not read eval.folds here"),
    (mining, "--max_txt_len 7", "this program does not read data.max_txt_len here"),
    (mining, "--embeddings e --checkpoint w.pt", "this program does not read weights.checkpoint here"),
    (training_on_batches, "--hard_neg_size 3", "this program does not read negatives.hard_neg_size here"),
    (training_on_pools, "--offline_range 3", "this program does not read negatives.offline_range here"),
    (anything, "--num_bb 4", "data.num_bb has no effect where conf_th is 0.2: it counts where that is -1; leave it"),
    (anything, "--conf_th -1 --max_bb 5 --min_bb 2",
     "data.max_bb has no effect where conf_th is -1: num_bb counts then; data.min_bb has no effect"),
    (anything, "--decay_steps 4 --decay_factor 0.2", "optim.decay_factor has no effect on schedule linear"),
    (anything, "--global_batch_size 8 --train_batch_size 4",
     "optim.train_batch_size has no effect beside global_batch_size"),
    (anything, "--inf_minibatch_size 20", "eval.inf_minibatch_size has no effect where full_val is true"),
    (anything, "--offline_range 20", "negatives.offline_range has no effect without offline"),
    (anything, "--commit_steps 20", "cluster.commit_steps has no effect without elastic"),
])  # fmt: skip
def test_a_setting_without_effect_is_refused(
    reads: Reads, line: str, told: str, kinds: Kinds, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(line.split(), "x", kinds, "", evaluate_flags, reads)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("reads", "line"), [
    (measuring, "--split val --val_txt_db a --val_img_db b --ties mean --two_stage 9 --n_workers 0 --seed 3"),
    (measuring, "--scores m --folds 5 --output_dir o"),
    (measuring, "--rank_head_init always --precision bf16 --matcher uniter --hidden_size 8"),
    (mining, "--checkpoint w.pt --num_bb 9 --conf_th -1"),
    (training_on_batches, "--offline x --offline_range 9"),
    (training_on_pools, "--schedule step --decay_steps 9 --decay_factor 0.5"),
    (anything, "--full_val false --inf_minibatch_size 20"),
])  # fmt: skip
def test_what_is_read_is_taken(reads: Reads, line: str, kinds: Kinds) -> None:
    parse(line.split(), "x", kinds, "", evaluate_flags, reads)


@pytest.mark.parametrize("reads", [measuring, mining, training_on_batches, training_on_pools])
def test_a_file_may_hold_them_all(reads: Reads, kinds: Kinds, write: Write) -> None:
    path = write("run.json", {"optim": {"learning_rate": 1e-3, "decay_steps": 3}, "negatives": {"mine_after": 1}})
    parse([str(path), "--n_workers", "0"], "x", kinds, "", evaluate_flags, reads)


def test_every_place_that_is_read_is_a_setting(kinds: Kinds) -> None:
    run = Run.model_fields
    given = {"split": "val", "isda": False, "scores": [], "embeddings": None}
    places = {place for reads in (measuring, mining, training_on_batches, training_on_pools)
              for other in ({}, {"isda": True}, {"scores": ["m"]}, {"embeddings": "e"})
              for place in reads(Namespace(**given | other))}  # fmt: skip
    for place in places:
        section, _, leaf = place.partition(".")
        assert section in run, place
        if leaf:
            kind = run[section].annotation
            assert kind is not None
            assert leaf in kind.model_fields, place
    assert {place.rstrip(".") for place in ALL} == set(run)
