"""Captions with phrases and boxes in the Flickr30k Entities format: `Sentences/` and `Annotations/`.

`Sentences/<image>.txt` holds a caption a line, its phrases marked as `[/EN#<entity>/<type> words]`;
`Annotations/<image>.xml` holds the picture's size and the boxes of the entities.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from xml.parsers import expat

from config.errors import DataError
from data.source.entries import Caption, Entry
from data.source.lines import SHOWN, read_lines
from data.stores.picture_files import without_ending

MARK = "[/EN#"
OPENING = re.compile(r"\[/EN#(\d+)((?:/[^\s/\[\]]+)+)")
NOT_VISUAL = "0"


class Annotation(NamedTuple):
    """A picture's width and height, and the boxes [x1, y1, x2, y2] of each entity in pixels as they are given."""

    size: list[int]
    boxes: dict[str, list[list[float]]]


def read_entities(folder: str | Path, images: str | Path | None = None) -> list[Entry]:
    """The entries of an annotation folder; captions have `phrases` and `image_size` in the form of JSON lines.

    A phrase is {"start", "end", "boxes", "entity"}: words [start, end) of the caption. Phrases whose entity has no
    box, or is not visual, keep an empty list of boxes. Ids count the captions that are read.

    Args:
        images: text file of image ids, one a line, such as the published splits; their order is kept. Without it
            all images are read in order of name.

    Raises:
        DataError: files are missing or malformed; names file and line, of the first fault of each image.
    """
    folder = Path(folder)
    for name in ("Sentences", "Annotations"):
        if not (folder / name).is_dir():
            raise DataError(f"{folder} has no folder {name}; give the one that holds Sentences and Annotations")
    names = sorted(path.stem for path in (folder / "Sentences").glob("*.txt")) if images is None else _listed(images)
    if not names:
        raise DataError(f"{images or folder / 'Sentences'} names no image; check the path")
    number, entries, faults = count(), [], list[str]()
    for at, name in enumerate(names):
        try:
            entries.append(Entry(name, "", tuple(_captions(folder, name, at, number))))
        except DataError as error:
            faults.append(str(error))
    if faults:
        more = f"; and {len(faults) - SHOWN} more images" if len(faults) > SHOWN else ""
        raise DataError("; ".join(faults[:SHOWN]) + more)
    return entries


def _listed(path: str | Path) -> list[str]:
    """The image ids of a list, which may be names of picture files."""
    names: dict[str, int] = {}
    for at, line in enumerate(read_lines(Path(path)), start=1):
        name = str(without_ending(line.strip())) if line.strip() else ""
        if name in names:
            raise DataError(f"{path}, line {at}: image {name} stands in line {names[name]} already; remove one")
        if name:
            names[name] = at
    return list(names)


def _captions(folder: Path, image: str, place: int, number: Iterator[int]) -> Iterator[Caption]:
    annotation = read_annotation(folder / "Annotations" / f"{image}.xml")
    path = folder / "Sentences" / f"{image}.txt"
    for at, line in enumerate(read_lines(path), start=1):
        text, phrases = read_sentence(line, f"{path}, line {at}")
        for phrase in phrases:
            phrase["boxes"] = [] if phrase["entity"] == NOT_VISUAL else annotation.boxes.get(phrase["entity"], [])
        sentence = {"raw": text, "imgid": place, "sentid": next(number)}
        sentence |= {"phrases": phrases, "image_size": annotation.size}
        yield Caption(str(sentence["sentid"]), text, sentence)


# ---------------------------------------------------------------- sentences


