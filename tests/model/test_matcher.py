"""model/matcher.py: systems found by name, and sides that can be cut and joined."""

from __future__ import annotations

import pytest
import torch

from config.errors import ConfigError
from model.matcher import Side, build, find
from model.uniter import Config, Uniter
from tests.samples import batch_for, lively, small, texts_of


def test_a_matcher_is_found_by_the_name_of_its_file() -> None:
    assert find("uniter") is Uniter
    assert isinstance(build(Config(hidden_size=12, num_hidden_layers=1, vocab_size=9, img_dim=4)), Uniter)


@pytest.mark.parametrize("name", ["unitre", "", "uniter.nothing"])
def test_an_unknown_matcher_names_the_file_that_is_missing(name: str) -> None:
    with pytest.raises(ConfigError, match=r"model/.*\.py"):
        find(name)


def test_a_file_without_a_matcher_is_no_matcher() -> None:
    with pytest.raises(ConfigError, match=r"model/loading.py holds no Matcher"):
        find("loading")
    with pytest.raises(ConfigError, match=r"model/matcher.py holds no Matcher"):
        find("matcher")


def test_a_broken_import_inside_a_matcher_is_not_called_a_missing_matcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'flash'", name="flash")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="flash"):
        find("uniter")


def test_sides_are_cut_and_joined_again() -> None:
    tokens = texts_of([3, 5, 4], 20)
    side = Side(tokens, torch.arange(6.0).view(3, 2))
    parts = [side.slice(0, 1), side.slice(1, 3)]
    whole = Side.cat(parts)
    assert [len(part) for part in parts] == [1, 2]
    assert torch.equal(whole.rows.values, tokens.values)
    assert torch.equal(whole.rows.offsets, tokens.offsets)
    assert whole.pooled is not None
    assert torch.equal(whole.pooled, side.pooled)


def test_a_side_of_pooled_vectors_has_no_rows() -> None:
    side = Side(pooled=torch.zeros(4, 2))
    assert len(side) == len(side.slice(1, 4)) + 1 == 4
    with pytest.raises(ValueError, match="pooled vectors only"):
        side.rows  # noqa: B018


def test_scores_are_images_by_texts() -> None:
    """Rows are images, columns are texts: each cell is the score of its own pair."""
    matcher = lively(small("uniter"))
    batch = batch_for(matcher, [2, 4, 3], [4, 6])
    with torch.no_grad():
        scores = matcher(batch).scores["match"]
        sides = matcher.encode_image(batch.images), matcher.encode_text(batch.texts)
        one = matcher.score_pairs(*sides, torch.tensor([2]), torch.tensor([1]))
    assert scores.shape == (3, 2)
    torch.testing.assert_close(scores[2, 1], one[0])
