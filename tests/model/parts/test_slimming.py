"""What a tile of LAPS decides: which patches are kept, what they are mixed to, who matches whom.

That scores and gradients are those of the equations is shown in `test_tiling.py`.
"""

from __future__ import annotations

import pytest
import torch

from model.parts.slimming import Captions, Pictures, Rule, Shapes, Tile, match_both_ways, mixing


@pytest.mark.parametrize(
    ("patches", "share", "count"), [(196, 0.5, 98), (49, 0.8, 40), (10, 0.7, 7), (5, 1.0, 5), (9, 0.01, 1)]
)
def test_the_share_that_is_kept_is_rounded_up(patches: int, share: float, count: int) -> None:
    rule = Rule(share)
    assert rule.kept(patches) == count
    assert rule.fuses(patches) == (count < patches)


def test_weights_are_shares_of_what_is_kept_and_of_what_is_not() -> None:
    kept = torch.tensor([[[True, False, True, False]]])
    weights = mixing(torch.zeros(1, 2, 4), torch.tensor([[[9.0, 1.0, 9.0, 1.0]]]), kept, fused=True)
    assert weights[0, 0].tolist() == [[0.5, 0, 0.5, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]]


def test_a_tile_shows_what_it_decided() -> None:
    source = torch.Generator().manual_seed(0)
    patches, logits, words = (torch.randn(size, generator=source) for size in ((4, 16, 12), (4, 3, 16), (6, 5, 12)))
    captions = Captions(words, torch.full((6,), 5), words.double().mean(1))
    tile = Tile(Shapes.of(Pictures(patches, logits, None)), captions, Rule(0.5))
    assert tile.kept.shape == (4, 6, 16)
    assert (tile.kept.sum(-1) == 8).all()
    assert tile.weights.shape == (4, 6, 3 + 1, 16)
    assert (tile.weights[:, :, :-1][~tile.kept[:, :, None].expand(-1, -1, 3, -1)] == 0).all()
    assert (tile.weights[:, :, -1][tile.kept] == 0).all()


def test_rows_that_are_not_there_find_no_word() -> None:
    cosines = torch.tensor([[0.9, 0.8], [0.2, 0.1]])
    words, rows = torch.tensor([True, True]), torch.tensor([False, True])
    assert match_both_ways(cosines, words, rows).item() == pytest.approx(0.15 + 0.2)
