"""Phrases and their boxes: packed with a caption as objects, and matched to regions again.

An annotation says which words of a caption name which boxes of its picture. A record keeps this as `objects`: for
each thing named, the positions of its WordPiece ids and its boxes as shares of the picture's width and height.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from config.errors import DataError
from data.records.regions import normalise_boxes

Box = tuple[float, float, float, float]

SAME = 0.9  # overlap (intersection over union) from which a region counts as the annotated box
PACK_AGAIN = "pack the captions again with scripts/build_txtdb.py"


class Objects(NamedTuple):
    """The objects of a caption and its image; positions ascend and are padded with -1.

    Attributes:
        words: [k, *] positions among the caption's WordPiece ids, [CLS] not counted.
        regions: [k, *] positions among the image's regions.
    """

    words: NDArray[np.int64]
    regions: NDArray[np.int64]


# ---------------------------------------------------------------- packing


def pack_objects(
    phrases: Sequence[Mapping[str, Any]], image_size: Any, offsets: Sequence[int], where: str
) -> list[dict[str, Any]]:
    """The `objects` of a caption's record: {"words": positions, "boxes": [[x1, y1, x2, y2], ...]} each.

    Phrases of one entity, or with the same boxes, are one object. Phrases without a box are left out, and so are
    objects whose words yield no piece.

    Args:
        phrases: {"start", "end", "boxes"} and perhaps "entity" each: words [start, end), boxes in pixels.
        image_size: width and height of the picture; may be None if no phrase has a box.
        offsets: [words + 1] where the pieces of each whitespace word begin and end (`WordPiece.word_offsets`).
        where: the caption, for errors.

    Raises:
        DataError: a phrase lies outside the caption or a box outside the picture; names caption and phrase (from 0).
    """
    boxes = phrase_boxes(phrases, image_size, where)
    named: dict[Any, tuple[set[int], dict[Box, None]]] = {}
    for number, (phrase, found) in enumerate(zip(phrases, boxes, strict=True)):
        start, end = _span(phrase, len(offsets) - 1, f"{where}, phrase {number}")
        if found:
            entity = phrase.get("entity")
            pieces, of_entity = named.setdefault(frozenset(found) if entity is None else entity, (set(), {}))
            pieces.update(range(offsets[start], offsets[end]))
            of_entity.update(dict.fromkeys(found))
    objects: dict[frozenset[Box], tuple[set[int], list[Box]]] = {}
    for pieces, of_entity in named.values():
        objects.setdefault(frozenset(of_entity), (set(), list(of_entity)))[0].update(pieces)
    return [
        {"words": sorted(pieces), "boxes": [list(box) for box in found]} for pieces, found in objects.values() if pieces
    ]


def check_phrases(phrases: Sequence[Mapping[str, Any]], image_size: Any, words: int, where: str) -> None:
    """Raise the DataError of `pack_objects` for phrases that do not fit a caption of so many words, or its picture."""
    phrase_boxes(phrases, image_size, where)
    for number, phrase in enumerate(phrases):
        _span(phrase, words, f"{where}, phrase {number}")


def phrase_boxes(phrases: Sequence[Mapping[str, Any]], image_size: Any, where: str) -> list[tuple[Box, ...]]:
    """Each phrase's boxes as shares of width and height, rounded to float32; equal boxes are equal tuples.

    Raises:
        DataError: boxes are no lists of four numbers, reach outside the picture or are turned inside out, or the
            picture's size is not known.
    """
    boxes = [_boxes(phrase, f"{where}, phrase {number}") for number, phrase in enumerate(phrases)]
    counts = [len(found) for found in boxes]
    if not sum(counts):
        return [() for _ in boxes]
    size, corners = _size(image_size, where), np.concatenate(boxes)
    low, high = corners[:, :2], corners[:, 2:]
    wrong = ~((low >= 0) & (low <= high) & (high <= size)).all(1)
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(
            f"{where}, phrase {np.repeat(np.arange(len(counts)), counts)[at]}: box {_shown(corners[at])} reaches "
            f"outside the picture of {size[0]:g} x {size[1]:g} or is turned inside out; give x1 y1 x2 y2 in pixels"
        )
    shares = iter(normalise_boxes(corners, *size)[:, :4].tolist())
    return [tuple(tuple(next(shares)) for _ in range(count)) for count in counts]


def _boxes(phrase: Any, where: str) -> NDArray[np.float64]:
    """A phrase's boxes [n, 4] as they are given."""
    if not isinstance(phrase, Mapping) or not isinstance(phrase.get("boxes"), list):
        raise DataError(f"{where} has no list of boxes; give an empty one to phrases that name nothing visible")
    try:
        boxes = np.array(phrase["boxes"] or np.empty((0, 4)), dtype=np.float64)
    except (TypeError, ValueError):
        boxes = np.empty(0)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f"{where}: boxes {phrase['boxes']} are not lists of four numbers; give x1 y1 x2 y2 in pixels")
    return boxes


def _size(image_size: Any, where: str) -> NDArray[np.float64]:
    try:
        width, height = map(float, image_size)
    except (TypeError, ValueError):
        width = height = 0.0
    if not (0 < width < np.inf and 0 < height < np.inf):
        raise DataError(
            f"{where} has boxes, but the size of its picture is {image_size or 'not given'}; give width and height"
        )
    return np.array([width, height])


