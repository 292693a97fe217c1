"""What every matcher promises, whatever it computes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from config.errors import DataError
from data.batches.batch import Batch, Images, Pool, Ragged
from model import conversion, published_names
from model.loading import Loaded, load
from model.matcher import Matcher, Side, build, find
from model.objective import build_objective, find_objective
from tests.contract.conftest import with_a_subclass_of
from tests.samples import batch_for, lively, small
from train.loop.step import compute_losses

SYSTEMS = with_a_subclass_of("Matcher", "model")
no_cast = partial(torch.autocast, "cpu", enabled=False)
REGIONS, WORDS = [3, 7, 1, 7, 4], [4, 9, 3, 5, 5, 8]


def test_there_are_systems() -> None:
    assert "uniter" in SYSTEMS
    assert all(find(name).__module__ == f"model.{name}" for name in SYSTEMS)


@pytest.fixture(params=SYSTEMS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def matcher(name: str) -> Matcher:
    """In evaluation mode, with weights that make every part count."""
    return lively(small(name))


@pytest.fixture
def batch(matcher: Matcher) -> Batch:
    """Every image with every text."""
    return batch_for(matcher, REGIONS, WORDS)


def scores(matcher: Matcher, batch: Batch) -> Tensor:
    with torch.no_grad():
        return next(iter(matcher(batch).scores.values()))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_it_is_built_from_its_own_settings(name: str, matcher: Matcher) -> None:
    kind = find(name)
    assert kind.settings.model_fields["name"].default == name
    again = build(kind.settings.model_validate(matcher.config.model_dump()))  # type: ignore[union-attr, operator]
    assert type(again) is kind
    assert again.state_dict().keys() == matcher.state_dict().keys()


def test_its_heads_say_their_kind(matcher: Matcher, batch: Batch) -> None:
    assert matcher.heads
    assert set(matcher.heads.values()) <= {"dot", "late", "joint"}
    assert set(matcher(batch).scores) <= set(matcher.heads)


def test_it_states_what_it_takes(matcher: Matcher, batch: Batch) -> None:
    assert batch.images.features.values.shape[-1] == matcher.image_dim
    assert int(batch.texts.values.max()) < matcher.vocab_size
    assert matcher.longest_text is None or matcher.longest_text >= max(WORDS)


def test_scores_are_images_by_texts_and_say_something(matcher: Matcher, batch: Batch) -> None:
    found = scores(matcher, batch)
    assert found.shape == (len(REGIONS), len(WORDS))
    assert found.std() > 1e-2


def test_a_pairs_score_knows_nothing_of_its_company(matcher: Matcher, batch: Batch) -> None:
    """Padding invariance, for a house without padding: longer and shorter neighbours change nothing."""
    together = scores(matcher, batch)
    for image in range(len(REGIONS)):
        for text in range(len(WORDS)):
            alone = batch.select(torch.tensor([image]), torch.tensor([text]))
            close(scores(matcher, alone)[0, 0], together[image, text])


def test_the_order_of_a_batch_changes_nothing(matcher: Matcher, batch: Batch) -> None:
    images, texts = torch.tensor([4, 0, 3, 1, 2]), torch.tensor([2, 5, 0, 4, 1, 3])
    turned = batch.select(images, texts)
    close(scores(matcher, turned), scores(matcher, batch)[images][:, texts])


def test_the_order_of_regions_changes_nothing(matcher: Matcher, batch: Batch) -> None:
    """Regions are a set: their boxes, where a matcher looks at them, say where they are."""
    if matcher.ordered_regions:
        pytest.skip("its regions are a sequence: it reads them in the order in which they are stored")
    source = torch.Generator().manual_seed(0)
    offsets = batch.images.features.offsets
    rows = torch.cat([start + torch.randperm(int(end - start), generator=source) for start, end in pairwise(offsets)])
    images = Images(Ragged(batch.images.features.values[rows], offsets), batch.images.boxes[rows])
    close(scores(matcher, replace(batch, images=images)), scores(matcher, batch))


def test_the_order_of_words_matters(matcher: Matcher, batch: Batch) -> None:
    words = batch.texts.values.clone()
    start, end = batch.texts.offsets[1:3]
    words[start + 1 : end - 1] = words[start + 1 : end - 1].flip(0)
    turned = scores(matcher, replace(batch, texts=Ragged(words, batch.texts.offsets)))
    exact = scores(matcher, batch)
    assert not torch.allclose(turned[:, 1], exact[:, 1], atol=1e-4)
    close(turned[:, [0, 2, 3, 4, 5]], exact[:, [0, 2, 3, 4, 5]])


def test_forward_is_encoding_and_scoring_and_nothing_more(matcher: Matcher, batch: Batch) -> None:
    with torch.no_grad():
        images, texts = matcher.encode_image(batch.images), matcher.encode_text(batch.texts)
        out = matcher(batch)
        assert torch.equal(matcher.score(images, texts), next(iter(out.scores.values())))
    assert len(out.images) == len(images) == len(REGIONS)
    assert len(out.texts) == len(texts) == len(WORDS)


def test_pools_are_cells_of_the_whole(matcher: Matcher, batch: Batch) -> None:
    source = torch.Generator().manual_seed(0)
    image, text = torch.randint(5, (4, 3), generator=source), torch.randint(6, (4, 3), generator=source)
    pooled = scores(matcher, replace(batch, pool=Pool.of(image, text, batch.texts.lengths, "t")))
    assert pooled.shape == (4, 3)
    close(pooled, scores(matcher, batch)[image, text])


def test_blocks_are_the_whole(matcher: Matcher, batch: Batch) -> None:
    whole = scores(matcher, batch)
    with torch.no_grad():
        images = [matcher.encode_image(batch.images.select(part)) for part in torch.arange(5).split(2)]
        texts = [matcher.encode_text(batch.texts.select(part)) for part in torch.arange(6).split(4)]
        blocks = torch.cat([torch.cat([matcher.score(image, text) for text in texts], 1) for image in images])
        joined, others = Side.cat(images), Side.cat(texts)
        close(matcher.score(joined, others), whole)
        close(matcher.score(joined.slice(1, 4), others.slice(2, 6)), whole[1:4, 2:6])
    close(blocks, whole)


def test_pairs_are_cells_of_the_whole_in_any_order(matcher: Matcher, batch: Batch) -> None:
    image, text = torch.tensor([4, 0, 0, 3, 4]), torch.tensor([5, 5, 0, 2, 5])
    with torch.no_grad():
        images, texts = matcher.encode_image(batch.images), matcher.encode_text(batch.texts)
        found = matcher.score_pairs(images, texts, image, text)
    close(found, scores(matcher, batch)[image, text])


def test_a_batch_of_one(matcher: Matcher) -> None:
    assert scores(matcher, batch_for(matcher, [1], [3])).shape == (1, 1)


@pytest.mark.parametrize("objective", with_a_subclass_of("Objective", "model/objective"))
def test_every_trainable_parameter_gets_a_gradient(objective: str, name: str) -> None:
    """Ranks wait for each other's gradients: one that never comes would hang them."""
    matcher = small(name).train()
    batch = batch_for(matcher, REGIONS, WORDS, anchors=4)
    wanted = build_objective(find_objective(objective).settings())  # type: ignore[call-arg]
    if not wanted.needs <= matcher.offers:
        pytest.skip(f"{objective} needs {', '.join(wanted.needs - matcher.offers)}, which {name} does not offer")
    compute_losses(matcher, wanted, batch, 0.5, no_cast, anchors=4).total.backward()
    silent = [key for key, p in matcher.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    frozen = [key for key, p in matcher.named_parameters() if not p.requires_grad and p.grad is not None]
    assert frozen == []


def test_training_with_the_same_draws_is_the_same_to_the_bit(name: str) -> None:
    found = []
    for _ in range(2):
        matcher = small(name).train()
        torch.manual_seed(3)
        out = matcher(batch_for(matcher, REGIONS, WORDS, anchors=4))
        next(iter(out.scores.values())).sum().backward()
        found.append([p.grad for p in matcher.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_evaluation_draws_nothing(matcher: Matcher, batch: Batch) -> None:
    before = torch.random.get_rng_state()
    assert torch.equal(scores(matcher, batch), scores(matcher, batch))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_is_saved_and_loaded_to_the_bit(name: str, matcher: Matcher, batch: Batch, tmp_path: Path) -> None:
    save_file(matcher.state_dict(), tmp_path / "model.safetensors")
    other = small(name, seed=8)
    found = load(other, name, load_file(tmp_path / "model.safetensors"))
    assert found == Loaded([], [])
    assert torch.equal(scores(other.eval(), batch), scores(matcher, batch))


def test_published_names_make_the_round_trip(name: str, matcher: Matcher) -> None:
    if name not in published_names.TABLES:
        pytest.skip("there is no published checkpoint of this system")
    published = conversion.to_published(name, matcher.state_dict())
    other = small(name, seed=8)
    assert load(other, name, published) == Loaded([], [])
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in matcher.state_dict().items())


def test_weights_of_another_shape_are_refused(name: str, matcher: Matcher) -> None:
    state = dict(matcher.state_dict())
    key = next(iter(state))
    state[key] = torch.zeros(*state[key].shape, 2)
    with pytest.raises(DataError, match=key.replace(".", r"\.")):
        load(small(name), name, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_is_finite_and_near_in_half_precision(dtype: torch.dtype, matcher: Matcher, batch: Batch) -> None:
    exact = scores(matcher, batch)
    with torch.autocast("cpu", dtype):
        half = scores(matcher, batch)
    assert half.dtype == torch.float32, "half precision has too few values to rank by"
    assert torch.isfinite(half).all()
    assert (half - exact).abs().max() < 0.2 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_its_gradients_are_finite_in_half_precision(dtype: torch.dtype, name: str) -> None:
    matcher = small(name).train()
    with torch.autocast("cpu", dtype):
        out = matcher(batch_for(matcher, REGIONS, WORDS, anchors=4))
    next(iter(out.scores.values())).float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in matcher.parameters() if p.grad is not None)


def test_features_of_any_stored_type_are_taken(matcher: Matcher, batch: Batch) -> None:
    if matcher.takes_pictures:
        pytest.skip("its pictures are bytes; floating pixels mean normalised ones")
    features = batch.images.features
    wide = replace(batch.images, features=Ragged(features.values.float(), features.offsets))
    close(scores(matcher, replace(batch, images=wide)), scores(matcher, batch))


def test_the_input_is_left_as_it_was(matcher: Matcher, batch: Batch) -> None:
    before = [batch.images.features.values.clone(), batch.images.boxes.clone(), batch.texts.values.clone()]
    scores(matcher.train(), batch)
    after = [batch.images.features.values, batch.images.boxes, batch.texts.values]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
