"""Published captions: Karpathy JSON, JSON lines, and pairs of id and caption files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from config.errors import DataError
from config.wording import pluralise
from data.source.entries import Caption, Entry
from data.source.fields import Fields
from data.source.lines import Faults, find_non_text, parse_json, read_json_text, read_lines

COPIED = ("tokens", "raw", "imgid", "sentid")  # from a Karpathy sentence into a caption's record


def read_captions(path: str | Path) -> list[Entry]:
    """The entries of a `.json` (Karpathy) or `.jsonl` file, plain or gzipped, in its order.

    Raises:
        DataError: the file cannot be read, or entries of it lack something or hold what cannot be; all are told.
    """
    path = Path(path)
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _json_lines(path)
    if name.endswith(".json"):
        return _karpathy(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the captions file")
    raise DataError(f"{path} ends in neither .json (Karpathy) nor .jsonl; text files need their ids beside them")


def _karpathy(path: Path) -> list[Entry]:
    content = read_json_text(path)
    images = content.get("images") if isinstance(content, dict) else content
    if not isinstance(images, list):
        raise DataError(f"{path} is neither a list of images nor a map with one under 'images'")
    if isinstance(content, dict) and "annotations" in content:
        raise DataError(f"{path} has 'annotations' beside 'images', as COCO's own files; give Karpathy's JSON, or JSON "
                        "lines of image_id, file and captions")  # fmt: skip
    found = _Found(path)
    for at, image in enumerate(images):
        fields = Fields(image, f"image {at}", found.faults)
        name, folder = fields.file_name("filename"), fields.text("filepath", default="")
        captions = []
        for which, sentence in enumerate(fields.list_of("sentences", "sentences")):
            part = Fields(sentence, f"image {at}, sentence {which}", found.faults)
            id, text = part.name("sentid"), part.text("raw")
            copied = {name: sentence[name] for name in COPIED if name in sentence} if isinstance(sentence, dict) else {}
            found.number(id, part)
            captions.append(Caption(id, text, copied))
        file = str(PurePosixPath(folder, name))
        found.add(Entry(PurePosixPath(name).stem, fields.text("split", default=""), tuple(captions), file), fields)
    return found.entries()


def _json_lines(path: Path) -> list[Entry]:
    """Ids count the captions of the whole file, so they are the same whichever split is packed."""
    found, number, entries = _Found(path), 0, 0
    for at, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            image = parse_json(line)
        except ValueError as error:
            found.faults.add(f"line {at} is not JSON ({error})")
            continue
        fields = Fields(image, f"line {at}", found.faults)
        name, file = fields.name("image_id"), fields.text("file", default="")
        texts = [fields.checked(text, f"caption {which} of 'captions'")
                 for which, text in enumerate(fields.list_of("captions", "texts"))]  # fmt: skip
        extra = fields.phrases(len(texts))
        captions = []
        for index, text in enumerate(texts):
            sentence = {"raw": text, "imgid": entries, "sentid": number + index}
            captions.append(Caption(str(number + index), text, sentence | (extra[index] if extra else {})))
        number, entries = number + len(texts), entries + 1
        found.add(Entry(name, fields.text("split", default=""), tuple(captions), file), fields)
    return found.entries()


class _Found:
    """The entries of a captions file so far; what two of them cannot share is noted as a fault."""

    def __init__(self, path: Path) -> None:
        self._path, self.faults = path, Faults(path)
        self._entries: list[Entry] = []
        self._file: dict[str, tuple[str, str]] = {}
        self._caption: dict[str, str] = {}

    def add(self, entry: Entry, fields: Fields) -> None:
        """One more entry; entries may share an image, but not have other pictures for it."""
        file, where = self._file.setdefault(entry.image, (entry.file, fields.where))
        if entry.image and file != entry.file:
            fields.wrong(f"says that image {entry.image} is {entry.file or 'of no file'}, {where} says "
                         f"{file or 'of no file'}; give each picture a name of its own")  # fmt: skip
        self._entries.append(entry)

    def number(self, id: str, part: Fields) -> None:
        """One more caption's id; captions do not share one."""
        first = self._caption.setdefault(id, part.where)
        if id and first != part.where:
            part.wrong(f"has the id {id}, as {first} has; give each caption its own")

    def entries(self) -> list[Entry]:
        """All of them; raises DataError where anything is wrong, or there are none."""
        self.faults.refuse()
        if not self._entries:
            raise DataError(f"{self._path} holds no image; check whether it was written or copied to its end")
        return self._entries


