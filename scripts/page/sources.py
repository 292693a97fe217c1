"""Words and pictures for the ids of a score matrix: captions of a store or a file, and thumbnails."""

from __future__ import annotations

import base64
import io
import re
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

from config.errors import DataError
from data.records.pixels import MOST_PIXELS, decode
from data.source.captions import read_captions
from data.source.entries import Entry
from data.stores.picture_files import ENDINGS, FILES, fits, odd_files, other_files, without_ending
from data.stores.text_store import TextStore
from scripts.page.outcome import Outcome
from train.scoring.scores import ENSEMBLE, TWO_STAGE, Scores

Read = Callable[[], bytes]
TOLD = 3
"""Pictures that are not shown whose reasons a page tells."""


def bare(image: str) -> str:
    """The id of a picture: the key of an image store without its `.npz`."""
    return image.removesuffix(".npz")


def text_store(outcome: Outcome, split: str) -> Path | None:
    """The text store that config.json names for a split; None where it names none, or that is not here."""
    store = outcome.setting("data", _setting(split))
    return Path(store) if store and Path(store).is_dir() else None


def _setting(split: str) -> str:
    return f"{split.removesuffix(ENSEMBLE).removesuffix(TWO_STAGE)}_txt_db"


class Captions:
    """The caption of each text id, and in words where they come from or why they are missing."""

    def __init__(self, look: Callable[[str], str | None], source: str) -> None:
        self._look = look
        self.source = source

    def __getitem__(self, text: str) -> str:
        return self._look(text) or f"text {text}"

    @classmethod
    def find(cls, outcome: Outcome, split: str, scores: Scores, file: Path | None) -> Captions:
        """From `file` if given, else from the text store that config.json names for the split."""
        if file is not None:
            return cls.from_file(file, scores)
        store = text_store(outcome, split)
        if store is not None:
            return cls.from_store(store)
        setting = _setting(split)
        named = outcome.setting("data", setting)
        why = f"{named} is not here" if named else f"config.json names no {setting}"
        return cls(lambda _: None, f"Texts are shown by their ids: {why}, and --captions gives no file.")

    @classmethod
    def from_store(cls, folder: Path) -> Captions:
        """The `raw` captions of a text store; DataError for an id that it lacks."""
        store = TextStore(folder)
        return cls(lambda text: store.record(text).get("raw"), f"Captions are those of {folder}.")

    @classmethod
    def from_file(cls, file: Path, scores: Scores) -> Captions:
        """Captions of the file that a text store is packed from, where id and image both fit."""
        owner = dict(zip(scores.texts, scores.owner.tolist(), strict=True))
        found = {caption.id: caption.text for entry in read_captions(file) for caption in entry.captions
                 if caption.id in owner and _describes(entry, bare(scores.images[owner[caption.id]]))}
        unnamed = len(scores.texts) - len(found)
        note = f" {unnamed:,} texts, which do not fit the file, go by their ids." if unnamed else ""
        return cls(found.get, f"Captions are those of {file}.{note}")


