"""train/mining/lists.py, scan.py, cut.py and full.py together: the lists of a float64 search, however they are cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import DataError
from tests.mined import CPU, owners, searched, task
from train.mining import lists as module
from train.mining import running_top_k
from train.mining.exact import Shortlists
from train.mining.filters import Ceilings
from train.mining.lists import Direction, Task, finish_lists, mine_lists, split_lists
from train.mining.scan import Found, is_due
from train.mining.screen import choose_screen
from train.mining.tile_layout import TileLayout


def same(one: Task, kind: str = "float32", tile_bytes: int = 1 << 12) -> bool:
    """Whether the miner finds what the search does."""
    found = mine_lists(one, choose_screen(one.images, one.texts, kind, CPU), tile_bytes)
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(found[:2], searched(one), strict=True))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tile_bytes", [1 << 10, 1 << 13, 1 << 20])
def test_every_screen_and_tile_gives_the_same(kind: str, tile_bytes: int) -> None:
    assert same(task(), kind, tile_bytes)
    assert same(task(width=70, wanted=(1, 1)), kind, tile_bytes)


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_many_equal_scores(kind: str) -> None:
    one = task(steps=1, width=3)
    table = one.images.double() @ one.texts.double().T
    assert len(table.unique()) < table.numel() / 20
    assert same(one, kind, 1 << 11)


def test_embeddings_that_have_collapsed_are_ordered_by_place() -> None:
    one = task(images=30, texts=400, wanted=(25, 9))
    one = replace(one, images=torch.ones(30, 4), texts=torch.full((400, 4), 0.5))
    assert same(one, "float16", 1 << 12)


def test_nearly_equal_scores_are_told_apart() -> None:
    """Texts that differ in the last bits of float32: their products do so in float64 alone."""
    one = task(images=12, texts=200, wanted=(60, 5), width=33)
    texts = one.texts[:1] + 1e-7 * one.texts
    assert len((one.images[:1] @ texts.T).unique()) < 150, "float32 does not tell them apart"
    assert same(replace(one, texts=texts), "float32", 1 << 12)


@settings(max_examples=25)
@given(st.integers(2, 30), st.integers(0, 90), st.integers(0, 99), st.sampled_from([0, 1, 4]), st.data())
def test_any_task(images: int, more: int, seed: int, steps: int, data: st.DataObject) -> None:
    texts = images + more
    one = task(images, texts, (1, 1), 5, seed, steps)
    left = [int(counts.min()) for counts in one.left()]
    if min(left) < 1:
        return
    wanted = data.draw(st.integers(1, left[0])), data.draw(st.integers(1, left[1]))
    kind = data.draw(st.sampled_from(["float32", "float16"]))
    assert same(replace(one, wanted=wanted), kind, data.draw(st.sampled_from([1 << 9, 1 << 12, 1 << 16])))


def test_lost_bets_are_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_top_k, "SPREAD", -1.0)
    one = task(images=60, texts=700, wanted=(50, 12), width=8)
    lost: list[int] = []
    whole = running_top_k.RunningTopK.finish

    def counted(self: running_top_k.RunningTopK, wanted: torch.Tensor) -> tuple[Shortlists, torch.Tensor, torch.Tensor]:
        found = whole(self, wanted)
        lost.append(len(found[2]))
        return found

    monkeypatch.setattr(running_top_k.RunningTopK, "finish", counted)
    assert same(one, "float32", 1 << 13)
    assert sum(lost) > 10


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("margin", [-0.5, 0.0, 1.0])
def test_a_margin_below_the_positive(kind: str, margin: float) -> None:
    """Also where scores lie on the ceiling itself: they count."""
    for steps in (0, 2):
        one = task(images=30, texts=300, wanted=(3, 1), width=12, steps=steps)
        owner = owners(30, 300)
        # Every pair's own score is high enough that candidates are left below it.
        images = torch.nn.functional.normalize(one.images) if not steps else one.images
        texts = images[torch.from_numpy(owner)] + 0.5 * one.texts
        one = replace(one, images=images, texts=texts)
        one = replace(one, ceilings=Ceilings.below(images, texts, owner, margin))
        allowed = one.images.double() @ one.texts.double().T
        allowed[one.excluded.image, one.excluded.text] = torch.inf
        if int((allowed <= one.ceilings.images[:, None]).sum(1).min()) < 3 or \
                int((allowed <= one.ceilings.texts[None]).sum(0).min()) < 1:
            with pytest.raises(DataError, match="score far enough below its positive"):
                same(one, kind)
            continue
        assert same(one, kind)


def test_too_few_below_the_ceiling_are_told() -> None:
    one = task(images=10, texts=40, wanted=(5, 2))
    ceilings = Ceilings(torch.full((10,), 1e9, dtype=torch.float64), torch.full((40,), -1e9, dtype=torch.float64))
    with pytest.raises(DataError, match=r"text \d+ \(counted from 0\) has only 0 candidates that score far enough "
                                        r"below its positive, 2 are wanted; lower --score_margin$"):
        same(replace(one, ceilings=ceilings))


def test_exact_scores() -> None:
    one = task()
    found = mine_lists(one, choose_screen(one.images, one.texts, "float16", CPU), 1 << 12, scored=True)
    table = (one.images.double() @ one.texts.double().T).numpy()
    np.testing.assert_allclose(found[2], np.take_along_axis(table, found[0].astype(int), 1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found[3], np.take_along_axis(table.T, found[1].astype(int), 1), rtol=1e-6, atol=1e-7)
    assert found[0].dtype == np.int32
    assert (np.diff(found[2], axis=1) <= 0).all()


def test_half_precision_operands_are_compared_as_they_are() -> None:
    one = task(texts=900, wanted=(300, 7), width=40)
    rounded = replace(one, images=one.images.half(), texts=one.texts.half())
    found = mine_lists(rounded, choose_screen(rounded.images, rounded.texts, "float32", CPU), 1 << 12)
    assert np.array_equal(found[0], searched(rounded)[0])
    assert not np.array_equal(found[0], searched(one)[0])


@given(st.integers(0, 50), st.integers(1, 2000), st.integers(1, 1100), st.booleans())
def test_a_cut_holds_every_row_once(start: int, size: int, most: int, aligned: bool) -> None:
    cut = TileLayout.of(range(start, start + size), most, aligned)
    rows = [list(cut.rows(part)) for part in range(cut.parts)]
    assert sorted(row for held in rows for row in held) == list(range(start, start + size))
    assert max(map(len, rows)) <= min(most, cut.padded)
    for part, held in enumerate(rows):
        found = cut.find(np.array(held, dtype=np.int64))
        assert (found[0] == part).all()
        assert found[1].tolist() == list(range(len(held)))


def test_wide_lists_are_cut_off_from_narrow_ones() -> None:
    counts = torch.tensor([2, 2, 100, 2, 2, 2])
    whole = Shortlists.of(counts, torch.arange(110))
    parts = list(split_lists(whole, 100))
    assert [start for start, _ in parts] == sorted(start for start, _ in parts)
    assert torch.equal(torch.cat([part.chosen for _, part in parts]), whole.chosen)
    assert torch.equal(torch.cat([part.counts for _, part in parts]), counts)
    assert max(len(part) * int(part.counts.max()) for _, part in parts) == 100


def test_floors_are_raised_ever_less_often() -> None:
    assert [done for done in range(1, 101) if is_due(done, 100)] == [1, 4, 16, 64]
    assert not is_due(16, 16)


def test_short_lists_are_ordered_where_the_device_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from the host, out of files; the queries do not stay there."""
    one, seen = task(images=10, texts=30, wanted=(4, 2)), []

    def watched(queries: torch.Tensor, pool: torch.Tensor, given: Shortlists, most: int, *_: object) -> object:
        assert pool.device == CPU, "of the pool only a part at a time moves"
        seen.append([queries.device.type, given.chosen.device.type, given.offsets.device.type])
        return torch.zeros(len(queries), most), torch.zeros(len(queries), most), torch.full((len(queries),), most)

    monkeypatch.setattr(module, "order_exactly", watched)
    scan = one.scan(range(10), choose_screen(one.images, one.texts, "float32", CPU), 1 << 12)
    found: list[Found] = []
    while not scan.done:
        block = scan.step()
        found += [block] if block else []
    assert all(value.device == CPU for one in found for value in (one.lists.chosen, one.lower, one.upper))
    finish_lists(Direction.both(one)[0], found, torch.device("meta"), 1 << 12, lambda *_: None, scored=False)
    assert seen
    assert all(kinds == ["meta"] * 3 for kinds in seen)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_a_gpu_finds_the_same(kind: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    one = task(images=300, texts=900, wanted=(20, 7), width=64)
    found = mine_lists(one, choose_screen(one.images, one.texts, kind, torch.device("cuda")), 1 << 14)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(found[:2], searched(one), strict=True))