def read_caption_files(ids: str | Path, captions: str | Path, names: str | Path | None = None) -> list[Entry]:
    """Entries from a file of image ids and a file of captions, one a line, plain or gzipped.

    With as many ids as captions, line i of one belongs to line i of the other; otherwise there are as many
    captions for each id, in order. Captions of one image need not stand together. Blank lines that end a file are
    none of its lines where the numbers fit without them.

    Args:
        names: optional JSON map from id to picture file, which then names the image.

    Raises:
        DataError: the numbers of lines do not fit, an id is blank, or `names` lacks an id.
    """
    image_ids, texts = _ids_of(Path(ids)), read_lines(Path(captions))
    texts = texts[: _lines_that_fit(captions, texts, ids, len(image_ids))]
    each = len(texts) // len(image_ids)
    image_ids = [id for id in image_ids for _ in range(each)]
    named = _names(names)
    of_image: dict[str, list[Caption]] = {}
    for at, (id, text) in enumerate(zip(image_ids, texts, strict=True)):
        sentence = {"raw": text, "sentid": at}
        of_image.setdefault(id, []).append(Caption(str(at), text, sentence))
    return _listed(of_image, named, names)


def _ids_of(path: Path) -> list[str]:
    """The ids of a file, one a line, without the blank lines that end it."""
    ids = [line.strip() for line in read_lines(path)]
    while ids and not ids[-1]:
        ids.pop()
    faults = Faults(path)
    for at, id in enumerate(ids, start=1):
        if not id:
            faults.add(f"line {at} is blank; give an id")
    faults.refuse()
    if not ids:
        raise DataError(f"{path} holds no id; check whether it was written or copied to its end")
    return ids


def _lines_that_fit(path: Any, texts: list[str], ids_path: Any, ids: int) -> int:
    """How many lines are captions, as many for each id: all of them, or all but the blank ones that end the file."""
    full = next((at for at in range(len(texts), 0, -1) if texts[at - 1].strip()), 0)
    fitting = {size for size in (len(texts), full) if size and size % ids == 0}
    if not fitting:
        raise DataError(f"{path} has {pluralise(len(texts), 'line')}, {ids_path} {ids}: give as many captions for each "
                        "id")  # fmt: skip
    if len(fitting) > 1 and ids > 1 and full != ids:
        raise DataError(f"{path} ends in {pluralise(len(texts) - full, 'blank line')} and fits the {ids} ids of "
                        f"{ids_path} with and without; remove them, or the ids")  # fmt: skip
    return min(fitting)


def read_image_ids(ids: str | Path, names: str | Path | None = None) -> list[Entry]:
    """Images without captions from a file of image ids, one a line, each as often as it likes; plain or gzipped.

    Names are those that `read_caption_files` gives.

    Raises:
        DataError: a file cannot be read, or `names` lacks an id.
    """
    named = _names(names)
    return _listed({id: [] for id in _ids_of(Path(ids))}, named, names)


def _names(path: str | Path | None) -> dict[str, str] | None:
    """The map from id to picture file in a JSON file."""
    if path is None:
        return None
    named = read_json_text(Path(path))
    if not isinstance(named, dict) or not all(isinstance(file, str) and file for file in named.values()):
        raise DataError(f"{path} is no map from ids to names of picture files; give such a JSON object")
    faults = Faults(Path(path))
    for id, file in named.items():
        if wrong := find_non_text(id + file):
            faults.add(f"the file of id {id!r} {wrong}")
    faults.refuse()
    return named


def _listed(of_image: Mapping[str, list[Caption]], named: Mapping[str, str] | None, path: Any) -> list[Entry]:
    """An entry for each id, named by it or by its picture file."""
    if named is None:
        return [Entry(id, "", tuple(captions)) for id, captions in of_image.items()]
    absent = [id for id in of_image if id not in named]
    if absent:
        more = f" and {len(absent) - 1} others" if len(absent) > 1 else ""
        raise DataError(f"{path} names no picture for id {absent[0]}{more}; give the map of these ids")
    stems: dict[str, str] = {}
    for id in of_image:
        other = stems.setdefault(PurePosixPath(named[id]).stem, id)
        if other != id:
            raise DataError(f"{path}: ids {other} and {id} would both be image {PurePosixPath(named[id]).stem} "
                            f"({named[other]}, {named[id]}); rename one")  # fmt: skip
    return [Entry(PurePosixPath(named[id]).stem, "", tuple(captions), named[id]) for id, captions in of_image.items()]
