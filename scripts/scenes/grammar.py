"""The words of captions: synonyms of every value, templates, and the vocabulary that covers them."""

from __future__ import annotations

from collections.abc import Iterable

SYNONYMS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "cobalt"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "brown": ("brown", "chocolate"),
    "black": ("black", "inky"),
    "white": ("white", "ivory"),
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "diamond": ("diamond", "rhombus"),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "heart": ("heart",),
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "chequered"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
}
TEXTURED = {
    "plain": "in one colour",
    "striped": "with stripes",
    "dotted": "with dots",
    "checked": "with a checked pattern",
}
SIDES = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "higher up than"),
    "below": ("below", "under", "lower down than"),
}
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}
OPENERS = (
    "there is {a} {side} {b}",
    "{a} is {side} {b}",
    "{a} sits {side} {b}",
    "{a} can be seen {side} {b}",
    "in this picture {a} is {side} {b}",
    "we see {a} {side} {b}",
    "{side} {b} there is {a}",
    "{all} : {a} is {side} {b}",
    "{all} , where {a} is {side} {b}",
    "{count} shapes : {all} ; {a} lies {side} {b}",
    "a picture of {all} , with {a} {side} {b}",
    "{count} objects , {all} , and {a} is {side} {b}",
)
FOLLOWERS = (", and {a} is {side} {b}", ", with {a} {side} {b}", "; {a} is {side} {b}", ". {a} is {side} {b}")
CLOSERS = (". there is also {all}", "; also {all}", ", and {all} somewhere else")
JOINTS = (", and", ", with")  # once a caption is enough
MARKS = ".,;:"


def vocabulary() -> list[str]:
    """WordPiece vocabulary of the grammar: special pieces, printable ASCII whole and as continuations, all words."""
    letters = [chr(code) for code in range(33, 127)]
    sources: list[Iterable[str]] = [*SYNONYMS.values(), *SIDES.values(), OPENERS, FOLLOWERS, CLOSERS]
    sources += [TEXTURED.values(), COUNTS.values(), ("a", "an", "the", "and")]
    found = {word for lines in sources for line in lines for word in line.split() if word.isalpha()}
    words = sorted(found | {word.capitalize() for word in found})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *("##" + letter for letter in letters), *words]
    return list(dict.fromkeys(pieces))
