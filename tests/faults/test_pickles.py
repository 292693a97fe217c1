"""Pickles that would run a command, in every place where a file of somebody else's is read: nothing runs, one line.

Each payload would make a canary file. Places are told by what reads them there, whatever program that is for.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from config import load
from data.batches.candidates import open_candidates
from data.files import read_json
from data.records.codec import decode_npz, decode_picture, decode_published, decode_text
from data.records.pixels import decode
from data.source.butd_npz import read_npz
from data.source.captions import read_lines
from data.source.precomputed import PrecomputedImages, read_precomputed
from data.source.whitener import Whitener
from data.stores.image_source import stored_names
from data.stores.image_store import ImageStore
from data.stores.lmdb_store import LmdbStore
from data.stores.lmdb_writer import LmdbWriter
from data.stores.text_store import TextStore
from data.words.vocabulary import Vocabulary
from data.words.wordpiece import WordPiece
from scripts import convert_ckpt
from scripts.page.outcome import open_outcome
from tests.faults.outcomes import REFUSED, outcome, survives
from tests.flow import warm
from tests.items import random_candidates, write_candidates
from tests.precomputed import write_precomputed
from tests.support import RULE, config_of, open_index, write_config, write_stores
from train.assembly.kinds import KINDS
from train.assembly.towers import _weights
from train.checkpointing.checkpoint import read_state, read_weights
from train.checkpointing.published import read_published
from train.distributed.comm import Solo
from train.mine import open_embeddings
from train.mining.embed import DoneMarks
from train.mining.filters import extra_pairs
from train.mining.storage import fits, load_some, load_tensors
from train.scoring.resumable_chunks import ResumableChunks
from train.scoring.scores import open_scores, read_origin

Make = Callable[[Path], bytes]
Read = Callable[[Path], Any]


class Command:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


class Call(Command):
    """The same without a shell, by a class that looks harmless."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


class Import(Command):
    """The same through Python's own evaluation."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.canary)!r}, 'w').close()",)


def by_torch(thing: Any, zipped: bool) -> bytes:
    content = io.BytesIO()
    torch.save(thing, content, _use_new_zipfile_serialization=zipped)
    return content.getvalue()


def by_numpy(thing: Any, archive: bool, name: str = "features") -> bytes:
    content, array = io.BytesIO(), np.empty(3, object)
    array[:] = thing
    if archive:
        np.savez(content, **{name: array, "norm_bb": array, "mean": array, "weight": array})
    else:
        np.save(content, array, allow_pickle=True)
    return content.getvalue()


def zip_of_pickles(thing: Any) -> bytes:
    """An archive whose members are pickles by the names that readers look for."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in ("features.npy", "norm_bb.npy", "mean.npy", "weight.npy", "archive/data.pkl", "archive/version"):
            archive.writestr(name, pickle.dumps(thing))
    return content.getvalue()


KINDS_OF_CALL = (Command, Call, Import)
PAYLOADS: dict[str, Make] = {
    **{f"pickle-{kind.__name__}-{protocol}": lambda canary, kind=kind, protocol=protocol:  # type: ignore[misc]
       pickle.dumps({"model": kind(canary)}, protocol) for kind in KINDS_OF_CALL for protocol in (0, 2, 4)},
    "two pickles": lambda canary: pickle.dumps({}) + pickle.dumps(Command(canary)),
    "opcodes": lambda canary: f"cos\nsystem\n(S'touch {canary}'\ntR.".encode(),
    "vocabulary": lambda canary: b"\x80\x02cvocab\nVocabulary\n)\x81}U\x08word2idx" + pickle.dumps(
        Command(canary), 2)[2:-1] + b"sb.",
    "vocabulary of a script": lambda canary: b"\x80\x02c__main__\nVocabulary\n)\x81}U\x08word2idx" + pickle.dumps(
        Call(canary), 2)[2:-1] + b"sb.",
    "vocabulary that is made": lambda canary: (
        b"\x80\x02" + f"c__main__\nVocabulary\n(cos\nsystem\n(S'touch {canary}'\ntRtR.".encode()),
    "vocabulary that is named": lambda canary: (
        b"\x80\x04\x8c\x08__main__\x8c\nVocabulary\x93\x8c\x02os\x8c\x06system\x93"
        + pickle.dumps(f"touch {canary}", 2)[2:-1] + b"\x85R."),
    "torch": lambda canary: by_torch({"model": {"w": torch.zeros(2), "x": Command(canary)}}, zipped=True),
    "old torch": lambda canary: by_torch({"model": {"w": torch.zeros(2), "x": Command(canary)}}, zipped=False),
    "torch, list of parts": lambda canary: by_torch({"model": [{"w": torch.zeros(2)}], "opt": Call(canary)}, True),
    "npy": lambda canary: by_numpy(Command(canary), archive=False),
    "npz": lambda canary: by_numpy(Command(canary), archive=True),
    "zip": lambda canary: zip_of_pickles(Call(canary)),
}


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def record(content: bytes, folder: Path) -> LmdbStore:
    """A store whose list of names is this."""
    with LmdbWriter(folder / "store") as writer:
        writer.put("__keys__", content)
    return LmdbStore(folder / "store")