def read_sentence(line: str, where: str) -> tuple[str, list[dict[str, Any]]]:
    """The plain caption of a marked one, and its phrases: {"start", "end", "entity"} each.

    Raises:
        DataError: a phrase is not closed, closed twice, empty, within another, or has no entity and type.
    """
    words: list[str] = []
    phrases: list[dict[str, Any]] = []
    entity, start = None, 0
    for token in line.split():
        if token.startswith(MARK):
            opening = OPENING.fullmatch(token)
            if opening is None:
                _refuse_sentence(where, f"{token} names no entity and type")
            if entity is not None:
                _refuse_sentence(where, f"{token} opens a phrase within another")
            entity, start = opening[1], len(words)
            continue
        closes = token.endswith("]") and token.count("]") > token.count("[")
        word = token[:-1] if closes else token
        if word:
            words.append(word)
        if closes:
            if entity is None:
                _refuse_sentence(where, f"{token} closes no phrase")
            if len(words) == start:
                _refuse_sentence(where, f"the phrase of entity {entity} has no word")
            phrases.append({"start": start, "end": len(words), "entity": entity})
            entity = None
    if entity is not None:
        _refuse_sentence(where, f"the phrase of entity {entity} is not closed")
    return " ".join(words), phrases


def _refuse_sentence(where: str, wrong: str) -> NoReturn:
    raise DataError(f"{where}: {wrong}; mark phrases as [/EN#<number>/<type> words], and mend or fetch the file again")


# ---------------------------------------------------------------- annotations


@dataclass
class _Element:
    """An XML element with the line that it begins in."""

    tag: str
    line: int
    text: str = ""
    children: list[_Element] = field(default_factory=list)

    def all(self, tag: str) -> list[_Element]:
        return [child for child in self.children if child.tag == tag]


def read_annotation(path: Path) -> Annotation:
    """The size of a picture and the boxes of its entities, from a VOC-like file.

    An entity may have several boxes, and a box several entities. Coordinates are taken as they stand.

    Raises:
        DataError: the file is missing, no XML, declares a document type, or lacks a size, a name or a corner.
    """
    root = _parse(path)
    size = _only(root, "size", path)
    boxes: dict[str, list[list[float]]] = {}
    for found in root.all("object"):
        corners = [
            [_number(box, side, path) for side in ("xmin", "ymin", "xmax", "ymax")] for box in found.all("bndbox")
        ]
        if not corners and not (found.all("scene") or found.all("nobndbox")):
            _refuse_annotation(path, found, "has neither bndbox nor scene nor nobndbox")
        names = found.all("name")
        if not names:
            _refuse_annotation(path, found, "has no name")
        for name in names:
            of_entity = boxes.setdefault(name.text.strip(), [])
            of_entity += [box for box in corners if box not in of_entity]
    return Annotation([_pixels(size, side, path) for side in ("width", "height")], boxes)


def _parse(path: Path) -> _Element:
    """The outermost element.

    expat is used directly because it knows the line of each element. It loads nothing from outside; a document type,
    without which no entity can be declared, is refused, so nothing can be made to expand either.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    above = [_Element("", 0)]

    def start(tag: str, _: dict[str, str]) -> None:
        element = _Element(tag, parser.CurrentLineNumber)
        above[-1].children.append(element)
        above.append(element)

    def end(_: str) -> None:
        above.pop()

    def characters(text: str) -> None:
        above[-1].text += text

    def document_type(*_: Any) -> NoReturn:
        line = parser.CurrentLineNumber
        raise DataError(f"{path}, line {line}: declares a document type, which annotations do not need; remove it")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = characters, document_type
    try:
        parser.Parse(path.read_bytes(), True)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; leave the image out of the list or fetch its annotation") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the file") from error
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise DataError(f"{path}, line {error.lineno}: is not XML ({reason}); mend or fetch the file again") from error
    return above[0].children[0]


def _only(element: _Element, tag: str, path: Path) -> _Element:
    found = element.all(tag)
    if len(found) != 1:
        _refuse_annotation(path, element, f"has {len(found) or 'no'} {tag}")
    return found[0]


def _number(element: _Element, tag: str, path: Path) -> float:
    found = _only(element, tag, path)
    try:
        value = float(found.text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        _refuse_annotation(path, found, f"is {found.text.strip() or 'empty'}, not a number")
    return value


def _pixels(size: _Element, side: str, path: Path) -> int:
    value = int(_number(size, side, path))
    if value < 1:
        _refuse_annotation(path, _only(size, side, path), f"is {value}, not a number of pixels")
    return value


def _refuse_annotation(path: Path, element: _Element, wrong: str) -> NoReturn:
    raise DataError(f"{path}, line {element.line}: {element.tag} {wrong}; mend or fetch the file again")
