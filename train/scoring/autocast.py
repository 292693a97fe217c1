"""The type of a context for a forward pass, made anew for each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Autocast = Callable[[], AbstractContextManager[object]]