def _span(phrase: Mapping[str, Any], words: int, where: str) -> tuple[int, int]:
    """The words [start, end) of a phrase."""
    start, end, entity = phrase.get("start"), phrase.get("end"), phrase.get("entity")
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= words):
        raise DataError(
            f"{where}: words {start} to {end} of a caption of {words} words; give start and end with "
            "0 <= start < end <= number of words, counting words between blanks"
        )
    if not isinstance(entity, str | int | None):
        raise DataError(f"{where}: entity {entity} is neither a name nor a number; give one, or leave it out")
    return start, end


def _shown(box: NDArray[np.floating]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in box.tolist()) + "]"


# ---------------------------------------------------------------- reading


def read_objects(record: Mapping[str, Any], boxes: NDArray[np.float32], where: str) -> Objects | None:
    """The objects of a caption's record, with their boxes found among the regions of its image.

    Args:
        record: the caption's record from a text store.
        boxes: [n, 7] of the image's regions as the image store gives them, x1 y1 x2 y2 first.
        where: the caption, for errors.

    Returns:
        None for a record without `objects`: its source had no phrases. There may also be none. Objects whose boxes
        are the same regions are one.

    Raises:
        DataError: a box is not among the regions, or a word not in the caption.
    """
    objects = record.get("objects")
    if objects is None:
        return None
    owner, words = _flat(objects, "words", where)
    length = len(record["input_ids"])
    if words.ndim != 1 or not np.issubdtype(words.dtype, np.integer) or ((words < 0) | (words >= length)).any():
        raise DataError(f"{where}: its objects name words that are not among its {length} ids; {PACK_AGAIN}")
    belongs = np.zeros((len(objects), length), dtype=bool)
    belongs[owner, words] = True

    owner, wanted = _flat(objects, "boxes", where)
    if wanted.shape != (len(wanted), 4) or not np.issubdtype(wanted.dtype, np.number):
        raise DataError(f"{where}: the boxes of its objects are not four numbers each; {PACK_AGAIN}")
    sees = np.zeros((len(objects), len(boxes)), dtype=bool)
    sees[owner, _find(wanted, boxes[:, :4], owner, where)] = True
    return Objects(*map(_listed, _distinct(belongs, sees)))


def _distinct(belongs: NDArray[np.bool_], sees: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Objects that are the same regions are one, with the words of all, in order of first appearance."""
    if not len(sees):
        return belongs, sees
    _, first, group = np.unique(sees, axis=0, return_index=True, return_inverse=True)
    words = np.zeros((len(first), belongs.shape[1]), dtype=bool)
    np.logical_or.at(words, group.reshape(-1), belongs)
    order = np.argsort(first)
    return words[order], sees[first[order]]


def _flat(objects: Any, name: str, where: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The words or boxes of all objects one after the other, and the object that each belongs to."""
    try:
        lists = [found[name] for found in objects]
        if not all(lists):
            raise ValueError(f"object {[bool(found) for found in lists].index(False)} has none")
        owner = np.repeat(np.arange(len(lists)), [len(found) for found in lists])
        flat = np.array([value for found in lists for value in found])
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{where}: the {name} of its objects cannot be read ({error}); {PACK_AGAIN}") from error
    if lists:
        return owner, flat
    return np.zeros(0, np.int64), np.zeros(0, np.int64) if name == "words" else np.zeros((0, 4))


def _find(
    wanted: NDArray[Any], regions: NDArray[np.float32], owner: NDArray[np.int64], where: str
) -> NDArray[np.int64]:
    """The region [m] that overlaps each wanted box [m, 4] best."""
    # Stores keep boxes in half precision, which moves the edges of a small box by a good part of its width.
    shared = overlaps(wanted.astype(np.float16), regions)
    best = shared.max(1, initial=0)
    absent = ~(best >= SAME)
    if absent.any():
        at = int(absent.argmax())
        raise DataError(
            f"{where}: box {_shown(wanted[at])} of object {owner[at]} is none of the image's {len(regions)} regions "
            f"(best overlap {best[at]:.3f}); build the image store from the annotated boxes: scripts/build_imgdb.py "
            "jpeg PICTURES --captions FILE --annotated_boxes --keep_all"
        )
    return shared.argmax(1) if len(wanted) else np.zeros(0, np.int64)


def overlaps(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union [m, n] of boxes [m, 4] and [n, 4]; equal boxes have 1 even without an area."""
    a, b = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    shared = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0).prod(2)
    union = (a[..., 2:] - a[..., :2]).prod(2) + (b[..., 2:] - b[..., :2]).prod(2) - shared
    return np.where((a == b).all(2), 1.0, shared / np.maximum(union, np.finfo(np.float64).tiny))


def _listed(members: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The true positions of each row, ascending, padded with -1: [k, n] to [k, most in a row]."""
    order = np.argsort(~members, axis=1, kind="stable")[:, : members.sum(1).max(initial=0)]
    return np.where(np.take_along_axis(members, order, 1), order, -1)