def in_a_store(name: str, read: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    """A side file of a store that is this, unsealed as those of others are."""

    def act(content: bytes, folder: Path) -> Any:
        texts, images = write_stores(folder, images=3)
        place = texts if (texts / name).exists() else next(images.glob("native*"))
        (place / "seal.json").unlink()
        (place / name).write_bytes(content)
        return read(texts if place == texts else images)

    return act


def lists(which: str) -> Callable[[bytes, Path], Any]:
    """Candidates of which one file is this."""

    def act(content: bytes, folder: Path) -> Any:
        index = open_index(write_stores(folder, images=3))
        place = write_candidates(folder / "lists", random_candidates(index, 2, 1))
        put(place / which, content)
        return open_candidates(place, index, 2, 1)

    return act


def kept(which: str) -> Callable[[bytes, Path], Any]:
    """Scores of which one file is this."""

    def act(content: bytes, folder: Path) -> Any:
        ids = {"images": ["a"], "texts": ["b"], "owner": [0], "origin": "w"}
        np.save(folder / "matrix.npy", np.zeros((1, 1)))
        (folder / "ids.json").write_text(json.dumps(ids))
        put(folder / which, content)
        return open_scores(folder).matrix[0, 0], read_origin(folder)

    return act


def marks(content: bytes, folder: Path) -> Any:
    put(folder / "img_embs.done-0-of-1.npy", content)
    return DoneMarks(folder / "img_embs.npy", None, 0, 1).read()


def precomputed(content: bytes, folder: Path) -> Any:
    write_precomputed(folder, "train")
    put(folder / "train_ims.npy", content)
    return PrecomputedImages(read_precomputed(folder, "train"))


def precaps(content: bytes, folder: Path) -> Any:
    write_precomputed(folder, "train")
    put(folder / "train_caps.txt", content)
    return read_precomputed(folder, "train")


def tower(name: str) -> Callable[[bytes, Path], Any]:
    def act(content: bytes, folder: Path) -> Any:
        from transformers import BertConfig, BertModel

        small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
        (folder / "config.json").write_text(small.to_json_string())
        put(folder / name, content)
        return _weights(BertModel(small), folder, "weights.text")

    return act


def piece(content: bytes, folder: Path) -> Any:
    put(folder / "texts.npy", content)
    return list(ResumableChunks(folder, ["texts.npy"], Solo()).read())


def at(name: str, read: Read) -> Callable[[bytes, Path], Any]:
    """A file of this name, read so."""
    return lambda content, folder: read(put(folder / name, content))


def convert(path: Path) -> Any:
    return convert_ckpt.main([str(path), "--to", "house", "--matcher", "uniter", "--output", f"{path}.safetensors"])


PLACES: dict[str, Callable[[bytes, Path], Any]] = {
    "checkpoint .pt": at("model.pt", read_weights),
    "checkpoint .pth.tar": at("best.pth.tar", read_weights),
    "checkpoint .safetensors": at("model.safetensors", read_weights),
    "checkpoint folder": at("model.safetensors", lambda path: read_weights(path.parent)),
    "published vsrn": at("best.pth.tar", read_published),
    "published laps": at("best.pth", lambda path: read_published(path, "laps")),
    "converted": at("model.pt", convert),
    "state of a run": at("state.pt", lambda path: read_state(path.parent)),
    "tower .bin": tower("pytorch_model.bin"),
    "tower .safetensors": tower("model.safetensors"),
    "vocabulary .pkl": at("vocab.pkl", Vocabulary.load),
    "vocabulary .json": at("vocab.json", Vocabulary.load),
    "vocabulary .txt": at("vocab.txt", WordPiece),
    "extractor's npz": at("a.npz", read_npz),
    "whitener": at("whitener.npz", Whitener.load),
    "precomputed array": precomputed,
    "precomputed captions": precaps,
    "candidates": lists("i2t_toy.npy"),
    "manifest": lists("manifest.json"),
    "score matrix": kept("matrix.npy"),
    "names of scores": kept("ids.json"),
    "score piece": piece,
    "embeddings": at("img_embs.npy", open_embeddings),
    "more true pairs": at("pairs.tsv", lambda path: extra_pairs(path, open_index(write_stores(path.parent, images=3)))),
    "marks of a mining job": marks,
    "state of a mining job": at("state.safetensors", load_tensors),
    "rows of a mining job": at("rows.safetensors", lambda path: load_some(path, ["a"])),
    "record of regions, published": lambda content, _: decode_published(content)["features"],
    "record of regions, compressed": lambda content, _: decode_npz(content)["features"],
    "record of a caption": lambda content, _: decode_text(content),
    "record of a picture": lambda content, _: decode_picture(content),
    "picture": lambda content, _: decode(content),
    "list of names": lambda content, folder: stored_names(record(content, folder)),
    "description of texts": in_a_store("meta.json", TextStore),
    "lengths": in_a_store("id2len.json", TextStore),
    "owners": in_a_store("txt2img.json", TextStore),
    "images": in_a_store("img2txts.json", TextStore),
    "region counts": in_a_store("nbb_th0.2_max8_min2.json", lambda folder: ImageStore(folder, RULE).counts(["a"])),
    "config": at("run.json", lambda path: load(path, {}, KINDS)),
    "results": at("results.json", lambda path: read_json(path, "evaluate again")),
}
FOR_TOWERS = ("pickle-Command-2", "torch", "old torch", "npz", "zip")
HARMLESS = {
    "unfinished list": at("i2t.npy", lambda path: fits(path, (1,), np.dtype(np.int32))),
    "captions": at("captions.txt", read_lines),
    "a run's events": at("metrics.jsonl", lambda path: open_outcome(path.parent)),
}
"""Where such a file is no error: it is as good as absent, or what it says is taken for text."""


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """What no payload may make; each would, if it were let."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "a payload has run"


def unpickled_blindly(content: bytes) -> None:
    """What readers do that trust a file, one after the other."""
    for name in ("vocab", "__main__"):
        module = sys.modules.setdefault(name, ModuleType(name))
        module.Vocabulary = type("Vocabulary", (), {})  # type: ignore[attr-defined]
    for way in (
        lambda file: (pickle.load(file), pickle.load(file)),
        lambda file: torch.load(file, weights_only=False),
        lambda file: np.load(file, allow_pickle=True)["features"],
        lambda file: np.load(file, allow_pickle=True),
        lambda file: pickle.loads(zipfile.ZipFile(file).read("features.npy")),
    ):
        with suppress(Exception):
            way(io.BytesIO(content))


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_payload_would_run(name: str, tmp_path: Path) -> None:
    """Else nothing here could fail."""
    canary = tmp_path / "canary"
    content = PAYLOADS[name](canary)
    survives(lambda: unpickled_blindly(content), tmp_path / "failed")
    assert canary.exists()


@pytest.mark.parametrize("place", [*PLACES, *HARMLESS])
def test_nothing_runs_and_one_line_tells(place: str, canary: Path, tmp_path: Path) -> None:
    for number, (name, make) in enumerate(PAYLOADS.items()):
        if place.startswith("tower") and name not in FOR_TOWERS:
            continue  # each is read by a large library, and slowly
        folder = tmp_path / str(number)
        folder.mkdir()
        content = make(canary)
        def read(content: bytes = content, folder: Path = folder) -> None:
            (PLACES | HARMLESS)[place](content, folder)

        try:
            found = outcome(read, None)
        except Exception as error:
            error.add_note(f"{place}: {name}")
            raise
        assert found == REFUSED or place in HARMLESS, f"{place}: {name} was taken for good"
        assert not canary.exists(), f"{place}: {name} has run"


@pytest.mark.slow
@pytest.mark.parametrize(("program", "name", "flags"), [
    ("train/itm_hn.py", "evil.pt", ("--checkpoint", "FILE")),
    ("train/evaluate.py", "model.safetensors", ("--which", "FILE")),
    ("train/evaluate.py", "matrix.npy", ("--scores", "FOLDER")),
    ("train/mine.py", "img_embs.npy", ("--embeddings", "FOLDER", "--captions_per_image", "2")),
])
def test_a_program_refuses_in_one_line(program: str, name: str, flags: tuple[str, ...], canary: Path,
                                       stores: tuple[Path, Path], tmp_path: Path) -> None:
    evil = put(tmp_path / "given" / name, PAYLOADS["npy" if name.endswith("npy") else "torch"](canary))
    np.save(evil.with_name("cap_embs.npy"), np.zeros((4, 2)))
    config = write_config(tmp_path / "c.json", config_of(stores))
    told = [{"FILE": evil, "FOLDER": evil.parent}.get(flag, flag) for flag in flags]
    done = warm.run(program, "--config", config, "--output_dir", tmp_path / "out", *told)
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(evil.parent) in done.stderr
