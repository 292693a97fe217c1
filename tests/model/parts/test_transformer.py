"""model/parts/transformer.py: packed attention is padded attention without the padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from model.parts.transformer import Encoder, EncoderLayer, Packing, attend, attend_first, attend_jagged

LENGTHS = torch.tensor([1, 2, 2, 5, 5, 5, 9])
WIDTH, HEADS = 12, 3


def encoder(depth: int = 3, dropout: float = 0.0, attention_dropout: float = 0.0, activation: str = "gelu") -> Encoder:
    torch.manual_seed(0)
    stack = Encoder(depth, lambda: EncoderLayer(WIDTH, HEADS, 20, activation, dropout, attention_dropout))
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.5)
    return stack


def packed(width: int = WIDTH) -> Tensor:
    return torch.randn(int(LENGTHS.sum()), width, generator=torch.Generator().manual_seed(1))


def padded_attention(qkv: Tensor, lengths: Tensor) -> Tensor:
    """The same by rectangles: scores of padding are minus infinity, and its rows are cut out at the end."""
    rows = qkv.split(lengths.tolist())
    box = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    mask = torch.arange(box.shape[1]) < lengths[:, None]
    query, key, value = box.permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    weight = scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1)
    return (weight @ value).transpose(1, 2).flatten(2)[mask]


def test_runs_are_stretches_of_equal_length() -> None:
    packing = Packing(LENGTHS)
    assert packing.runs == [(1, 1), (2, 2), (5, 3), (9, 1)]
    parts = list(packing.split(packed()))
    assert [tuple(part.shape[:2]) for part in parts] == [(1, 1), (2, 2), (3, 5), (1, 9)]
    assert torch.equal(torch.cat([part.flatten(0, 1) for part in parts]), packed())


def test_packed_attention_is_padded_attention() -> None:
    qkv = packed(3 * WIDTH).view(-1, 3, HEADS, WIDTH // HEADS).double()
    torch.testing.assert_close(attend(qkv, Packing(LENGTHS), 0.0), padded_attention(qkv, LENGTHS))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_jagged_attention_is_bucketed_attention() -> None:
    """The path for CUDA devices, run here by the same call on the CPU."""
    qkv = packed(3 * WIDTH).view(-1, 3, HEADS, WIDTH // HEADS)
    torch.testing.assert_close(attend_jagged(qkv, Packing(LENGTHS), 0.0), attend(qkv, Packing(LENGTHS), 0.0))


def test_gradients_of_packed_attention_are_those_of_padded_attention() -> None:
    start = packed(3 * WIDTH).view(-1, 3, HEADS, WIDTH // HEADS).double()
    grads = []
    for way in (lambda x: attend(x, Packing(LENGTHS), 0.0), lambda x: padded_attention(x, LENGTHS)):
        qkv = start.clone().requires_grad_()
        way(qkv).square().sum().backward()
        grads.append(qkv.grad)
    torch.testing.assert_close(*grads)


def test_a_sequence_sees_nothing_of_its_neighbours() -> None:
    stack, x, packing = encoder(), packed(), Packing(LENGTHS)
    other = x.clone()
    start, end = packing.offsets[3:5]
    other[start:end] += 1
    *_, before = stack.states(x, packing)
    *_, after = stack.states(other, packing)
    changed = (before != after).any(1).nonzero().flatten()
    assert changed.tolist() == list(range(int(start), int(end)))


@pytest.mark.parametrize("activation", ["gelu", "relu", "swish"])
def test_the_first_token_shortcut_is_the_whole_encoder_at_the_first_token(activation: str) -> None:
    stack, x, packing = encoder(activation=activation), packed(), Packing(LENGTHS)
    *_, whole = stack.states(x, packing)
    torch.testing.assert_close(first_of(stack, x, packing), whole[packing.offsets[:-1]])


def test_a_single_layer_may_be_the_last() -> None:
    stack, x, packing = encoder(depth=1), packed(), Packing(LENGTHS)
    *_, whole = stack.states(x, packing)
    torch.testing.assert_close(first_of(stack, x, packing), whole[packing.offsets[:-1]])


def test_known_projections_of_the_first_layer_change_nothing() -> None:
    stack, x, packing = encoder(), packed(), Packing(LENGTHS)
    projected = stack.layers[0].qkv(x)  # type: ignore[operator]
    torch.testing.assert_close(first_of(stack, x, packing, projected), first_of(stack, x, packing), rtol=0, atol=0)
    *_, given = stack.states(x, packing, projected)
    *_, plain = stack.states(x, packing)
    torch.testing.assert_close(given, plain, rtol=0, atol=0)


def test_first_attention_is_the_first_row_of_full_attention() -> None:
    qkv, packing = packed(3 * WIDTH).view(-1, 3, HEADS, WIDTH // HEADS), Packing(LENGTHS)
    first = packing.offsets[:-1]
    mixed = attend_first(qkv[first][:, :1], qkv[:, 1:], packing, 0.0)
    torch.testing.assert_close(mixed, attend(qkv, packing, 0.0)[first])


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout"])
@pytest.mark.parametrize("way", ["states", "first"])
def test_dropout_acts_in_training_and_only_there(kind: str, way: str) -> None:
    stack, x, packing = encoder(**{kind: 0.5}), packed(), Packing(LENGTHS)

    def out() -> Tensor:
        return first_of(stack, x, packing) if way == "first" else list(stack.states(x, packing))[-1]

    exact = first_of(encoder(), x, packing) if way == "first" else list(encoder().states(x, packing))[-1]
    stack.eval()
    assert torch.equal(out(), exact)
    stack.train()
    torch.manual_seed(1)
    noisy = out()
    assert not torch.allclose(noisy, exact, atol=1e-3)
    torch.manual_seed(1)
    assert torch.equal(out(), noisy)


def test_attention_dropout_keeps_the_mean() -> None:
    qkv, packing = packed(3 * WIDTH).view(-1, 3, HEADS, WIDTH // HEADS), Packing(LENGTHS)
    torch.manual_seed(0)
    mean = torch.stack([attend(qkv, packing, 0.3) for _ in range(1000)]).mean(0)
    torch.testing.assert_close(mean, attend(qkv, packing, 0.0), atol=0.14, rtol=0)


def first_of(stack: Encoder, x: Tensor, packing: Packing, qkv: Tensor | None = None) -> Tensor:
    """The last layer's output at the first token of each sequence, `[n, width]`."""
    return stack.top.first(stack.below(x, packing, qkv), packing)
