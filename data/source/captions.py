"""Captions as they are published: Karpathy JSON, JSON lines, and pairs of id and caption files."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from config.errors import ConfigError, DataError

COPIED = ("tokens", "raw", "imgid", "sentid")  # from a Karpathy sentence into a caption's record


@dataclass(frozen=True)
class Caption:
    """One caption: its id (a decimal string), its text, and what else its record is to hold."""

    id: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One image and its captions.

    Attributes:
        image: file name without folder and suffix.
        number: trailing number of that name; None where it has none.
        split: as the source names it; empty where it does not.
    """

    image: str
    split: str
    captions: tuple[Caption, ...]

    @property
    def number(self) -> int | None:
        found = re.search(r"\d+$", self.image)
        return int(found[0]) if found else None

    def image_name(self, naming: str) -> str:
        """The image's key in an image store, from a template with {stem} or {id}, the trailing number.

        Raises:
            ConfigError: the template asks for something else, or for a number that the name does not have.
        """
        try:
            return naming.format(stem=self.image, id=self.number)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"image_naming {naming!r} does not fit image {self.image!r} ({error})") from error


def select(entries: list[Entry], splits: Sequence[str] | None) -> list[Entry]:
    """The entries of the named splits; all of them if none is named.

    Raises:
        ConfigError: no entry is of such a split; the message lists those there are.
    """
    if not splits:
        return entries
    there = sorted({entry.split for entry in entries} - {""})
    unknown = [split for split in splits if split not in there]
    if unknown:
        raise ConfigError(f"there is no split {unknown[0]}, the file has {', '.join(there) or 'no splits'}")
    return [entry for entry in entries if entry.split in splits]


def read_captions(path: str | Path) -> list[Entry]:
    """The entries of a `.json` (Karpathy) or `.jsonl` file, plain or gzipped, in its order.

    Raises:
        DataError: the file or a line of it cannot be read, or lacks a field; names the place.
    """
    path = Path(path)
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return list(_json_lines(path))
    if name.endswith(".json"):
        return list(_karpathy(path))
    raise DataError(f"{path} ends in neither .json (Karpathy) nor .jsonl; text files need their ids beside them")


def _karpathy(path: Path) -> Iterator[Entry]:
    content = _json(path, read_text(path))
    images = content.get("images") if isinstance(content, dict) else content
    if not isinstance(images, list):
        raise DataError(f"{path} is neither a list of images nor a map with one under 'images'")
    for at, image in enumerate(images):
        where = f"{path}, image {at}"
        captions = tuple(
            Caption(
                str(_get(sentence, "sentid", where)),
                _get(sentence, "raw", where),
                {name: sentence[name] for name in COPIED if name in sentence},
            )
            for sentence in _get(image, "sentences", where)
        )
        yield Entry(Path(_get(image, "filename", where)).stem, image.get("split", ""), captions)


def _json_lines(path: Path) -> Iterator[Entry]:
    """Ids count the captions of the whole file, so they are the same whichever split is packed."""
    number = count()
    for at, line in enumerate(read_lines(path), start=1):
        where = f"{path}, line {at}"
        image = _json(where, line)
        texts, phrases = _get(image, "captions", where), image.get("phrases")
        if phrases is not None and not (isinstance(phrases, list) and all(isinstance(of, list) for of in phrases)):
            raise DataError(f"{where}: 'phrases' is not a list of phrases for each caption")
        if phrases is not None and len(phrases) != len(texts):
            raise DataError(f"{where}: {len(phrases)} lists of phrases for {len(texts)} captions")
        size = {"image_size": [image["width"], image["height"]]} if {"width", "height"} <= image.keys() else {}
        captions = []
        for index, text in enumerate(texts):
            sentence = {"raw": text, "imgid": at - 1, "sentid": next(number)}
            if phrases is not None:
                sentence |= {"phrases": phrases[index], **size}
            captions.append(Caption(str(sentence["sentid"]), text, sentence))
        yield Entry(str(_get(image, "image_id", where)), image.get("split", ""), tuple(captions))


def read_caption_files(ids: str | Path, captions: str | Path, names: str | Path | None = None) -> list[Entry]:
    """Entries from a file of image ids and a file of captions, one a line, plain or gzipped.

    With as many ids as captions, line i of one belongs to line i of the other; otherwise there are as many
    captions for each id, in order. Captions of one image need not stand together.

    Args:
        names: optional JSON map from id to picture file, which then names the image.

    Raises:
        DataError: the numbers of lines do not fit, or `names` lacks an id.
    """
    image_ids, texts = read_lines(Path(ids)), read_lines(Path(captions))
    if not image_ids or not texts or len(texts) % len(image_ids):
        raise DataError(f"{captions} has {len(texts)} lines, {ids} {len(image_ids)}: give as many captions for each id")
    each = len(texts) // len(image_ids)
    image_ids = [id for id in image_ids for _ in range(each)]
    named = _json(names, read_text(Path(names))) if names else None
    of_image: dict[str, list[Caption]] = {}
    for at, (id, text) in enumerate(zip(image_ids, texts, strict=True)):
        sentence = {"raw": text, "sentid": at}
        of_image.setdefault(id.strip(), []).append(Caption(str(at), text, sentence))
    return [Entry(_name(id, named, names), "", tuple(found)) for id, found in of_image.items()]


def read_image_ids(ids: str | Path, names: str | Path | None = None) -> list[Entry]:
    """Images without captions from a file of image ids, one a line, each as often as it likes; plain or gzipped.

    Names are those that `read_caption_files` gives.

    Raises:
        DataError: a file cannot be read, or `names` lacks an id.
    """
    named = _json(names, read_text(Path(names))) if names else None
    different = dict.fromkeys(line.strip() for line in read_lines(Path(ids)))
    return [Entry(_name(id, named, names), "", ()) for id in different]


def _name(id: str, named: Mapping[str, str] | None, path: Any) -> str:
    if named is None:
        return id
    if id not in named:
        raise DataError(f"{path} names no picture for id {id}")
    return Path(named[id]).stem


def read_text(path: Path) -> str:
    """A UTF-8 text file, plain or gzipped.

    Raises:
        DataError: it is missing, or no such text.
    """
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; check the path") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from error


def read_lines(path: Path) -> list[str]:
    """Lines as editors count them: a caption may hold characters that Python's splitlines() breaks at."""
    lines = read_text(path).split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _json(where: Any, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error})") from error


def _get(entry: Any, name: str, where: str) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise DataError(f"{where} lacks '{name}'")
    return entry[name]
