from __future__ import annotations

from typing import Any

import pytest

from config.assemble import COMMON, Kinds, section_types
from config.command.flags import Parser, add_leaves, build_parser
from config.errors import ConfigError
from config.leaves import DEFAULT_KINDS, flatten


def parser_for(kinds: Kinds, **choice: str) -> Parser:
    parser = build_parser("program", "what it does", kinds)
    add_leaves(
        parser, section_types(flatten({kind: {"name": name} for kind, name in choice.items()}, ""), kinds)
    )
    return parser


def read(kinds: Kinds, line: str, **choice: str) -> dict[str, Any]:
    return {key: given.value for key, given in parser_for(kinds, **choice).read(line.split()).given.items()}


@pytest.mark.parametrize(
    ("line", "leaves"),
    [
        ("--learning_rate 3e-5", {"optim.learning_rate": 3e-5}),
        ("--learning-rate=.5", {"optim.learning_rate": 0.5}),
        ("--grad_norm -1", {"optim.grad_norm": -1}),
        ("--betas 0.8 1", {"optim.betas": [0.8, 1]}),
        ('--rate_factors ["text.",0.1] ["vision",2]', {"optim.rate_factors": [["text.", 0.1], ["vision", 2]]}),
        ("--decay_at 3 5", {"optim.decay_at": [3, 5]}),
        ("--seed 7 --max_bb 3", {"seed": 7, "data.max_bb": 3}),
        ("--full_val false", {"eval.full_val": False}),
        ("--full-val True", {"eval.full_val": True}),
        ("--full_val --seed 1", {"eval.full_val": True, "seed": 1}),
        ("--train_txt_dbs a b --train_img_dbs", {"data.train_txt_dbs": ["a", "b"], "data.train_img_dbs": []}),
        ("--output_dir 17", {"output.output_dir": "17"}),
        ("--ties mean", {"eval.ties": "mean"}),
        ("--n_workers many", {"data.n_workers": "many"}),
        ("--margin 0.3", {"objective.margin": 0.3}),
        ("--matcher towers", {"matcher.name": "towers"}),
        ("--IAIS singular", {"objective.IAIS": "singular"}),
        ("--set matcher.hidden_size=64", {"matcher.hidden_size": 64}),
        ('--set data.train_txt_dbs=["a"] --set a.b=c=d', {"data.train_txt_dbs": ["a"], "a.b": "c=d"}),
        ('--set matcher={"hidden_size":64}', {"matcher.hidden_size": 64}),
        ("--max_bb 3 --set data.max_bb=4", {"data.max_bb": 4}),
        ("--set data.max_bb=4 --max-bb 3", {"data.max_bb": 3}),
    ],
)
def test_flags_become_leaves(line: str, leaves: dict[str, Any], kinds: Kinds) -> None:
    assert read(kinds, line) == leaves


def test_every_leaf_of_the_common_sections_has_a_flag(kinds: Kinds) -> None:
    usage = parser_for(kinds).format_help()
    assert [leaf for kind in COMMON.values() for leaf in kind.model_fields if f"--{leaf} " not in usage] == []


def test_the_help_says_what_each_flag_means_and_its_default(kinds: Kinds) -> None:
    usage = " ".join(parser_for(kinds).format_help().split())
    assert "--learning_rate X peak learning rate, reached at the end of the warm-up (default: 5e-05)" in usage
    assert "--ties {pessimistic,optimistic,mean,index}" in usage
    assert "negatives: who an anchor is set against" in usage
    assert "objective: a margin between a pair and its negatives --margin X" in usage


def test_the_flags_of_a_matcher_are_those_of_the_chosen_one(kinds: Kinds) -> None:
    assert read(kinds, "--hidden_size 64") == {"matcher.hidden_size": 64}
    assert read(kinds, "--width 4 --optim adam", matcher="towers") == {
        "matcher.width": 4,
        "optim.optim": "adam",
    }
    with pytest.raises(ConfigError, match="--hidden_size is not a flag"):
        read(kinds, "--hidden_size 64", matcher="towers")
    with pytest.raises(ConfigError, match="--part is not a flag"):
        read(kinds, "--part 1", matcher="towers")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lerning_rate 1", r"--lerning_rate is not a flag: did you mean --learning_rate\?"),
        ("--xyzzy", "--xyzzy is not a flag: --help lists all flags"),
        ("--fp16", "--fp16 is a published flag; here it is --precision"),
        ("--dropout=0", "here it is --hidden_dropout_prob and --attention_probs_dropout_prob"),
        ("--local-rank=1", "leave it out: ranks are read from the launcher"),
        ("--tsa linear", r"--tsa comes with --IAIS; give that too"),
        ("--mlp 2", "is a published flag that cannot be honoured: the ranking head is one linear layer"),
        ("--learning_rate", "expected one argument"),
        ("--betas 0.9", "expected 2 arguments"),
        ("--set learning_rate", "should be KEY=VALUE"),
        ("--set =3", "should be KEY=VALUE"),
        ("stray", "unrecognized arguments: stray"),
        ("--learning 1", r"--learning is not a flag: did you mean --learning_rate\?"),
        ("--lr 1", "--lr is a name of other trainers: here it is --learning_rate"),
        ("--batch-size=8", "--batch-size is a name of other trainers: train_batch_size is the batch of each rank"),
        ("-b 8", "-b is a name of other trainers: train_batch_size"),
        ("-np 2 --seed 1", "-np is a name of other trainers: the launcher starts one rank for each GPU"),
    ],
)
def test_wrong_flags_are_refused(line: str, message: str, kinds: Kinds) -> None:
    with pytest.raises(ConfigError, match=message):
        read(kinds, line)


def test_the_first_reading_leaves_other_flags_alone(kinds: Kinds) -> None:
    args = build_parser("program", "", kinds).read_known(
        ["--split", "val", "--config", "a.json", "--objective=hinge", "--grad_norm", "-1"]
    )
    assert args.config == "a.json"
    assert args.given["objective.name"].value == "hinge"
    assert {f"--{kind}" for kind in DEFAULT_KINDS} == {"--matcher", "--objective"}
