"""train/mining/settings.py: flags that say what they mean, and refuse what cannot be meant."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import pytest

from config.errors import ConfigError
from train.mining.settings import Settings, flags, settings_of


def parsed(*words: str) -> Settings:
    parser = ArgumentParser()
    flags(parser)
    return settings_of(parser.parse_args(words))


def test_the_defaults_are_those_of_training() -> None:
    assert parsed() == Settings()
    assert (Settings().texts_per_image, Settings().images_per_text) == (300, 60)


def test_every_flag_arrives() -> None:
    found = parsed("--texts_per_image", "20", "--images_per_text", "8", "--name", "f30k", "--operands", "float16",
                   "--screen", "bfloat16", "--max_tile_bytes", "8192", "--save_seconds", "0", "--leave_out_same_words",
                   "--extra_pairs", "more.tsv", "--score_margin", "0.1", "--exact_scores", "--shortlist", "50",
                   "--keep_embeddings", "--overwrite")
    assert found == Settings(20, 8, "f30k", "float16", "bfloat16", 8192, 0.0, True, Path("more.tsv"), 0.1, True, 50,
                             True, True)
    assert found.shortlisted_images == 20


@pytest.mark.parametrize(("words", "told"), [
    (("--texts_per_image", "0"), r"--texts_per_image 0 is too small; give at least 1"),
    (("--images_per_text", "-1"), r"--images_per_text -1 is too small"),
    (("--max_tile_bytes", "100"), r"--max_tile_bytes 100 is too small; give at least 4096"),
    (("--save_seconds", "-1"), r"--save_seconds -1\.0 is too small; give at least 0"),
    (("--name", "a/b"), r"--name 'a/b' is no part of a file name"),
])
def test_what_cannot_be_meant(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parsed(*words)
