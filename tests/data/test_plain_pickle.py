"""Pickles are read without running anything: every protocol, Python 2's byte strings, and nothing else."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import DataError
from data.plain_pickle import read_plain_pickle

PATH = Path("vocab.pkl")
CONTENT = {"word2idx": {"<pad>": 0, "café": 1, "x" * 300: 70000}, "idx2word": {0: "<pad>", 1: "café"}, "idx": 2**40}


def read(content: bytes) -> dict[str, Any]:
    return read_plain_pickle(PATH, content, "Vocabulary")


@pytest.fixture(scope="module", params=["vocab", "__main__", "tools"])
def kind(request: pytest.FixtureRequest) -> Iterator[type]:
    """A class that can be pickled as Vocabulary of some module; the module is another when anything is read."""
    module = ModuleType(request.param)
    module.Vocabulary = type("Vocabulary", (), {"__module__": request.param})  # type: ignore[attr-defined]
    before = sys.modules.get(request.param)
    sys.modules[request.param] = module
    yield module.Vocabulary
    if before is None:
        del sys.modules[request.param]
    else:
        sys.modules[request.param] = before


def dumped(kind: type, protocol: int, **content: Any) -> bytes:
    thing = kind()
    vars(thing).update(content)
    return pickle.dumps(thing, protocol)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(kind: type, protocol: int) -> None:
    assert read(dumped(kind, protocol, **CONTENT)) == CONTENT


HEAD = b"\x80\x02cvocab\nVocabulary\n)\x81}"


def test_byte_strings_of_python_2_are_text() -> None:
    short, long, quoted = b"U\x05caf\xc3\xa9", b"T\x05\x00\x00\x00caf\xc3\xa9", b"S'cafe'\n"
    assert read(HEAD + b"(" + short + b"K\x01U\x03dogK\x02ub.") == {"café": 1, "dog": 2}
    assert read(HEAD + b"(" + long + b"K\x01ub.") == {"café": 1}
    assert read(HEAD + b"(" + quoted + b"I1\nub.") == {"cafe": 1}


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not run",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_calls_are_refused_and_never_made(kind: type, protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (pickle.dumps(Evil(), protocol), dumped(kind, protocol, word2idx=Evil())):
        with pytest.raises(DataError, match=r"asks for (builtins|__builtin__)\.print; only a plain Vocabulary is"):
            read(content)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", r"asks for os\.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"asks for os\.system"),
        (b"(S'true'\nios\nsystem\n.", "uses the instruction INST"),
        (b"(cvocab\nVocabulary\no.", "uses the instruction OBJ"),
        (b"\x80\x02cvocab\nVocabulary\nU\x01a\x85\x81.", "makes an object in another way"),
        (b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.", "makes an object in another"),
        (b"\x80\x02c__main__\nVocab\n)\x81.", r"asks for __main__\.Vocab;"),
        (b"\x80\x02c__main__\nA.Vocabulary\n)\x81.", r"asks for __main__\.A\.Vocabulary"),
        (b"\x80\x02cVocabulary\nsystem\n)\x81.", r"asks for Vocabulary\.system"),
        (b"\x80\x02c__main__\nVocabulary\n(U\x02idtR.", "makes an object in another way"),
        (b"\x80\x02c__main__\nVocabulary\nc__main__\nVocabulary\n\x85\x81.", "makes an object in another way"),
        (b"ccopy_reg\n_reconstructor\n(S'a Vocabulary'\nc__main__\nVocabulary\nNtR.", "makes an object in another"),
        (HEAD + b"(U\x02abtb.", "something else than a table of attributes"),
        (b"\x80\x02}}b.", "something else than a table of attributes"),
        (HEAD + b")K\x01sb.", "is not a pickle"),
        (b"\x80\x02]q\x00.", "uses the instruction EMPTY_LIST"),
        (b"\x82\x01.", "uses the instruction EXT1"),
        (b"Pthere\n.", "uses the instruction PERSID"),
        (b"\x80\x02}.", "holds no Vocabulary, but dict"),
        (b"cvocab\nVocabulary\n.", "holds no Vocabulary, but _Name"),
        (b"", "is not a pickle"),
        (b"{}", "is not a pickle"),
        (b"\x80\x02}}.", "is not a pickle"),
        (HEAD + b"}K\x01sb.", "is not a pickle"),
        (HEAD + b"(K\x01ub.", "is not a pickle"),
        (HEAD + b"U\x01\xffK\x01sb.", "is not a pickle"),
        (HEAD + b"h\x09b.", "is not a pickle"),
    ],
)
def test_other_content_is_refused_in_one_line(content: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told) as error:
        read(content)
    assert str(error.value).startswith("vocab.pkl ")
    assert "\n" not in str(error.value)


def test_tables_of_nested_tuples_end_at_once() -> None:
    """Each tuple holds the one before twice: hashing the last would take 2^99 steps."""
    bomb = b")q\x00" + b"".join(b"h%c\x86q%c" % (n, n + 1) for n in range(99))
    with pytest.raises(DataError, match="a key is neither text nor a whole number"):
        read(HEAD + bomb + b"K\x01sb.")


@given(st.data())
def test_damage_raises_nothing_else(data: st.DataObject) -> None:
    content = bytearray(HEAD + b"q\x01(X\x03\x00\x00\x00dogq\x02K\x01h\x02M\x00\x01ub.")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except DataError:
        return
    assert isinstance(found, dict)
