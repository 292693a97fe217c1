"""The registry of systems and objectives: each is found by the name of its file."""

from __future__ import annotations

import importlib
from inspect import isabstract
from typing import TypeVar

from config.errors import ConfigError

Base = TypeVar("Base")


def find_class(package: str, name: str, base: type[Base]) -> type[Base]:
    """The subclass of `base` that the module `package.name` defines.

    Raises:
        ConfigError: no such module, or it defines none.
    """
    path = f"{package}.{name}"
    file = f"{package.replace('.', '/')}/{name}.py"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not path.startswith(error.name or path):
            raise  # the file is there; what it imports is not
        raise ConfigError(f"there is no {base.__name__} {name!r}; {file} does not exist") from error
    for item in vars(module).values():
        own = isinstance(item, type) and issubclass(item, base) and item.__module__ == module.__name__
        if own and not isabstract(item):
            return item
    raise ConfigError(f"{file} holds no {base.__name__}")
