"""Captions of scenes: varied templates and synonyms, and for every noun phrase the objects that it names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from scripts.scenes.grammar import (
    CLOSERS,
    COUNTS,
    FOLLOWERS,
    JOINTS,
    MARKS,
    OPENERS,
    SIDES,
    SYNONYMS,
    TEXTURED,
)
from scripts.scenes.world import INVERSE, Relation, Scene

SAY = {"size": 0.55, "texture": 0.7, "plain": 0.12, "relation": 0.4}
SAY_FOCUS = 0.93  # for a fact that sets the scene apart from others of its group
MOST_RELATIONS = 3  # in one caption: longer ones are a strain to read
DROP = 0.25  # of leaving one object out of a caption, where there are four or five


@dataclass
class Phrase:
    """Words [start, end) of the caption, counted between blanks, and the objects they name."""

    start: int
    end: int
    objects: list[int]


@dataclass
class Caption:
    """A caption, its noun phrases, and the relations it states (subject, side, reference)."""

    words: list[str] = field(default_factory=list)
    phrases: list[Phrase] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def write_captions(
    scene: Scene, focus: Iterable[tuple[int, str]], rng: np.random.Generator, count: int = 5
) -> list[Caption]:
    """Captions of a scene, all different, each from another opening.

    Args:
        focus: facts (object, attribute or "relation") to be mentioned nearly always.
    """
    captions: list[Caption] = []
    openers = rng.permutation(len(OPENERS))
    turn = 0
    while len(captions) < count:
        caption = _Writer(scene, frozenset(focus), rng).write(OPENERS[openers[turn % len(openers)]])
        if all(caption.text != other.text for other in captions):
            captions.append(caption)
        turn += 1
    return captions


class _Writer:
    """One caption in the making: what to mention, and the words for it, are drawn once."""

    def __init__(self, scene: Scene, focus: frozenset[tuple[int, str]], rng: np.random.Generator) -> None:
        self.scene, self.focus, self.rng = scene, focus, rng
        self.caption = Caption()
        self.named: set[int] = set()
        self.definite = False
        self.joints: set[str] = set()
        self.dropped = self._draw_dropped()
        self.relations = self._draw_relations()
        self.colours = [self._word(thing.colour) for thing in scene.things]
        self.nouns = [self._word(thing.shape) for thing in scene.things]

    def write(self, opener: str) -> Caption:
        self.definite = opener.startswith("{a}") and self.rng.random() < 0.5
        self.joints = {joint for joint in JOINTS if joint in opener}
        self._fill(opener, self.relations[0])
        for relation in self.relations[1:]:
            self._fill(self._next_joint(FOLLOWERS), relation)
        self.definite = False
        if self._unnamed():
            self._fill(self._next_joint(CLOSERS))
        self._mark(".")
        words = self.caption.words
        for at, word in enumerate(words):
            if at == 0 or words[at - 1].endswith("."):
                words[at] = word[0].upper() + word[1:]
        return self.caption

    def _next_joint(self, templates: tuple[str, ...]) -> str:
        """A template that does not join on the words of one before, as long as there is such a one."""
        free = [template for template in templates if not any(joint in template for joint in self.joints)]
        chosen = str(self.rng.choice(free or templates))
        self.joints |= {joint for joint in JOINTS if joint in chosen}
        return chosen

    def _draw_dropped(self) -> int | None:
        """An object to leave out: one that nothing else refers to and that the group does not turn on."""
        references = {relation.reference for relation in self.scene.relations} | {n for n, _ in self.focus}
        leaves = [n for n in range(len(self.scene.things)) if n not in references]
        if len(self.scene.things) < 4 or not leaves or self.rng.random() > DROP:
            return None
        return int(self.rng.choice(leaves))

    def _draw_relations(self) -> list[Relation]:
        """Relations to state, at least one, some the other way round."""
        possible = [r for r in self.scene.relations if r.subject != self.dropped]
        stated = [r for r in possible if self._says("relation", r.subject)]
        if not stated:
            stated = [possible[self.rng.integers(len(possible))]]
        stated = sorted(stated, key=lambda r: (r.subject, "relation") not in self.focus)[:MOST_RELATIONS]
        turned = self.rng.random(len(stated)) < 0.4
        return [
            Relation(r.reference, INVERSE[r.side], r.subject) if turn else r
            for r, turn in zip(stated, turned, strict=True)
        ]

    def _says(self, kind: str, number: int, fact: str | None = None) -> bool:
        share = SAY_FOCUS if (number, fact or kind) in self.focus else SAY[kind]
        return bool(self.rng.random() < share)

    def _word(self, value: str) -> str:
        """A word for a value; the usual one more often than the others."""
        words = SYNONYMS[value]
        return words[0] if self.rng.random() < 0.5 else str(self.rng.choice(words))

    def _unnamed(self) -> list[int]:
        return [n for n in range(len(self.scene.things)) if n not in self.named and n != self.dropped]

    def _fill(self, template: str, relation: Relation | None = None) -> None:
        for word in template.split():
            if word == "{all}":
                self._list(self._unnamed())
            elif word == "{count}":
                self._count()
            elif relation is not None and word in ("{a}", "{b}"):
                self._name(relation.subject if word == "{a}" else relation.reference)
            elif relation is not None and word == "{side}":
                self.caption.words += str(self.rng.choice(SIDES[relation.side])).split()
                self.caption.relations.append(relation)
            elif word in MARKS:
                self._mark(word)
            else:
                self.caption.words.append(word)

    def _mark(self, mark: str) -> None:
        self.caption.words[-1] += mark

    def _list(self, numbers: list[int]) -> None:
        for place, number in enumerate(numbers):
            if place:
                if place == len(numbers) - 1:
                    self.caption.words.append("and")
                else:
                    self._mark(",")
            self._name(number)

    def _count(self) -> None:
        """How many objects the caption names; the next word of the template closes the phrase."""
        named = [n for n in range(len(self.scene.things)) if n != self.dropped]
        start = len(self.caption.words)
        self.caption.words.append(COUNTS[len(named)])
        self.caption.phrases.append(Phrase(start, start + 2, named))

    def _name(self, number: int) -> None:
        start = len(self.caption.words)
        self.caption.words += self._again(number) if number in self.named else self._first(number)
        self.named.add(number)
        self.caption.phrases.append(Phrase(start, len(self.caption.words), [number]))

    def _first(self, number: int) -> list[str]:
        thing = self.scene.things[number]
        kind = "plain" if thing.texture == "plain" else "texture"
        size = [self._word(thing.size)] if self._says("size", number) else []
        before, after = [], []
        if self._says(kind, number, "texture"):
            if self.rng.random() < 0.25:
                after = TEXTURED[thing.texture].split()
            else:
                before = [self._word(thing.texture)]
        words = [*size, *before, self.colours[number], self.nouns[number], *after]
        return ["the" if self.definite else _article(words[0]), *words]

    def _again(self, number: int) -> list[str]:
        thing = self.scene.things[number]
        alone = [other.shape for other in self.scene.things].count(thing.shape) == 1
        if alone and self.rng.random() < 0.6:
            return ["the", self.nouns[number]]
        return ["the", self.colours[number], self.nouns[number]]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
