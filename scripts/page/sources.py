"""Words and pictures for the ids of a score matrix: captions of a store or a file, and thumbnails."""

from __future__ import annotations

import base64
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from config.errors import DataError
from data.source.captions import read_captions
from data.source.entries import Entry
from data.texts import TextStore
from scripts.page.outcome import Outcome
from train.scores import ENSEMBLE, TWO_STAGE, Scores

Read = Callable[[], bytes]

_SUFFIXES = (".jpg", ".jpeg", ".png")


def bare(image: str) -> str:
    """The id of a picture: the key of an image store without its `.npz`."""
    return image.removesuffix(".npz")


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
        split = split.removesuffix(ENSEMBLE).removesuffix(TWO_STAGE)
        store = outcome.setting("data", f"{split}_txt_db")
        if store and Path(store).is_dir():
            return cls.from_store(Path(store))
        why = f"{store} is not here" if store else f"config.json names no {split}_txt_db"
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
    """Thumbnails by image id, as data addresses; what could not be found or read is kept in `failed`."""

    def __init__(self, place: Path | None, size: int = 256) -> None:
        self.place = place
        self.size = size
        self.failed: list[str] = []
        self._made: dict[str, str | None] = {}
        self._readers = {} if place is None else _readers(place)

    def thumbnail(self, image: str) -> str | None:
        """A JPEG of at most `size` pixels a side as a data address, or None."""
        if self.place is None:
            return None
        if image not in self._made:
            self._made[image] = self._shrunk(bare(image))
            if self._made[image] is None:
                self.failed.append(bare(image))
        return self._made[image]

    @property
    def source(self) -> str:
        """In words: where the pictures come from, and which could not be shown."""
        if self.place is None:
            return "Pictures are shown by their ids: --pictures names no folder."
        if not self.failed:
            return f"Pictures are those of {self.place}."
        names = ", ".join(self.failed[:3]) + (", ..." if len(self.failed) > 3 else "")
        return f"Pictures are those of {self.place}; {len(self.failed)} are missing or damaged ({names})."

    def _shrunk(self, name: str) -> str | None:
        number = re.search(r"0*(\d+)$", name)  # flickr30k_000000012345 is 12345.jpg
        read = self._readers.get(name.lower()) or (self._readers.get(number[1]) if number else None)
        if read is None:
            return None
        try:
            with Image.open(io.BytesIO(read())) as picture:
                picture.draft("RGB", (self.size, self.size))
                upright = ImageOps.exif_transpose(picture).convert("RGB")
        except OSError:  # kept in `failed`, which the page tells
            return None
        upright.thumbnail((self.size, self.size))
        packed = io.BytesIO()
        upright.save(packed, "JPEG", quality=80, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()


def _describes(entry: Entry, image: str) -> bool:
    """Whether an entry is of the image: of its name, or, where stores name images anew, of its number."""
    number = re.search(r"\d+$", image)
    return entry.image == image or (number is not None and entry.number == int(number[0]))


def _readers(place: Path) -> dict[str, Read]:
    """By its name in lower case without the ending, what reads each picture of a folder or a tar."""
    if place.is_dir():
        paths = sorted(place.rglob("*"), reverse=True)  # of two pictures of one name the first is kept
        return {path.stem.lower(): path.read_bytes for path in paths if path.suffix.lower() in _SUFFIXES}
    try:
        with tarfile.open(place) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{place}: neither a folder nor a tar of pictures ({error})") from None
    return {Path(member.name).stem.lower(): _Member(place, member) for member in reversed(members)
            if Path(member.name).suffix.lower() in _SUFFIXES}


class _Member:
    """Reads one file of a tar."""

    def __init__(self, archive: Path, member: tarfile.TarInfo) -> None:
        self.archive = archive
        self.member = member

    def __call__(self) -> bytes:
        with tarfile.open(self.archive) as archive:
            file = archive.extractfile(self.member)
            return file.read() if file is not None else b""
