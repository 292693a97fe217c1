"""VSRN against its formulas, an image and a text at a time, and what its settings change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batches.batch import Batch, Images, Ragged
from model.parts.captioning import Targets
from model.vsrn import BLOCKS, Vsrn
from tests.samples import batch_for, images_of, lively, small, texts_of

REGIONS, WORDS = [3, 7, 1, 7, 4], [4, 9, 3, 5, 5, 8]


def vsrn(**settings: Any) -> Vsrn:
    """Small, in double precision, every part of it live."""
    model = lively(small("vsrn", **settings))
    assert isinstance(model, Vsrn)
    return model.double()


def images() -> Images:
    return images_of(REGIONS, 16, half=False)


def reference_images(model: Vsrn, features: Ragged) -> tuple[Tensor, Tensor]:
    """(embeddings `[n, d]`, regions after the graph, packed); no image sees another but in batch norms."""
    config, state = model.config, dict(model.named_parameters()) | dict(model.named_buffers())
    lengths = features.lengths.tolist()

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def batch_norm(x: Tensor, name: str) -> Tensor:
        mean, variance = (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        if model.training:
            mean, variance = x.mean(0), x.var(0, unbiased=False)
        return (x - mean) / torch.sqrt(variance + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]

    def over_regions(parts: list[Tensor]) -> list[Tensor]:
        return [part / part.square().sum(0).sqrt() for part in parts]

    parts = list(linear(features.values.double(), "regions").split(lengths))
    if config.variant == "C":
        parts = over_regions(parts)
    for block in (f"graph.{number}" for number in range(1, BLOCKS + 1)):
        heard = []
        for part in parts:
            affinity = linear(part, f"{block}.theta") @ linear(part, f"{block}.phi").T / len(part)
            heard.append(linear(affinity @ linear(part, f"{block}.g"), f"{block}.out"))
        added = batch_norm(torch.cat(heard), f"{block}.norm").split(lengths)
        parts = [part + more for part, more in zip(parts, added, strict=True)]
    parts = over_regions(parts)
    embedding = torch.cat([model.region_rnn(part[None])[1][0] for part in parts])
    if config.variant == "F":
        embedding = batch_norm(embedding, "image_norm")
    if not config.no_imgnorm:
        embedding = embedding / embedding.square().sum(1, keepdim=True).sqrt()
    return embedding.abs() if config.use_abs else embedding, torch.cat(parts)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("settings", [{}, {"variant": "F"}, {"no_imgnorm": True, "use_abs": True}])
def test_images_are_the_formulas_with_their_gradients(settings: dict[str, Any], training: bool) -> None:
    model, batch = vsrn(**settings).train(training), images()
    side = model.encode_image(batch)
    embedding, regions = reference_images(model, batch.features)
    assert side.pooled is not None
    torch.testing.assert_close(side.pooled, embedding)
    if training:
        torch.testing.assert_close(side.rows.values, regions)
        assert torch.equal(side.rows.offsets, batch.features.offsets)
    parameters = [p for n, p in model.named_parameters() if n.startswith(("regions.", "graph.", "region_rnn."))]
    cotangent = torch.randn(embedding.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = torch.autograd.grad((side.pooled * cotangent).sum(), parameters)
    theirs = torch.autograd.grad((embedding * cotangent).sum(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_equal_and_unequal_numbers_of_regions_are_one_computation() -> None:
    model, five = vsrn(), images_of([5, 5, 5], 16)
    wider = Images(Ragged.cat([five.features, images_of([8], 16).features]), torch.zeros(23, 7))
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(wider).pooled[:3], model.encode_image(five).pooled)


@pytest.mark.parametrize("layers", [1, 2])
def test_texts_are_the_last_state_of_their_own_length(layers: int) -> None:
    model, texts = vsrn(num_layers=layers, use_abs=True), texts_of(WORDS, 60)
    found = model.encode_text(texts).pooled
    rows = [model.word_rnn(model.words(text)[None])[0][0, -1] for text in texts.values.split(WORDS)]
    torch.testing.assert_close(found, F.normalize(torch.stack(rows)).abs())


def test_scores_are_dot_products_in_single_precision_at_least() -> None:
    model = lively(small("vsrn"))
    batch = batch_for(model, REGIONS, WORDS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        image, text = model.encode_image(batch.images), model.encode_text(batch.texts)
        found = model.score(image, text)
        pairs = model.score_pairs(image, text, torch.tensor([1, 0]), torch.tensor([5, 2]))
    assert image.pooled is not None
    assert text.pooled is not None
    assert found.dtype == pairs.dtype == torch.float32
    torch.testing.assert_close(found, image.pooled @ text.pooled.T)
    torch.testing.assert_close(pairs, found[[1, 0], [5, 2]])


def test_the_order_of_regions_matters() -> None:
    model, batch = vsrn(), images()
    turned = Images(Ragged(batch.features.values[:3].flip(0), batch.features.offsets[:2]), batch.boxes[:3])
    with torch.no_grad():
        exact, found = model.encode_image(batch).pooled, model.encode_image(turned).pooled
    assert exact is not None
    assert not torch.allclose(found[0], exact[0], atol=1e-3)  # type: ignore[index]


def test_channels_of_zeros_are_no_trouble() -> None:
    model = vsrn()
    torch.nn.init.zeros_(model.regions.bias)
    batch = images_of([4, 3], 16, half=False)
    batch.features.values.zero_()
    for block in model.graph.values():
        torch.nn.init.zeros_(block.norm.bias)
    side = model.train().encode_image(batch)
    assert side.pooled is not None
    side.pooled.sum().backward()
    assert torch.isfinite(side.pooled).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_graph_starts_as_the_identity() -> None:
    model = small("vsrn").double()
    assert isinstance(model, Vsrn)
    features = images().features
    embedded = model.regions(features.values.double())
    normed = torch.cat([F.normalize(part, dim=0) for part in embedded.split(REGIONS)])
    torch.testing.assert_close(model.reason(Ragged(embedded, features.offsets)).values, normed)


def test_weights_start_as_published() -> None:
    model = small("vsrn", vocab_size=500, img_dim=40, embed_size=80)
    assert isinstance(model, Vsrn)
    bound = (6 / 120) ** 0.5
    assert 0.95 * bound < float(model.regions.weight.detach().abs().max()) <= bound
    assert not model.regions.bias.any()
    assert 0.095 < float(model.words.weight.detach().abs().max()) <= 0.1


def test_the_norm_may_run_over_each_regions_features() -> None:
    model = vsrn(region_norm_axis="features").train()
    norms = model.encode_image(images()).rows.values.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_regions_are_kept_for_the_captions_only() -> None:
    assert vsrn().eval().encode_image(images()).tokens is None
    assert vsrn(caption_weight=0.0).train().encode_image(images()).tokens is None
    assert len(vsrn().train().encode_image(images()).rows) == len(REGIONS)


def pairs_of(model: Vsrn) -> tuple[Batch, Tensor, Tensor, Tensor]:
    text = torch.tensor([5, 0, 2, 1])
    return batch_for(model, REGIONS, WORDS), text % len(REGIONS), text, torch.arange(4)


def test_captions_are_those_of_the_pairs() -> None:
    model = vsrn().train()
    batch, image, text, keys = pairs_of(model)
    side = model.encode_image(batch.images)
    found = model.aux(side, batch.texts, image, text, keys)
    assert model.caption is not None
    one = [
        model.caption(side.rows, image[[k]], Targets.of(batch.texts.select(text[[k]]), 7), keys[[k]]).loss
        for k in range(4)
    ]
    assert found.keys() == {"caption"}
    torch.testing.assert_close(found["caption"], torch.stack(one).mean())


def test_captions_weigh_what_they_are_told_to() -> None:
    losses = []
    for weight in (1.0, 0.5):
        model = vsrn(caption_weight=weight).train()
        batch, *rest = pairs_of(model)
        losses.append(model.aux(model.encode_image(batch.images), batch.texts, *rest)["caption"])
    torch.testing.assert_close(losses[1], 0.5 * losses[0])


def test_without_captions_there_is_no_branch_and_no_loss() -> None:
    model = vsrn(caption_weight=0.0).train()
    batch, *rest = pairs_of(model)
    assert model.aux(model.encode_image(batch.images), batch.texts, *rest) == {}
    assert not any(name.startswith("caption") for name in model.state_dict())


def test_every_weight_learns_from_scores_and_captions() -> None:
    model = vsrn(variant="F").train()
    batch, *rest = pairs_of(model)
    side = model.encode_image(batch.images)
    caption = model.aux(side, batch.texts, *rest)["caption"]
    (model.score(side, model.encode_text(batch.texts)).cos().sum() + caption).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_captions_teach_the_image_encoder_up_to_the_graph() -> None:
    model = vsrn().train()
    batch, *rest = pairs_of(model)
    model.aux(model.encode_image(batch.images), batch.texts, *rest)["caption"].backward()
    assert model.graph["1"].theta.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
    assert model.region_rnn.weight_ih_l0.grad is None


def test_activations_beyond_half_precision_stay_finite() -> None:
    """Without a norm in front, four cubic blocks soon leave what half precision can hold."""
    model, batch = lively(small("vsrn", variant="F")), images()
    assert isinstance(model, Vsrn)
    batch.features.values.mul_(0.6)
    largest: list[float] = []
    model.graph["3"].register_forward_hook(lambda _, __, out: largest.append(float(out.values.abs().max())))
    with torch.no_grad():
        exact = model.encode_image(batch).pooled
        with torch.autocast("cpu", torch.float16):
            found = model.encode_image(batch).pooled
    assert found is not None
    assert min(largest) > 65504
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0.05)
