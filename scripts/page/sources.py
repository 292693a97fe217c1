"""Words and pictures for the ids of a score matrix: captions of a store or a file, and thumbnails."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageOps

from config.errors import DataError
from data.texts import TextStore
from scripts.page.outcome import Outcome, Scores

Opener = Callable[[], IO[bytes]]

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
        """Captions of a captions.jsonl: text n of an image, in matrix order, is its caption n."""
        listed = {str(entry["image_id"]): entry["captions"] for entry in _entries(file)}
        texts: dict[int, list[str]] = defaultdict(list)
        for text, image in zip(scores.texts, scores.owner.tolist(), strict=True):
            texts[image].append(text)
        found: dict[str, str] = {}
        for image, own in texts.items():
            captions = listed.get(bare(scores.images[image]), [])
            if len(captions) == len(own):  # else it is not known which caption is which
                found |= dict(zip(own, captions, strict=True))
        unnamed = len(scores.texts) - len(found)
        note = f" {unnamed} texts, which do not fit the file, go by their ids." if unnamed else ""
        return cls(found.get, f"Captions are those of {file}.{note}")


class Pictures:
    """Thumbnails by image id, as data addresses; what could not be found or read is kept in `failed`."""

    def __init__(self, folder: Path | None, captions: Path | None = None, size: int = 256) -> None:
        self.folder = folder
        self.size = size
        self.failed: list[str] = []
        self._made: dict[str, str | None] = {}
        self._openers = {} if folder is None else _openers(folder)
        entries = _entries(captions) if captions is not None else []
        self._stems = {str(entry["image_id"]): Path(entry.get("file", "")).stem for entry in entries}

    def thumbnail(self, image: str) -> str | None:
        """A JPEG of at most `size` pixels a side as a data address, or None."""
        if self.folder is None:
            return None
        if image not in self._made:
            name = bare(image)
            opener = self._openers.get(name) or self._openers.get(self._stems.get(name, ""))
            self._made[image] = None if opener is None else self._shrunk(opener)
            if self._made[image] is None:
                self.failed.append(name)
        return self._made[image]

    @property
    def source(self) -> str:
        """In words: where the pictures come from, and which could not be shown."""
        if self.folder is None:
            return "Pictures are shown by their ids: no --pictures folder was given."
        if not self.failed:
            return f"Pictures are those of {self.folder}."
        names = ", ".join(self.failed[:3]) + (", ..." if len(self.failed) > 3 else "")
        return f"Pictures are those of {self.folder}; {len(self.failed)} are missing or damaged ({names})."

    def _shrunk(self, opener: Opener) -> str | None:
        try:
            with opener() as file, Image.open(file) as picture:
                picture.draft("RGB", (self.size, self.size))
                upright = ImageOps.exif_transpose(picture).convert("RGB")
        except OSError:  # the page names it
            return None
        upright.thumbnail((self.size, self.size))
        packed = io.BytesIO()
        upright.save(packed, "JPEG", quality=80, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()


def _openers(folder: Path) -> dict[str, Opener]:
    """By the name without its ending, what opens each picture of a folder or a tar."""
    if folder.is_dir():
        paths = sorted(folder.rglob("*"), reverse=True)  # of two pictures of one name the first is kept
        return {path.stem: partial(path.open, "rb") for path in paths if path.suffix.lower() in _SUFFIXES}
    try:
        archive = tarfile.open(folder)
        members = [member for member in reversed(archive.getmembers()) if member.isfile()]
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{folder}: neither a folder nor a tar of pictures ({error})") from None
    return {Path(member.name).stem: partial(_extracted, archive, member) for member in members
            if Path(member.name).suffix.lower() in _SUFFIXES}


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None, member.name  # files only are asked for
    return file


def _entries(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines if line.strip()]
        return [entry for entry in entries if entry["image_id"] is not None and entry["captions"] is not None]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: no captions.jsonl ({error!r}); give one object with image_id and captions "
                        "a line") from None
