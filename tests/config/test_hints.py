from __future__ import annotations

import pytest

from config.hints import did_you_mean

KNOWN = ["data", "optim.optim", "optim.learning_rate", "matcher.hidden_size"]
FLAGS = ["--ramp", "--train_batch_size", "--keep", "--val_txt_db", "--val_img_db", "--max_bb", "--max_txt_len",
         "--max_word", "--max_position_embeddings"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("learning_rate", "optim.learning_rate"),
        ("data.learning_rate", "optim.learning_rate"),
        ("optim.lerning_rate", "optim.learning_rate"),
        ("dta", "data"),
        ("matchr.hidden_size", "matcher.hidden_size"),
    ],
)
def test_the_nearest_known_name_is_offered(word: str, meant: str) -> None:
    assert did_you_mean(word, KNOWN, "-") == f"did you mean {meant}?"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--train_batch", "--train_batch_size"),
        ("--train-batch-siz", "--train_batch_size"),
        ("--keep_best", "--keep"),
        ("--val", "--val_img_db or --val_txt_db"),
        ("--rmap", "--ramp"),
    ],
)
def test_a_name_that_is_cut_short_or_longer_counts_before_one_spelt_alike(word: str, meant: str) -> None:
    assert did_you_mean(word, FLAGS, "-") == f"did you mean {meant}?"


@pytest.mark.parametrize("word", ["--lr", "--max", "--ra", "--gap", "--te"])
def test_letters_shared_by_chance_or_by_many_offer_nothing(word: str) -> None:
    assert did_you_mean(word, FLAGS, "look it up") == "look it up"


def test_a_far_name_gets_the_other_remedy() -> None:
    assert did_you_mean("zzz", KNOWN, "look it up") == "look it up"
    assert did_you_mean("zzz", [], "look it up") == "look it up"
