"""Pickles of one plain object, read as data by a small machine that has no instruction to call anything.

Python's own reader runs what a file asks for and has to be restrained. This one reads protocols 0 to 5, byte strings of
Python 2 included.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

from config.errors import DataError

INTEGERS = frozenset(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"))
TEXTS = frozenset(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"))
BYTE_STRINGS = frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING"))
PUT, GET = (frozenset((name, f"BIN{name}", f"LONG_BIN{name}")) for name in ("PUT", "GET"))
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# How protocols 0 and 1 write an object: these names stand for no more than that.
MAKER, BASE = ("copy_reg _reconstructor", "copyreg _reconstructor"), ("__builtin__ object", "builtins object")
MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


class _Name(str):
    """A class or function that a pickle names; it stays a name."""


class _Object(dict[str, Any]):
    """The attributes of an object of the admitted class."""


class _Mark:
    """Where a group of values on the stack begins."""


def read_plain_pickle(path: Path, content: bytes, admitted: str) -> dict[str, Any]:
    """The attributes of the one object that a pickle holds, made of dicts, strings and integers.

    Args:
        admitted: the object's class as module and name, such as "vocab Vocabulary"; need not be importable.

    Raises:
        DataError: the pickle is damaged, or holds or asks for anything else; names the file and what it asks for.
    """
    machine = _Machine(admitted)
    what = admitted.replace(" ", ".")
    try:
        for instruction, argument, _ in pickletools.genops(content):
            machine.step(instruction.name, argument)
        (found,) = machine.stack
    except _Refused as error:
        raise DataError(f"{path} {error}; only plain {what} is read: give the json form") from error
    except MALFORMED as error:
        raise DataError(f"{path} is not a pickle of {what} ({error}); copy it again") from error
    if not isinstance(found, _Object):
        raise DataError(f"{path} holds no {what}, but {type(found).__name__}; check the path")
    return dict(found)


class _Refused(Exception):
    """An instruction or a name that plain data has no need of."""


class _Machine:
    """The stack and the memo of a pickle that is being read."""

    def __init__(self, admitted: str) -> None:
        self.admitted = admitted
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        push, pop = self.stack.append, self.stack.pop
        if name == "NONE" or name in INTEGERS | TEXTS:
            push(argument)
        elif name in BYTE_STRINGS:
            push(argument.encode("latin-1").decode("utf-8"))
        elif name in PUT or name == "MEMOIZE":
            self.memo[len(self.memo) if argument is None else int(argument)] = self.stack[-1]
        elif name in GET:
            push(self.memo[int(argument)])
        elif name in TUPLES:
            values = [pop() for _ in range(TUPLES[name])]
            push(tuple(reversed(values)))
        elif name == "TUPLE":
            push(tuple(self._group()))
        elif name == "MARK":
            push(_Mark())
        elif name == "EMPTY_DICT":
            push({})
        elif name == "DICT":
            push(_paired(self._group()))
        elif name in ("SETITEM", "SETITEMS"):
            items = self._group() if name == "SETITEMS" else [pop(), pop()][::-1]
            self.stack[-1].update(_paired(items))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            push(self._name(argument if name == "GLOBAL" else " ".join([pop(), pop()][::-1])))
        elif name in ("NEWOBJ", "REDUCE"):
            push(self._object(pop(), pop()))
        elif name == "BUILD":
            state = pop()
            self.stack[-1].update(state)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _Refused(f"uses the instruction {name}")

    def _group(self) -> list[Any]:
        """What was pushed since the last mark."""
        values: list[Any] = []
        while not isinstance(value := self.stack.pop(), _Mark):
            values.append(value)
        return values[::-1]

    def _name(self, name: str) -> _Name:
        if name not in (self.admitted, *MAKER, *BASE):
            raise _Refused(f"asks for {name.replace(' ', '.')}")
        return _Name(name)

    def _object(self, arguments: Any, maker: Any) -> _Object:
        """An empty object where one of the admitted class is asked for, in either way."""
        made = (maker, *arguments)
        by_maker = len(made) == 4 and maker in MAKER and made[1] == self.admitted and made[2] in BASE
        if not (isinstance(maker, _Name) and (made == (self.admitted,) or (by_maker and made[3] is None))):
            raise _Refused("makes an object in another way")
        return _Object()


def _paired(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))
