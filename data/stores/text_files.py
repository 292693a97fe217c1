"""The side files of a text store, validated on reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from config.errors import DataError
from config.wording import pluralise
from data.stores.seal import sealed_json
from data.words.wordpiece import Special

META, LENGTHS, OWNERS, LISTED = "meta.json", "id2len.json", "txt2img.json", "img2txts.json"
REMEDY = "pack the store again"


class SideFiles(NamedTuple):
    """What stands beside a store's records.

    Attributes:
        lengths: number of word ids by caption id, in the store's order.
        images: the image name of each caption, in that order.
        image_order: all image names.
    """

    meta: dict[str, Any]
    special: Special
    lengths: dict[str, int]
    images: list[str]
    image_order: list[str]


def read_side_files(folder: Path) -> SideFiles:
    """All of them.

    Raises:
        DataError: one is missing or holds something else, they disagree, or a caption has no word; names the file.
    """
    meta = _object(folder / META)
    special = _special(folder / META, meta)
    lengths = _object(folder / LENGTHS)
    _check(folder / LENGTHS, lengths, is_id, "lengths that are no whole numbers")
    _check_words(folder, lengths)
    owners = _object(folder / OWNERS)
    _check(folder / OWNERS, owners, lambda name: isinstance(name, str) and name != "", "images that are no names")
    images = [_image(folder / OWNERS, owners, id) for id in lengths]
    listed = _object(folder / LISTED)
    if unlisted := set(images) - listed.keys():
        raise DataError(f"{folder / LISTED} lacks {min(unlisted)}; {REMEDY}")
    return SideFiles(meta, special, lengths, images, list(listed))


def is_id(value: Any) -> bool:
    """Whether a value can be the id of a word, or a number of them: a whole number from 0."""
    return type(value) is int and 0 <= value < 1 << 31


def listed_images(folder: Path) -> dict[str, set[str]]:
    """By caption, the images under which `img2txts.json` lists it: one, where nothing is wrong.

    Raises:
        DataError: what stands under an image is no list of caption ids.
    """
    path = folder / LISTED
    content = _object(path)
    _check(path, content, _is_list_of_ids, "captions that are no lists of ids")
    found: dict[str, set[str]] = {}
    for image, captions in content.items():
        for caption in captions:
            found.setdefault(str(caption), set()).add(image)
    return found


def _is_list_of_ids(captions: Any) -> bool:
    return isinstance(captions, list) and all(isinstance(id, str) or is_id(id) for id in captions)


def _object(path: Path) -> dict[str, Any]:
    content = sealed_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object, but {_shown(content)}; {REMEDY}")
    return content


def _check(path: Path, content: Mapping[str, Any], right: Callable[[Any], bool], what: str) -> None:
    wrong = [id for id, value in content.items() if not right(value)]
    if wrong:
        raise DataError(f"{path} has {what}: {len(wrong)} of {len(content)}, such as {_shown(content[wrong[0]])} of "
                        f"{wrong[0]}; {REMEDY}")  # fmt: skip


def _check_words(folder: Path, lengths: Mapping[str, int]) -> None:
    empty = [id for id, length in lengths.items() if length < 1]
    if empty:
        names = ", ".join(empty[:3])
        raise DataError(f"{folder}: {pluralise(len(empty), 'caption')} without a word ({names}); leave them out")


def _image(path: Path, owners: Mapping[str, str], id: str) -> str:
    if id not in owners:
        raise DataError(f"{path} has no caption {id}; {REMEDY}")
    return owners[id]


def _special(path: Path, meta: Mapping[str, Any]) -> Special:
    absent = [name for name in ("v_range", "CLS", "SEP", "MASK") if name not in meta]
    if absent:
        raise DataError(f"{path} lacks {', '.join(map(repr, absent))}; {REMEDY}")
    ids = {name: meta[name] for name in ("CLS", "SEP", "MASK") if meta[name] is not None or name != "MASK"}
    wrong = [f"{name} is {_shown(id)}, not the id of a word" for name, id in ids.items() if not is_id(id)]
    words = meta["v_range"]
    if not (isinstance(words, list) and len(words) == 2 and all(map(is_id, words)) and words[0] <= words[1]):
        wrong.append(f"v_range is {_shown(words)}, not the first id of words and the one behind the last")
    if wrong:
        raise DataError(f"{path}: {'; '.join(wrong)}; {REMEDY}")
    return Special(meta["CLS"], meta["SEP"], meta["MASK"], (words[0], words[1]))


def _shown(value: Any) -> str:
    """The beginning of a value, as JSON people know it."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else repr(value)
    return text if text is not None and len(text) <= 40 else f"{str(text)[:40]}..."
