"""Captions: phrases name what they say they name, relations stated are true, and captions single out their scene."""

from __future__ import annotations

import re

import numpy as np
import pytest

from data.draws import generator
from data.words.wordpiece import WordPiece
from scripts.scenes.grammar import COUNTS, SIDES, SYNONYMS, TEXTURED, vocabulary
from scripts.scenes.shard import focus_of
from scripts.scenes.words import Caption, Phrase, write_captions
from scripts.scenes.world import ATTRIBUTES, GRID, INVERSE, Relation, Scene, make_group

KIND = {value: kind for kind, values in ATTRIBUTES.items() for value in values}
VALUE = {word: value for value, words in SYNONYMS.items() for word in words}
PATTERN = {words: value for value, words in TEXTURED.items()}
Told = list[tuple[Scene, list[Caption]]]


@pytest.fixture(scope="module")
def told() -> Told:
    """Thirty groups with their captions."""
    pairs = []
    for number in range(30):
        group = make_group(0, 0, number, 4)
        for place, scene in enumerate(group):
            captions = write_captions(scene, focus_of(group, scene), generator(0, "test", number, place))
            pairs.append((scene, captions))
    return pairs


def words_of(caption: Caption, phrase: Phrase) -> list[str]:
    return [word.strip(".,;:").lower() for word in caption.words[phrase.start : phrase.end]]


def attributes(words: list[str]) -> dict[str, str]:
    """What the words of a noun phrase say, read back by the lexicon alone."""
    said = {KIND[VALUE[word]]: VALUE[word] for word in words if word in VALUE}
    for pattern, value in PATTERN.items():
        if " ".join(words).endswith(pattern):
            said["texture"] = value
    return said


def test_five_different_captions(told: Told) -> None:
    for _, captions in told:
        assert len({caption.text for caption in captions}) == len(captions) == 5


def test_each_phrase_says_what_its_object_is(told: Told) -> None:
    for scene, captions in told:
        for caption in captions:
            for phrase in caption.phrases:
                words = words_of(caption, phrase)
                if words[0] in COUNTS.values():
                    assert words[0] == COUNTS[len(phrase.objects)]
                    assert words[1] in ("shapes", "objects")
                    continue
                (number,) = phrase.objects
                said = attributes(words)
                assert "shape" in said
                assert said.items() <= vars(scene.things[number]).items()
                assert words[0] in ("a", "an", "the")


def test_no_noun_is_outside_a_phrase(told: Told) -> None:
    nouns = {word for value in ATTRIBUTES["shape"] for word in SYNONYMS[value]}
    for _, captions in told:
        for caption in captions:
            inside = {at for phrase in caption.phrases for at in range(phrase.start, phrase.end)}
            found = {at for at, word in enumerate(caption.words) if word.strip(".,;:").lower() in nouns}
            assert found <= inside


def test_stated_relations_are_facts_and_stand_in_the_text(told: Told) -> None:
    for scene, captions in told:
        facts = set(scene.relations)
        for caption in captions:
            assert caption.relations
            for stated in caption.relations:
                turned = Relation(stated.reference, INVERSE[stated.side], stated.subject)
                assert stated in facts or turned in facts
                assert any(words in caption.text.lower() for words in SIDES[stated.side])


def test_the_differing_fact_is_mentioned_most_of_the_time(told: Told) -> None:
    mentioned = []
    for scene, captions in told:
        if scene.difference is None:
            continue
        thing, kind = scene.difference.thing, scene.difference.kind
        for caption in captions:
            if kind == "relation":
                fact = {r.reference for r in scene.relations if r.subject == thing}
                pairs = [{r.subject, r.reference} for r in caption.relations]
                mentioned.append({thing, *fact} in pairs)
            else:
                said = [attributes(words_of(caption, p)) for p in caption.phrases if p.objects == [thing]]
                mentioned.append(any(kind in each for each in said))
    assert np.mean(mentioned) > 0.85


def test_captions_single_out_their_scene(told: Told) -> None:
    """An oracle that knows all true attributes and places finds the one scene that a caption fits."""
    found = [
        sum(fits(caption, other) for other, _ in told) == 1 and fits(caption, scene)
        for scene, captions in told
        for caption in captions
    ]
    assert np.mean(found) > 0.9


def fits(caption: Caption, scene: Scene) -> bool:
    said: dict[int, dict[str, str]] = {}
    for phrase in caption.phrases:
        if len(phrase.objects) == 1:
            said.setdefault(phrase.objects[0], {}).update(attributes(words_of(caption, phrase)))
    place = {}
    for number, values in said.items():
        hits = [at for at, thing in enumerate(scene.things) if values.items() <= vars(thing).items()]
        if not hits:
            return False
        place[number] = np.array(divmod(scene.cells[hits[0]], GRID))
    return all(seen_side(place[r.subject] - place[r.reference]) == r.side for r in caption.relations)


def seen_side(step: np.ndarray) -> str:
    down, right = step
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "below" if down > 0 else "above"


def test_captions_are_written_properly(told: Told) -> None:
    for _, captions in told:
        for caption in captions:
            assert caption.text[0].isupper()
            assert caption.text.endswith(".")
            assert not re.search(r"\s[.,;:]|[.,;:]{2}|\s\s|\ba [aeiou]|\ban [^aeiou]|\{|\}", caption.text)
            for first, second in zip(caption.words, caption.words[1:], strict=False):
                assert first.endswith(".") == second[0].isupper()


def test_vocabulary_covers_every_caption_with_whole_words(told: Told, tmp_path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(vocabulary()) + "\n")
    words = WordPiece(path)
    assert vocabulary()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(vocabulary())) == len(vocabulary())
    for _, captions in told:
        for caption in captions:
            pieces, ids = words.encode(caption.text)
            assert 1 not in ids
            assert not any("##" in piece for piece in pieces)
    assert 1 not in words.encode("Xylophones, quickly!")[1]


def test_a_caption_depends_on_its_key_alone() -> None:
    scene = make_group(0, 0, 0, 1)[0]
    first, again = (write_captions(scene, set(), generator(0, "test")) for _ in range(2))
    assert [caption.text for caption in first] == [caption.text for caption in again]
