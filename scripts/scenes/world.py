"""What a scene is: objects with four attributes, joined by relations; and how confusable scenes are made from it.

Facts are the attributes of each object and one relation for each object but the first, to an earlier one. A
group is a base scene and others that differ from it in exactly one fact each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from data.draws import generator

COLOURS = {
    "red": (206, 40, 44),
    "orange": (242, 136, 30),
    "yellow": (246, 218, 58),
    "green": (48, 156, 66),
    "blue": (48, 88, 204),
    "purple": (132, 58, 168),
    "pink": (246, 138, 184),
    "brown": (124, 76, 40),
    "black": (30, 30, 34),
    "white": (246, 246, 244),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart")
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZES = ("small", "large")
ATTRIBUTES = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES, "size": SIZES}
RELATIONS = ("left", "right", "above", "below")
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}

GRID = 3  # objects stand in the cells of a GRID x GRID board
OBJECT_COUNTS = (2, 3, 4, 5)
OBJECT_SHARES = (0.25, 0.35, 0.25, 0.15)
CHANGES = ("colour", "shape", "texture", "size", "relation")
CHANGE_SHARES = (0.22, 0.2, 0.14, 0.14, 0.3)


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    colour: str
    shape: str
    texture: str
    size: str


@dataclass(frozen=True)
class Relation:
    """`subject` stands `side` of `reference`; both are positions in the scene's list of objects."""

    subject: int
    side: str
    reference: int


@dataclass(frozen=True)
class Difference:
    """The one fact in which a scene differs from the base of its group."""

    kind: str  # an attribute's name, or "relation"
    thing: int
    base: str
    here: str


@dataclass(frozen=True)
class Scene:
    """Objects, the relations that hold, the board cell of each object, and the fact that sets it apart."""

    things: tuple[Thing, ...]
    relations: tuple[Relation, ...]
    cells: tuple[int, ...]
    difference: Difference | None = None

    def facts(self) -> dict[tuple[int, str], str]:
        """(object, attribute) -> value, and (object, "relation") -> side and reference."""
        facts = {(n, name): getattr(thing, name) for n, thing in enumerate(self.things) for name in ATTRIBUTES}
        return facts | {(r.subject, "relation"): f"{r.side} {r.reference}" for r in self.relations}


def make_group(seed: int, split: int, group: int, size: int) -> list[Scene]:
    """The scenes of one group: a base, and size - 1 that differ from it in one fact, each in another way."""
    rng = generator(seed, "scene group", split, group)
    base = _make_base(rng)
    scenes = [base]
    while len(scenes) < size:
        scene = _vary(base, rng)
        if scene is not None and all(scene.facts() != other.facts() for other in scenes):
            scenes.append(scene)
    return scenes


def _make_base(rng: np.random.Generator) -> Scene:
    while True:
        count = int(rng.choice(OBJECT_COUNTS, p=OBJECT_SHARES))
        things = tuple(
            Thing(*(str(rng.choice(ATTRIBUTES[name])) for name in ("colour", "shape", "texture", "size")))
            for _ in range(count)
        )
        relations = tuple(Relation(n, str(rng.choice(RELATIONS)), int(rng.integers(n))) for n in range(1, count))
        boards = _boards(count, relations)
        if _nameable(things) and len(boards):
            return Scene(things, relations, tuple(boards[rng.integers(len(boards))].tolist()))


def _nameable(things: tuple[Thing, ...]) -> bool:
    """Whether colour and shape together single out each object, so that captions can point at it."""
    return len({(thing.colour, thing.shape) for thing in things}) == len(things)


def _vary(base: Scene, rng: np.random.Generator) -> Scene | None:
    """The base with one fact drawn anew; None where the result is not a clear scene."""
    kind = str(rng.choice(CHANGES, p=CHANGE_SHARES))
    if kind == "relation":
        return _vary_relation(base, int(rng.integers(len(base.relations))), rng)
    number = int(rng.integers(len(base.things)))
    old = getattr(base.things[number], kind)
    new = str(rng.choice([value for value in ATTRIBUTES[kind] if value != old]))
    thing = replace(base.things[number], **{kind: new})
    things = (*base.things[:number], thing, *base.things[number + 1 :])
    if not _nameable(things):
        return None
    return replace(base, things=things, difference=Difference(kind, number, old, new))


def _vary_relation(base: Scene, which: int, rng: np.random.Generator) -> Scene | None:
    """One relation turned, half of the time into its opposite; as many objects as possible stay where they are."""
    old = base.relations[which]
    others = [side for side in RELATIONS if side != old.side]
    side = INVERSE[old.side] if rng.random() < 0.5 else str(rng.choice(others))
    relations = (*base.relations[:which], replace(old, side=side), *base.relations[which + 1 :])
    boards = _boards(len(base.things), relations)
    if not len(boards):
        return None
    moved = (boards != np.array(base.cells)).sum(1)
    boards = boards[moved == moved.min()]
    cells = tuple(boards[rng.integers(len(boards))].tolist())
    difference = Difference("relation", old.subject, f"{old.side} {old.reference}", f"{side} {old.reference}")
    return replace(base, relations=relations, cells=cells, difference=difference)


def _boards(count: int, relations: tuple[Relation, ...]) -> NDArray[np.intp]:
    """All ways [ways, count] to put the objects into cells so that every relation is plain to see."""
    boards = _all_boards(count)
    row, column = np.divmod(boards, GRID)
    fits = np.ones(len(boards), bool)
    for relation in relations:
        right = column[:, relation.subject] - column[:, relation.reference]
        down = row[:, relation.subject] - row[:, relation.reference]
        along, across = (right, down) if relation.side in ("left", "right") else (down, right)
        forward = along if relation.side in ("right", "below") else -along
        fits &= forward > np.abs(across)
    return boards[fits]


@cache
def _all_boards(count: int) -> NDArray[np.intp]:
    return np.array(list(permutations(range(GRID * GRID), count)), np.intp)
