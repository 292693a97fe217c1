"""Pickles of one plain object, read as data by a small interpreter without any call instruction.

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
        admitted: the name of the object's class, whatever its module is called: a script's classes are of __main__,
            others' of where they lay when they were pickled. The module is never looked for.

    Raises:
        DataError: the pickle is damaged, or holds or asks for anything else; names the file and what it asks for.
    """
    machine = _Machine(admitted)
    try:
        for instruction, argument, _ in pickletools.genops(content):
            machine.step(instruction.name, argument)
        (found,) = machine.stack
    except _Refused as error:
        raise DataError(f"{path} {error}; only a plain {admitted} is read: give the json form") from error
    except MALFORMED as error:
        raise DataError(f"{path} is not a pickle of a {admitted} ({error}); copy it again") from error
    if not isinstance(found, _Object):
        raise DataError(f"{path} holds no {admitted}, but {type(found).__name__}; check the path")
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
            state, built = pop(), self.stack[-1]
            if not (isinstance(state, dict) and isinstance(built, _Object)):
                raise _Refused("gives something else than a table of attributes to an object")
            built.update(state)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _Refused(f"uses the instruction {name}")

    def _group(self) -> list[Any]:
        """What was pushed since the last mark."""
        values: list[Any] = []
        while not isinstance(value := self.stack.pop(), _Mark):
            values.append(value)
        return values[::-1]

    def _name(self, name: str) -> _Name:
        if not (name in (*MAKER, *BASE) or self._is_admitted(name)):
            raise _Refused(f"asks for {name.replace(' ', '.')}")
        return _Name(name)

    def _is_admitted(self, name: Any) -> bool:
        """Whether a value is the admitted class, named as module and name: `__main__ Vocabulary`, say."""
        return isinstance(name, str) and name.rpartition(" ")[2] == self.admitted

    def _object(self, arguments: Any, maker: Any) -> _Object:
        """An empty object where one of the admitted class is asked for, in either way."""
        made = (maker, *arguments)
        directly = len(made) == 1 and self._is_admitted(maker)
        by_maker = len(made) == 4 and maker in MAKER and self._is_admitted(made[1]) and made[2] in BASE
        if not (isinstance(maker, _Name) and (directly or (by_maker and made[3] is None))):
            raise _Refused("makes an object in another way")
        return _Object()


def _paired(items: list[Any]) -> dict[Any, Any]:
    """A table; keys are words or numbers, for the hash of a tuple of tuples may take for ever."""
    keys = items[::2]
    if not all(isinstance(key, str | int) for key in keys):
        raise TypeError("a key is neither text nor a whole number")
    return dict(zip(keys, items[1::2], strict=True))