class Pictures:
    """Thumbnails by image id, as data addresses; what could not be found or read is kept in `failed`, with the reason.

    Args:
        place: a folder, searched with those in it, or a tar.
        size: most pixels of a side.
        files: by image id the picture's file, of those that are not of the id's own name.

    Raises:
        DataError: `place` is neither a folder nor a tar.
    """

    def __init__(self, place: Path | None, size: int = 256, files: Mapping[str, str] | None = None) -> None:
        self.place = place
        self.size = size
        self.failed: dict[str, str] = {}
        self._files = {bare(image): file for image, file in (files or {}).items()}
        self._made: dict[str, str | None] = {}
        self._readers = {} if place is None else _readers(place)

    def thumbnail(self, image: str) -> str | None:
        """A JPEG of at most `size` pixels a side as a data address, or None."""
        if self.place is None:
            return None
        if image not in self._made:
            try:
                self._made[image] = self._shrunk(bare(image))
            except (OSError, DataError) as error:
                self._made[image] = None
                why = getattr(error, "strerror", None) or str(error)
                self.failed[bare(image)] = why.partition(";")[0]  # remedies are the packers'
        return self._made[image]

    @property
    def source(self) -> str:
        """In words: where the pictures come from, and which could not be shown."""
        if self.place is None:
            return "Pictures are shown by their ids: --pictures names no folder."
        if not self.failed:
            return f"Pictures are those of {self.place}."
        some = "; ".join(f"{name} {why}" for name, why in islice(self.failed.items(), TOLD))
        more = f"; and {len(self.failed) - TOLD} more" if len(self.failed) > TOLD else ""
        return f"Pictures are those of {self.place}; {len(self.failed)} are not shown: {some}{more}."

    def _shrunk(self, name: str) -> str:
        picture = decode(self._reader(name)(), self.size, MOST_PIXELS)
        picture.thumbnail((self.size, self.size))
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=80, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()

    def _reader(self, name: str) -> Read:
        """What reads the one picture of an id; DataError where there is none, or several that it could be."""
        file = self._files.get(name, name).lower()
        place = without_ending(file) if name in self._files else PurePosixPath(file)
        found = [(path, read) for path, read in self._readers.get(place.name, ()) if fits(without_ending(path), place)]
        exact = [one for one in found if one[0] == file] or [one for one in found if without_ending(one[0]) == place]
        number = re.search(r"0*(\d+)$", name)  # flickr30k_000000012345 is 12345.jpg
        if not found and number and name not in self._files:
            found = self._readers.get(number[1], [])
        chosen = exact or found
        if len(chosen) > 1:
            raise DataError(f"is the name of several ({', '.join(path for path, _ in chosen[:TOLD])})")
        if not chosen:
            raise DataError(f"is not there ({self._files[name]})" if name in self._files else "is not there")
        return chosen[0][1]


def files_for(texts: Path | None, captions: Path | None, images: Iterable[str]) -> dict[str, str]:
    """By image id the picture's file, as a text store and a captions file tell of those that have another name.

    Raises:
        DataError: the two disagree.
    """
    noted = TextStore(texts).meta.get(FILES) if texts else None
    if captions is None:
        return noted or {}
    entries = {entry.image: entry for entry in read_captions(captions)}
    numbers = {entry.number: entry for entry in entries.values()}
    named = []
    for image in images:
        number = re.search(r"\d+$", bare(image))
        entry = entries.get(bare(image)) or numbers.get(int(number[0]) if number else -1)
        named.append((image, entry.image if entry else "", entry.file if entry else ""))
    told = odd_files(named)
    wrong = list(other_files({FILES: told}, {FILES: noted}, images)) if noted is not None else []
    if wrong:
        raise DataError(f"{captions} is of other pictures than {texts}: {wrong[0]}; name the file that it was packed "
                        "from")
    return told


def _describes(entry: Entry, image: str) -> bool:
    """Whether an entry is of the image: of its name, or, where stores name images anew, of its number."""
    number = re.search(r"\d+$", image)
    return entry.image == image or (number is not None and entry.number == int(number[0]))


def _readers(place: Path) -> dict[str, list[tuple[str, Read]]]:
    """By their name without the ending, the paths and readers of the pictures of a folder or a tar, in lower case."""
    found: dict[str, list[tuple[str, Read]]] = defaultdict(list)
    for name, read in _members(place):
        if PurePosixPath(name).suffix.lower() in ENDINGS:
            found[without_ending(name.lower()).name].append((name.removeprefix("./").lower(), read))
    return found


def _members(place: Path) -> Iterator[tuple[str, Read]]:
    if place.is_dir():
        yield from ((path.relative_to(place).as_posix(), path.read_bytes) for path in sorted(place.rglob("*")))
        return
    try:
        with tarfile.open(place) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0].removesuffix(":")
        raise DataError(f"{place}: neither a folder nor a tar of pictures ({why})") from None
    yield from ((member.name, _Member(place, member)) for member in members)


class _Member:
    """Reads one file of a tar."""

    def __init__(self, archive: Path, member: tarfile.TarInfo) -> None:
        self.archive = archive
        self.member = member

    def __call__(self) -> bytes:
        try:
            with tarfile.open(self.archive) as archive:
                file = archive.extractfile(self.member)
                return file.read() if file is not None else b""
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"cannot be read from its archive ({error})") from error
