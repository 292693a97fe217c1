"""data/draws.py: draws depend on their keys alone."""

from __future__ import annotations

from data.draws import generator, key


def test_the_same_key_draws_the_same_and_another_does_not() -> None:
    first = generator(1, "pool", 2, 3).integers(1 << 40, size=8).tolist()
    assert first == generator(1, "pool", 2, 3).integers(1 << 40, size=8).tolist()
    others = [generator(2, "pool", 2, 3), generator(1, "loop", 2, 3), generator(1, "pool", 23)]
    others.append(generator(1, "pool", 3, 2))
    assert all(first != other.integers(1 << 40, size=8).tolist() for other in others)


def test_keys_are_the_same_on_every_machine() -> None:
    assert key(42, "order-i", 0) == 112679178392478304294735363348442828077
